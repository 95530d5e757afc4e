"""What models that others saved come with beside their weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from minigrad.data.download import DataError
from minigrad.errors import describe, message

__all__ = ["CONFIG", "check_config", "read_config"]

CONFIG = "config.json"


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
    except ValueError as error:
        raise DataError(message("from_pretrained", str(file), f"malformed ({error})", "JSON")) from error
    if not isinstance(found, dict):
        raise DataError(message("from_pretrained", str(file), found, "an object in JSON"))
    return found
