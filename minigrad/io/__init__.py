"""Files: checkpoints of any state, weights in safetensors, and maps from the names that others give them to ours."""

from minigrad.io.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from minigrad.io.name_map import NameMap, Rename
from minigrad.io.torch_names import from_torch, torch_names
from minigrad.io.weights import load_weights, read_metadata, save_weights

__all__ = [
    "CheckpointError", "NameMap", "Rename", "from_torch", "load_checkpoint", "load_weights", "read_metadata",
    "save_checkpoint", "save_weights", "torch_names",
]  # fmt: skip
