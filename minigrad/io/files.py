"""Files that appear whole or not at all, and are on the disk before anything relies on them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigrad.errors import message

__all__ = ["FilePath", "as_path", "replacing", "sync_folder"]

FilePath = str | os.PathLike[str]
# what systems say that open no folder, or cannot flush one: Windows, some file systems of networks
UNABLE = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def as_path(who: str, path: Any) -> Path:
    """A path, or an error of the function that was given something else."""
    try:
        return Path(path)
    except TypeError:
        raise TypeError(message(who, "path", path, "a str or a path")) from None


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a file to write beside the target; it becomes the target, for good, when the block ends without an error.

    Before the name is changed the contents are on the disk, and when the block is left the name is too. So whenever the
    machine stops, the target is the old file or the new one.

    Parameters
    ----------
    target : Path
        The file to make or replace; its folder is made if it is missing.

    Yields
    ------
    Path
        A name that nothing has yet.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from minigrad.io.files import replacing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(pathlib.Path(folder, "greeting")) as file:
    ...         _ = file.write_text("hello")
    ...     [path.name for path in pathlib.Path(folder).iterdir()]
    ['greeting']
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can be asked for that."""
    try:
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
