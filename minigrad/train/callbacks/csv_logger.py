"""CSVLogger: the history as a table that other programs read."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.errors import message
from minigrad.io.files import replacing
from minigrad.tensor import Tensor
from minigrad.train.callbacks.callback import Callback, Logs
from minigrad.train.callbacks.checks import writable

__all__ = ["CSVLogger"]

Row = dict[str, str]


class CSVLogger(Callback):
    """Write a row of logs after every epoch: the epoch, from 0, and a column for each log.

    Numbers are written so that they read back as the same. An array, such as a confusion matrix, is a list of JSON. The
    columns stay in their order; a log that comes later gets a column at the right, whose cells before are empty. A
    resumed run goes on in the table: rows of epochs after the checkpoint are cut off, so none is there twice.

    Parameters
    ----------
    path : path
        The file; its folder is made if it is missing.
    append : bool
        Whether a new run goes on behind the rows that the file has, and does not replace them.
    separator : str
        Between two cells, one character.

    Examples
    --------
    >>> import os, tempfile
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> x, y = mg.zeros((4, 2)), mg.zeros((4,), dtype=mg.int64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "history.csv")
    ...     trainer = train.Trainer(nn.Dense(2), "cross_entropy", "sgd", [], lr=0.5, callbacks=[train.CSVLogger(file)])
    ...     _ = trainer.fit((x, y), epochs=2, verbose=0)
    ...     with open(file) as lines:
    ...         print([line.split(",")[0] for line in lines])
    ['epoch', '0', '1']
    """

    rank_0 = True

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False, separator: str = ",") -> None:
        try:
            self.path = Path(path)
        except TypeError:
            raise TypeError(message("CSVLogger", "path", path, "a str or a path")) from None
        if len(separator) != 1:
            raise ValueError(message("CSVLogger", "separator", repr(separator), "one character"))
        self.append, self.separator = bool(append), separator
        self.columns: list[str] = []
        self.rows: int | None = None  # how many of the file's count; None before the first run
        self._whole = False  # whether the file has these rows and no others

    def on_train_begin(self, logs: Logs) -> None:
        if self.rows is None:  # the file is left alone until there is a row: a resumed run gets its state first
            self.columns, found = self._read() if self.append else ([], [])
            self.rows = len(found)
        self._whole = False
        writable("CSVLogger", "path", self.path.parent)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        row = {"epoch": str(epoch)} | {name: _cell(value) for name, value in logs.items()}
        new = [name for name in row if name not in self.columns]
        if new or not self._whole or not self.path.exists():
            self._rewrite(new)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            self._writer(file).writerow(row)
        self.rows = (self.rows or 0) + 1

    def _rewrite(self, new: list[str]) -> None:
        """The file with the rows that count and the new columns, whole or not at all."""
        rows = self._read()[1][: self.rows]
        if len(rows) < (self.rows or 0):
            self.rows = len(rows)  # the file was taken away
        self.columns.extend(new)
        with replacing(self.path) as temporary, open(temporary, "x", newline="", encoding="utf-8") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(rows)
        self._whole = True

    def _writer(self, file: Any) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self.columns, restval="", delimiter=self.separator, lineterminator="\n")

    def _read(self) -> tuple[list[str], list[Row]]:
        """The columns and rows of the file; of a row that was cut short no part."""
        if not self.path.exists():
            return [], []
        text = self.path.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        reader = csv.DictReader(lines, delimiter=self.separator, restval="")
        return list(reader.fieldnames or []), list(reader)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "columns": list(self.columns)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = None if state["rows"] is None else int(state["rows"])
        self.columns = [str(name) for name in state["columns"]]
        self._whole = False


def _cell(value: Any) -> str:
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, Tensor):
        value = value.detach().to("cpu").numpy()
    array = np.asarray(value)
    if array.ndim:
        return json.dumps(array.tolist())
    return repr(array.item())
