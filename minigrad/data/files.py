"""Arrays from files: .npy and .npz, mapped where they can be, and tables in CSV."""

from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike

from minigrad.data.download import DataError
from minigrad.errors import describe, message

if TYPE_CHECKING:
    import zipfile

__all__ = ["Table", "load_arrays", "load_csv"]

Array = np.ndarray[Any, Any]

_LOCAL_HEADER = 30  # bytes before the name of a member of a zip file
_HEADERS: Any = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Table(NamedTuple):
    """What `load_csv` returns.

    Parameters
    ----------
    features : numpy.ndarray
        (rows, columns), the numbers.
    targets : numpy.ndarray or None
        (rows,), the column that was named as target: numbers, or the index of each word in ``classes``.
    names : list of str
        The columns of ``features``.
    classes : list of str
        The words of a target that is no number, sorted.
    """

    features: Array
    targets: Array | None
    names: list[str]
    classes: list[str]


def load_csv(
    path: str | os.PathLike[str],
    *,
    target: str | int | None = None,
    dtype: DTypeLike = np.float32,
    delimiter: str = ",",
    header: bool = True,
    missing: float | None = None,
) -> Table:
    r"""Load a table of numbers, of which one column may be the target.

    Parameters
    ----------
    path : path-like
        A text in UTF-8, with fields quoted as spreadsheets do. Empty lines are passed over.
    target : str or int, optional
        The name or the index of the target's column. Whole numbers become int64, others ``dtype`` (float64 beside
        integer features); where one is no number all are words, and become indices.
    dtype : dtype, optional
        Of the features; float32 by default.
    delimiter : str, optional
        Between fields.
    header : bool, optional
        Whether the first line has names; otherwise the columns are called by their indices.
    missing : float, optional
        What an empty field stands for, ``nan`` for instance; without it an empty field is an error.

    Returns
    -------
    Table

    Raises
    ------
    DataError
        The file is missing or damaged; the text names line and column.

    Examples
    --------
    >>> import os, tempfile
    >>> from minigrad import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "flowers.csv")
    ...     with open(path, "w") as file:
    ...         _ = file.write("length,width,species\n5.5,3.5,rose\n4.75,3,lily\n")
    ...     table = data.load_csv(path, target="species")
    >>> table.features.tolist(), table.targets.tolist(), table.classes
    ([[5.5, 3.5], [4.75, 3.0]], [1, 0], ['lily', 'rose'])
    """
    names, rows, lines = read_rows(path, delimiter, header)
    place = Place(os.fspath(path), names, lines)
    columns = list(zip(*rows))
    chosen = None if target is None else place.find(target)
    kept = [k for k in range(len(names)) if k != chosen]
    kind = np.dtype(dtype)
    features = np.empty((len(rows), len(kept)), kind)
    for k, column in enumerate(kept):
        features[:, k] = numbers(columns[column], kind, missing, place, column)
    left = [names[k] for k in kept]
    if chosen is None:
        return Table(features, None, left, [])
    labels, classes = targets(columns[chosen], kind, place, chosen)
    return Table(features, labels, left, classes)


class Place(NamedTuple):
    """Where fields stand, for the text of errors: the file, the names of its columns, the line of each row."""

    file: str
    names: list[str]
    lines: list[int]

    def say(self, row: int, column: int) -> str:
        """The place of a field."""
        return f"{self.file}, line {self.lines[row]}, column {self.names[column]!r}"

    def find(self, target: str | int) -> int:
        """The index of a column."""
        if isinstance(target, str):
            if self.names.count(target) == 1:
                return self.names.index(target)
        elif -len(self.names) <= target < len(self.names):
            return target % len(self.names)
        need = f"the name or index of one of the columns of {self.file}: {', '.join(self.names[:20])}"
        raise ValueError(message("load_csv", "target", describe(target), need))


def read_rows(
    path: str | os.PathLike[str], delimiter: str, header: bool
) -> tuple[list[str], list[list[str]], list[int]]:
    """The names of the columns, the fields of every row, and the line on which each row ends."""
    where = os.fspath(path)
    names: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                for row in reader:
                    if not row:
                        continue
                    if not names:
                        names = [name.strip() for name in row] if header else [str(k) for k in range(len(row))]
                        if header:
                            continue
                    if len(row) != len(names):
                        raise DataError(f"{where}, line {reader.line_num}: has {len(row)} fields, needs {len(names)}")
                    rows.append(row)
                    lines.append(reader.line_num)
            except csv.Error as error:
                raise DataError(f"{where}, line {reader.line_num}: {error}") from error
    except DataError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    if not rows:
        raise DataError(f"{where}: has no rows")
    return names, rows, lines


