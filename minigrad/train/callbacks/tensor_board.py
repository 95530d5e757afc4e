"""TensorBoard: the run as event files, for TensorBoard to show."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad import optim
from minigrad.backend.rows import RowSparse
from minigrad.errors import message
from minigrad.train.callbacks.callback import Callback, Logs
from minigrad.train.callbacks.checks import count, needed
from minigrad.train.callbacks.model_graph import trace
from minigrad.train.metrics.arrays import host

if TYPE_CHECKING:
    from minigrad.train.trainer import Trainer

__all__ = ["TensorBoard"]

PROTOS = ("attr_value", "graph", "tensor_shape", "versions")
LAYOUTS = {2: "HW", 3: "CHW", 4: "NCHW"}


class TensorBoard(Callback):
    """Write what TensorBoard shows: ``pip install 'minigrad[log]'``, then ``tensorboard --logdir runs``.

    Under ``step/``, against the steps of the optimizer, are the loss of the step alone, the learning rate, and the norm
    of the whole gradient before clipping. Under ``epoch/`` are the logs at the end of every epoch, under ``weights/``
    and ``gradients/`` their histograms, the gradients being those of the last step, after clipping. A table of the
    model's layers is among the texts.

    Events are on their way to the disk whenever the run is saved. A resumed run writes another file, which tells
    TensorBoard to forget the steps after the checkpoint.

    Parameters
    ----------
    folder : path
        Of this run; TensorBoard compares the folders inside of its ``--logdir``.
    every : int
        After how many steps to write the curves under ``step/``; 0: never.
    histograms : int
        After how many epochs to write histograms; 0: never.
    samples : callable, optional
        ``samples(trainer) -> {name: text or image}``, called after every epoch. An image is an array (height, width),
        (channels, height, width) or, for several side by side, (n, channels, height, width): floats from 0 to 1 or
        uint8. It needs Pillow.
    graph : bool
        Whether to show the graph of the model's ops, each in its layer; it takes one more forward pass, in evaluation
        mode.

    Raises
    ------
    ImportError
        If tensorboardX is missing.

    Examples
    --------
    A callback for a run; `samples` writes an image of the first layer's weights.

    >>> from minigrad.train.callbacks import TensorBoard
    >>> def samples(trainer):
    ...     return {"first layer": trainer.model[0].weight.detach().numpy()}
    >>> callback = TensorBoard("runs/first", samples=samples)  # doctest: +SKIP
    """

    rank_0 = True

    def __init__(
        self,
        folder: str | os.PathLike[str] = "runs",
        *,
        every: int = 1,
        histograms: int = 1,
        samples: Callable[[Trainer], Mapping[str, Any]] | None = None,
        graph: bool = False,
    ) -> None:
        who = "TensorBoard"
        try:
            self.folder = Path(folder)
        except TypeError:
            raise TypeError(message(who, "folder", folder, "a str or a path")) from None
        if samples is not None and not callable(samples):
            raise TypeError(message(who, "samples", samples, "a function of the trainer"))
        self.every, self.histograms = count(who, "every", every), count(who, "histograms", histograms)
        self.samples, self.graph = samples, bool(graph)
        self._summary = needed(who, "tensorboardX.summary", "log")
        self._events = needed(who, "tensorboardX.proto.event_pb2", "log")
        self._file: Any = None
        self._described = False  # whether the texts have the table of layers
        self._first = 1  # the first step of this run, or of what is left of it
        self._before: tuple[float, float, float, int] = (0.0, 0.0, 0.0, 0)

    # --- what the trainer calls -------------------------------------------------------------------------------------

    def on_train_begin(self, logs: Logs) -> None:
        self._first = self.trainer.step + 1

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        sums = self.trainer.sums
        self._before = (sums.loss, sums.weight, sums.norms, sums.normed)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        t = self.trainer
        if not self.every or t.step % self.every:
            return
        loss, weight, norms, normed = self._before
        if t.sums.weight > weight:
            self._scalar("step/loss", (t.sums.loss - loss) / (t.sums.weight - weight))
        self._scalar("step/lr", logs["lr"])
        clipped = t.sums.normed > normed
        norm = (t.sums.norms - norms) / (t.sums.normed - normed) if clipped else optim.grad_norm(t.trained())
        self._scalar("step/grad_norm", float(norm))

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        for name, value in logs.items():
            if isinstance(value, (int, float)):
                self._scalar(f"epoch/{name}", value)
        if self.histograms and (epoch + 1) % self.histograms == 0:
            for name, p in self.trainer.model.named_parameters():
                path = name.replace(".", "/")
                self._histogram(f"weights/{path}", p.detach())
                if p.grad is not None:
                    array = p.grad._array
                    self._histogram(f"gradients/{path}", array.values if isinstance(array, RowSparse) else p.grad)
        if self.samples is not None:
            self._samples(self.samples(self.trainer))
        self._flush()

    def on_train_end(self, logs: Logs) -> None:
        self._close()

    def on_interrupt(self, logs: Logs) -> None:
        self._close()

    def on_nonfinite(self, error: FloatingPointError, logs: Logs) -> None:
        self._text("error", str(error))
        self._close()

    def state_dict(self) -> dict[str, Any]:
        self._flush()  # a run that goes on from here does not write these events again
        return {}

    # --- events -----------------------------------------------------------------------------------------------------

    def _samples(self, samples: Mapping[str, Any]) -> None:
        if not isinstance(samples, Mapping):
            raise TypeError(message("TensorBoard", "what samples gives", samples, "a dict of texts and images"))
        for name, value in samples.items():
            if isinstance(value, str):
                self._text(f"samples/{name}", value)
                continue
            image = host("TensorBoard", f"the sample {name!r}", value)
            if image.ndim not in LAYOUTS:
                need = "a text, or an image (height, width), (channels, height, width) or (n, channels, height, width)"
                raise ValueError(message("TensorBoard", f"the sample {name!r}", image, need))
            needed("TensorBoard", "PIL", "data")
            self._write(self._summary.image(f"samples/{name}", image, dataformats=LAYOUTS[image.ndim]))

    def _scalar(self, tag: str, value: float) -> None:
        self._write(self._summary.scalar(tag, value))

    def _text(self, tag: str, text: str) -> None:
        self._write(self._summary.text(tag, text))

    def _histogram(self, tag: str, values: Any) -> None:
        flat = host("TensorBoard", tag, values).astype(np.float64).ravel()
        finite = flat[np.isfinite(flat)]
        if finite.size:
            self._write(self._summary.histogram(tag, finite, bins=64))

    def _write(self, summary: Any) -> None:
        self._open()
        self._put(self.trainer.step, summary=summary)

    def _put(self, step: int, **parts: Any) -> None:
        self._file.write_event(self._events.Event(step=step, wall_time=time.time(), **parts))

    def _open(self) -> None:
        """Begin a file of this run."""
        if self._file is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        files = needed("TensorBoard", "tensorboardX.event_file_writer", "log")
        # in this process and without a queue, so that a flush leaves nothing behind; a name that no other file has
        self._file = files.EventsWriter(str(self.folder / "events"), f".{os.urandom(4).hex()}")
        self._closing = weakref.finalize(self, self._file.close)  # also of a run that breaks without on_train_end
        # what a run that was killed wrote of these steps counts no more
        self._put(self._first, session_log=self._events.SessionLog(status=self._events.SessionLog.START))
        if not self._described:
            self._described = True
            self._put(self._first, summary=self._summary.text("model", f"<pre>{self.trainer.model.summary()}</pre>"))
            if self.graph:
                self._put(self._first, graph_def=self._graph().SerializeToString())

    def _graph(self) -> Any:
        """The model's graph as TensorFlow writes it."""
        part = {name: needed("TensorBoard", f"tensorboardX.proto.{name}_pb2", "log") for name in PROTOS}
        shape, attribute = part["tensor_shape"].TensorShapeProto, part["attr_value"].AttrValue
        graph = part["graph"].GraphDef(versions=part["versions"].VersionDef(producer=22))
        for node in trace(self.trainer):
            sizes = shape(dim=[shape.Dim(size=size) for size in node.shape])
            shapes = attribute(list=attribute.ListValue(shape=[sizes]))
            graph.node.add(name=node.name, op=node.op, input=node.inputs, attr={"_output_shapes": shapes})
        return graph

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def _close(self) -> None:
        if self._file is not None:
            self._closing()
            self._file = None
