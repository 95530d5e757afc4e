"""What models come with beside their weights, in the layout of Hugging Face's libraries: ``config.json``."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigrad.data.download import DataError
from minigrad.errors import describe, message
from minigrad.io.files import replacing
from minigrad.io.weights import save_weights

__all__ = ["CONFIG", "check_config", "read_config", "read_fields", "read_positive", "save_pretrained"]

CONFIG = "config.json"
EACH = " | tuple[int, ...]"  # in the type of a field: or one for each layer


def check_config(who: str, config: Any, kind: type) -> None:
    """Raise where the configuration of a model is of another kind."""
    if not isinstance(config, kind):
        raise TypeError(message(who, "config", describe(config), f"a {kind.__name__}"))


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``config.json`` in a model's folder says.

    Raises
    ------
    DataError
        If it is missing or malformed.
    """
    file = Path(folder) / CONFIG
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(message("from_pretrained", "folder", str(folder), f"a folder with {CONFIG}")) from error
    except OSError as error:
        got = f"unreadable ({error.strerror or error})"
        raise DataError(message("from_pretrained", str(file), got, "a file that may be read")) from error
    except (ValueError, RecursionError) as error:
        raise DataError(message("from_pretrained", str(file), f"malformed ({error})", "JSON")) from error
    if not isinstance(found, dict):
        raise DataError(message("from_pretrained", str(file), found, "an object in JSON"))
    return found


def read_fields(config_class: type[Any], config: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a configuration that Hugging Face's describes, each of the kind that it is to have.

    Parameters
    ----------
    config_class : type
        A dataclass.
    config : mapping
        What ``config.json`` says; null where a field takes no None counts as left out.
    keys : mapping of str to str
        Hugging Face's names, and the fields.

    Raises
    ------
    ValueError
        If a value is of another kind.
    """
    kinds = {field.name: str(field.type) for field in dataclasses.fields(config_class)}
    found = {}
    for theirs, own in keys.items():
        value, kind = config.get(theirs), kinds[own].removesuffix(" | None")
        if theirs not in config or (value is None and kind == kinds[own]):
            continue
        if kind.endswith(EACH) and isinstance(value, list):
            value = tuple(value)
        each, kind = value if isinstance(value, tuple) else (value,), kind.removesuffix(EACH)
        if value is not None and not all(_is(kind, v) for v in each):
            need = {"int": "an integer", "float": "a finite number", "bool": "true or false", "str": "a text"}[kind]
            raise ValueError(message(config_class.__name__, theirs, describe(value), need))
        found[own] = value
    return found


def _is(kind: str, value: Any) -> bool:
    """Whether a value is of a kind; true is no number."""
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, int if kind == "int" else str)


def read_positive(who: str, name: str, value: Any) -> float:
    """A finite number above 0."""
    if not _is("float", value) or value <= 0:
        raise ValueError(message(who, name, describe(value), "a positive number"))
    return float(value)


def save_pretrained(
    folder: str | os.PathLike[str], config: Mapping[str, Any], weights: Mapping[str, Any], shard_bytes: int | None
) -> None:
    """Write ``config.json`` and weights by Hugging Face's names, the weights first."""
    save_weights(folder, weights, metadata={"format": "pt"}, shard_bytes=shard_bytes)
    with replacing(Path(folder) / CONFIG) as file:
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
