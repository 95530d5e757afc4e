"""Datasets, samplers, the loader with its workers, files of data; digits in the package, other sets by download."""

from minigrad.data import transforms
from minigrad.data.chatterbot import load_chatterbot
from minigrad.data.cmudict import load_cmudict
from minigrad.data.collate import default_collate, pad_collate
from minigrad.data.dataset import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from minigrad.data.digits import Digits, load_digits
from minigrad.data.download import DataError
from minigrad.data.errors import WorkerError
from minigrad.data.files import Table, load_arrays, load_csv
from minigrad.data.loader import DataLoader
from minigrad.data.mnist import load_mnist
from minigrad.data.samplers import (
    BatchSampler,
    BucketSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)
from minigrad.data.streams import item_rng
from minigrad.data.text import RaggedDataset, TextDataset, tokenize

__all__ = [
    "BatchSampler",
    "BucketSampler",
    "ConcatDataset",
    "DataError",
    "DataLoader",
    "Dataset",
    "Digits",
    "IterableDataset",
    "RaggedDataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "Table",
    "TensorDataset",
    "TextDataset",
    "WeightedRandomSampler",
    "WorkerError",
    "default_collate",
    "item_rng",
    "load_arrays",
    "load_chatterbot",
    "load_cmudict",
    "load_csv",
    "load_digits",
    "load_mnist",
    "pad_collate",
    "random_split",
    "tokenize",
    "transforms",
]
