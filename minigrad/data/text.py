"""Text: tokens of sequences that differ in length, and windows of a long text for language models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from minigrad.data.dataset import Dataset
from minigrad.data.download import DataError
from minigrad.data.samplers import positive
from minigrad.errors import DTypeError, ShapeError, describe, message

__all__ = ["RaggedDataset", "TextDataset", "tokenize"]

Array = np.ndarray[Any, Any]


def tokenize(texts: Iterable[str], tokenizer: Any) -> list[Array]:
    """Turn texts into their tokens.

    Parameters
    ----------
    texts : iterable of str
        The texts.
    tokenizer : callable or object with ``encode``
        From a text to ids: a function, a tokenizer of `minigrad.models`, or one of the library tokenizers, whose
        ``encode`` returns an object with ``ids``.

    Returns
    -------
    list of numpy.ndarray
        The int64 ids of each text.

    Examples
    --------
    >>> from minigrad import data
    >>> data.tokenize(["ab", "c"], lambda text: [ord(letter) for letter in text])
    [array([97, 98]), array([99])]
    """
    encode = getattr(tokenizer, "encode", tokenizer)
    if not callable(encode):
        need = "a callable, or an object with a method encode"
        raise DTypeError(message("tokenize", "tokenizer", describe(tokenizer), need))
    return [as_ids(encode(text)) for text in texts]


def as_ids(made: Any) -> Array:
    """What a tokenizer returned, as int64."""
    ids = np.asarray(getattr(made, "ids", made))
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise DTypeError(message("tokenize", "the tokenizer's result", ids, "integers along one axis"))
    return ids.astype(np.int64, copy=False)


class RaggedDataset(Dataset):
    """Sequences of different lengths, kept as one array and the places where each begins.

    Parameters
    ----------
    sequences : iterable of array
        They agree in all axes but the first, and in dtype.
    *arrays : array
        What belongs to each sequence, labels for instance, with a row for each.

    Attributes
    ----------
    lengths : numpy.ndarray
        int64, the length of each; what `BucketSampler` asks for.

    Examples
    --------
    >>> import numpy as np
    >>> from minigrad import data
    >>> dataset = data.RaggedDataset([[1, 2, 3], [4], [5, 6]], np.array([0, 1, 1]))
    >>> dataset[1], dataset.lengths
    ((array([4]), np.int64(1)), array([3, 1, 2]))
    >>> batches = data.BucketSampler(dataset.lengths, 2, shuffle=False)
    >>> loader = data.DataLoader(dataset, batch_sampler=batches, collate=data.pad_collate())
    >>> (tokens, lengths), labels = next(iter(loader))
    >>> tokens.tolist(), lengths.tolist(), labels.tolist()
    ([[4, 0], [5, 6]], [1, 2], [1, 1])
    """

    draws_globally = False

    def __init__(self, sequences: Iterable[Any], *arrays: Any) -> None:
        given: Any = sequences
        if not isinstance(given, Iterable):
            raise TypeError(message("RaggedDataset", "sequences", given, "an iterable of sequences"))
        parts = [np.asarray(sequence) for sequence in given]
        if not parts:
            raise ValueError(message("RaggedDataset", "sequences", "empty", "at least one sequence"))
        layouts = [(part.dtype, part.shape[1:]) for part in parts if part.size]
        for place, part in enumerate(parts):
            if part.ndim == 0 or (part.size and (part.dtype, part.shape[1:]) != layouts[0]):
                dtype, behind = layouts[0] if layouts else (part.dtype, ())
                need = f"{dtype} of shape {('length', *behind)}".replace("'", "")
                raise ShapeError(message("RaggedDataset", f"sequence {place}", part, need))
        self.lengths = np.array([len(part) for part in parts])
        filled = [part for part in parts if part.size] or parts[:1]
        self.values = np.concatenate(filled)
        self.ends = np.cumsum(self.lengths)
        self.arrays = tuple(np.asarray(array) for array in arrays)
        for array in self.arrays:
            if array.ndim == 0 or len(array) != len(parts):
                raise ShapeError(message("RaggedDataset", "arrays", array, f"{len(parts)} rows, one for each sequence"))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        end = self.ends[index]
        sequence = self.values[end - self.lengths[index] : end]
        return (sequence, *(array[index] for array in self.arrays)) if self.arrays else sequence


class TextDataset(Dataset):
    """Windows of a text, and beside each the same window one token later: what a language model learns from.

    Parameters
    ----------
    source : path, str or array
        A file in UTF-8 (also ``.gz``), or a text itself. A str is a file where there is one of that name. An array of
        integers along one axis, a `numpy.memmap` too, is taken as tokens.
    block : int
        Tokens of a window.
    tokenizer : callable or object with ``encode``, optional
        As in `tokenize`; the bytes of UTF-8 without one.
    stride : int, optional
        Tokens from the start of a window to that of the next; ``block`` by default, so that they do not overlap. A
        rest too short for a window is left out.

    Attributes
    ----------
    tokens : numpy.ndarray
        All tokens.

    Raises
    ------
    DataError
        The file is missing or no text.
    ValueError
        There are not more than ``block`` tokens.

    Examples
    --------
    >>> from minigrad import data
    >>> dataset = data.TextDataset("to be or not to be", block=4, tokenizer=lambda text: [ord(c) for c in text])
    >>> len(dataset), dataset[0]
    (4, (array([116, 111,  32,  98]), array([111,  32,  98, 101])))
    """

    draws_globally = False

    def __init__(
        self,
        source: str | os.PathLike[str] | Array,
        block: SupportsIndex,
        *,
        tokenizer: Callable[[str], Any] | Any = None,
        stride: SupportsIndex | None = None,
    ) -> None:
        self.block = positive("TextDataset", "block", block)
        self.stride = self.block if stride is None else positive("TextDataset", "stride", stride)
        if isinstance(source, np.ndarray):
            if source.ndim != 1 or source.dtype.kind not in "iu":
                raise DTypeError(message("TextDataset", "source", source, "integers along one axis, or a text"))
            self.tokens = source
        else:
            text = read_text(source)
            encoded = np.frombuffer(text.encode(), np.uint8)
            self.tokens = encoded if tokenizer is None else tokenize([text], tokenizer)[0]
        if len(self.tokens) <= self.block:
            hint = f"There is no file {source!r} either" if isinstance(source, str) and len(source) < 256 else ""
            need = f"more than block, {self.block}"
            raise ValueError(message("TextDataset", "source", f"a text of {len(self.tokens)} tokens", need, hint))

    def __len__(self) -> int:
        return (len(self.tokens) - self.block - 1) // self.stride + 1

    def __getitem__(self, index: Any) -> tuple[Array, Array]:
        start = range(len(self))[index] * self.stride
        window = np.asarray(self.tokens[start : start + self.block + 1], np.int64)
        return window[:-1].copy(), window[1:].copy()

    def batch(self, indices: Array) -> tuple[Array, Array]:
        places = (indices * self.stride)[:, None] + np.arange(self.block + 1)
        windows = np.asarray(self.tokens).take(places).astype(np.int64, copy=False)
        return windows[:, :-1].copy(), windows[:, 1:].copy()


def read_text(source: str | os.PathLike[str]) -> str:
    """A text, or what a file of it holds."""
    if isinstance(source, str) and not is_file(source):
        return source
    try:
        data = Path(source).read_bytes()
        if os.fspath(source).endswith(".gz"):
            import gzip

            data = gzip.decompress(data)
        return data.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{os.fspath(source)}: {getattr(error, 'strerror', None) or error}") from error


def is_file(text: str) -> bool:
    """Whether a str names a file; one that is too long or has zeros in it does not."""
    try:
        return os.path.isfile(text)
    except (OSError, ValueError):
        return False
