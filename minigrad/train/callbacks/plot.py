"""Plot: the curves of loss and metrics as an image."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minigrad.errors import message
from minigrad.io.files import replacing
from minigrad.train.callbacks.callback import Callback, Logs
from minigrad.train.callbacks.checks import count, needed, writable

__all__ = ["Plot"]

TRAINED, HELD_OUT, GRID = "#2a6fb0", "#d1602a", "#dddddd"
COLUMNS, WIDTH, HEIGHT = 3, 4.2, 3.1  # panels in a row, and the inches of each


class Plot(Callback):
    """Draw the history after every epoch: a panel for each log, with training and validation in it.

    The image is drawn beside its place and renamed, so who looks at it never sees half of one. It needs matplotlib, and
    no screen. Whatever is drawn comes from the trainer's history; a resumed run draws all of it.

    Parameters
    ----------
    path : path
        The image; its ending says what kind (``.png``, ``.svg``, ``.pdf``).
    logs : sequence of str, optional
        Which logs, without ``"val_"``. By default all that are numbers, the loss first; ``"lr"`` last.
    log_scale : bool or sequence of str
        Logs whose axis is logarithmic; True: the loss and the learning rate.
    every : int
        After how many epochs to draw; the last one of a run is always drawn.
    dpi : int
        Dots an inch.

    Raises
    ------
    ImportError
        If matplotlib is missing.

    Examples
    --------
    >>> import os, tempfile
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> x, y = mg.random.normal((8, 2)), mg.zeros((8,), dtype=mg.int64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot = train.Plot(os.path.join(folder, "history.png"), log_scale=True)
    ...     _ = train.Trainer(nn.Dense(2), metrics=[], callbacks=[plot]).fit((x, y), epochs=2, verbose=0)
    ...     os.listdir(folder)
    ['history.png']
    """

    rank_0 = True
    last = True  # early stopping first, whose best epoch is marked and after which the last picture is drawn

    def __init__(
        self,
        path: str | os.PathLike[str],
        logs: Sequence[str] | None = None,
        *,
        log_scale: bool | Sequence[str] = False,
        every: int = 1,
        dpi: int = 120,
    ) -> None:
        try:
            self.path = Path(path)
        except TypeError:
            raise TypeError(message("Plot", "path", path, "a str or a path")) from None
        if isinstance(logs, str):
            logs = [logs]
        self.logs = None if logs is None else list(logs)
        self.log_scale = ["loss", "lr"] if log_scale is True else list(log_scale or ())
        self.every, self.dpi = count("Plot", "every", every, 1), count("Plot", "dpi", dpi, 1)
        canvas = needed("Plot", "matplotlib.backends.backend_agg", "plot").FigureCanvasAgg
        self.format = self.path.suffix[1:].lower() or "png"
        kinds = canvas.get_supported_filetypes()
        if self.format not in kinds:
            raise ValueError(message("Plot", "path", f"{self.path.name!r}", f"an ending of {', '.join(sorted(kinds))}"))

    def on_train_begin(self, logs: Logs) -> None:
        writable("Plot", "path", self.path.parent)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        ends = self.trainer.stop_training or epoch + 1 == self.trainer.epochs
        if ends or (epoch + 1) % self.every == 0:
            self.draw(self.trainer.history, self._best())

    def _best(self) -> int | None:
        """The epoch whose weights an early stopping would go back to."""
        from minigrad.train.callbacks.early_stopping import EarlyStopping

        found = [c for c in self.trainer.callbacks if isinstance(c, EarlyStopping) and c.best is not None]
        return found[0].best_epoch if found else None

    def draw(self, history: Mapping[str, Sequence[Any]], best: int | None = None) -> None:
        """Draw a history; `best` is an epoch to mark."""
        figure_module = needed("Plot", "matplotlib.figure", "plot")
        ticker = needed("Plot", "matplotlib.ticker", "plot")
        panels = self._panels(history)
        if not panels:
            return
        columns = min(len(panels), COLUMNS)
        lines = math.ceil(len(panels) / columns)
        width, height = WIDTH * columns, HEIGHT * lines
        figure = figure_module.Figure(figsize=(width, height), dpi=self.dpi)
        # margins in inches: a layout that is worked out draws everything twice
        figure.subplots_adjust(
            left=0.62 / width,
            right=1 - 0.15 / width,
            top=1 - 0.35 / height,
            bottom=0.5 / height,
            wspace=0.75 / (WIDTH - 0.75),
            hspace=0.85 / (HEIGHT - 0.85),
        )
        for number, name in enumerate(panels):
            axes = figure.add_subplot(lines, columns, number + 1)
            self._draw_panel(axes, ticker, name, history, best)
            if not number and axes.get_legend_handles_labels()[1][1:]:
                axes.legend(frameon=False, fontsize=8)  # one for all panels
        with replacing(self.path) as temporary:
            figure.savefig(temporary, format=self.format)

    def _panels(self, history: Mapping[str, Sequence[Any]]) -> list[str]:
        found = list(dict.fromkeys(name.removeprefix("val_") for name, values in history.items() if _numbers(values)))
        if self.logs is not None:
            missing = [name for name in self.logs if name not in found]
            if missing:
                need = f"one of {', '.join(found)}"
                raise ValueError(message("Plot", "logs", f"{missing[0]!r} among others", need))
            return self.logs
        order = {"loss": 0, "grad_norm": 2, "skipped": 3, "lr": 4}
        return sorted(found, key=lambda name: order.get(name, 1))

    def _draw_panel(
        self, axes: Any, ticker: Any, name: str, history: Mapping[str, Sequence[Any]], best: int | None
    ) -> None:
        curves = [(name, "training", TRAINED), (f"val_{name}", "validation", HELD_OUT)]
        shown = [([float(v) for v in history[key]], label, color) for key, label, color in curves if key in history]
        last = max(len(values) for values, *_ in shown)
        for values, label, color in shown:
            epochs = range(last - len(values) + 1, last + 1)
            marker = "o" if last <= 30 else None
            axes.plot(epochs, values, color=color, label=label, linewidth=1.6, marker=marker, markersize=3.5)
        if best is not None and best < last:
            axes.axvline(best + 1, color="#666666", linewidth=1, linestyle="--", label=f"best: epoch {best + 1}")
        finite = [value for values, *_ in shown for value in values if math.isfinite(value)]
        if name in self.log_scale and finite and min(finite) > 0:
            axes.set_yscale("log")
            subs = (1, 2, 5) if max(finite) < 100 * min(finite) else (1,)
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
            axes.yaxis.set_minor_locator(ticker.NullLocator())
            axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        pad = max(0.03 * (last - 1), 0.2)
        axes.set_xlim(1 - pad, last + pad)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        axes.set_title(name, loc="left", fontsize=11)
        axes.set_xlabel("epoch", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _numbers(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, (int, float)) for value in values)
