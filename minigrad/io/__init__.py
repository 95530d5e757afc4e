"""Files: weights in safetensors, and maps from the names that others give them to ours."""

from minigrad.io.name_map import NameMap, Rename
from minigrad.io.weights import load_weights, read_metadata, save_weights

__all__ = ["NameMap", "Rename", "load_weights", "read_metadata", "save_weights"]