def numbers(fields: tuple[str, ...], dtype: np.dtype[Any], missing: float | None, place: Place, column: int) -> Array:
    """A column as numbers."""
    if missing is not None:
        fields = tuple([field if field.strip() else repr(missing) for field in fields])
    try:
        return parse(fields, dtype)
    except (ValueError, ArithmeticError):
        pass
    for row, field in enumerate(fields):
        try:
            parse(field, dtype)
        except (ValueError, ArithmeticError):
            got = repr(field) if field.strip() else "an empty field"
            hint = "" if field.strip() else "; missing= gives it a value"
            raise DataError(f"{place.say(row, column)}: is {got}, needs a number of {dtype}{hint}") from None
    raise AssertionError("a column is no numbers, and each of its fields is one")


def parse(fields: Any, dtype: np.dtype[Any]) -> Array:
    """Text as numbers; what is not an integer dtype goes through float64, as not every dtype reads text."""
    text = np.array(fields)
    with np.errstate(over="raise"):
        return text.astype(dtype) if dtype.kind in "iu" else text.astype(np.float64).astype(dtype)


def targets(fields: tuple[str, ...], dtype: np.dtype[Any], place: Place, column: int) -> tuple[Array, list[str]]:
    """A column as targets, and the words that they stand for."""
    words = np.array([field.strip() for field in fields])
    if not words.all():
        raise DataError(f"{place.say(int(np.argmin(words != '')), column)}: is an empty field, needs a target")
    for kind in (np.dtype(np.int64), np.dtype(np.float64) if dtype.kind in "iu" else dtype):
        try:
            return parse(words, kind), []
        except (ValueError, ArithmeticError):
            continue
    classes, indices = np.unique(words, return_inverse=True)
    return indices.astype(np.int64), classes.tolist()


def load_arrays(path: str | os.PathLike[str], *, mmap: bool = True) -> Any:
    """Load ``.npy`` or ``.npz``; nothing is ever unpickled.

    Parameters
    ----------
    path : path-like
        What `numpy.save`, `numpy.savez` or `numpy.savez_compressed` wrote.
    mmap : bool, optional
        Map the arrays read-only instead of reading them, so that only what is used comes into memory, and workers of a
        loader share it. Compressed arrays are read.

    Returns
    -------
    numpy.ndarray or dict of str to numpy.ndarray
        The array of a ``.npy``, the arrays of a ``.npz`` by name.

    Raises
    ------
    DataError
        The file is missing or damaged, or an array holds Python objects.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from minigrad import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "set.npz")
    ...     np.savez(path, images=np.zeros((3, 8, 8), np.uint8), labels=np.arange(3))
    ...     arrays = data.load_arrays(path)
    >>> arrays["images"].shape, data.TensorDataset(*arrays.values())[2][1]
    ((3, 8, 8), np.int64(2))
    """
    import zipfile

    where = os.fspath(path)
    try:
        if not zipfile.is_zipfile(path):
            return npy.open_memmap(where, "r") if mmap else np.load(path, allow_pickle=False)
        with zipfile.ZipFile(path) as archive:
            return {
                member.filename.removesuffix(".npy"): load_member(where, archive, member, mmap)
                for member in archive.infolist()
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{where}: {getattr(error, 'strerror', None) or error}") from error


def load_member(where: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, mmap: bool) -> Array:
    """An array of an archive: mapped where its bytes lie in the file as they are."""
    if mmap and member.compress_type == 0:  # stored as it is
        with open(where, "rb") as file:
            file.seek(member.header_offset + _LOCAL_HEADER - 4)
            file.seek(int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little"), os.SEEK_CUR)
            version = npy.read_magic(file)
            if version in _HEADERS:
                shape, fortran, dtype = _HEADERS[version](file)
                if dtype.hasobject:
                    raise ValueError(f"{member.filename}: holds Python objects, needs numbers")
                if file.tell() + dtype.itemsize * int(np.prod(shape)) > os.fstat(file.fileno()).st_size:
                    raise ValueError(f"{member.filename}: is truncated")
                return np.memmap(where, dtype, "r", file.tell(), tuple(shape), "F" if fortran else "C")
    with archive.open(member) as opened:
        return np.asarray(npy.read_array(opened, allow_pickle=False))
