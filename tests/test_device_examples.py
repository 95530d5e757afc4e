"""The examples with --device cuda print what they do on the CPU, on a GPU or its stand-in."""

from __future__ import annotations

import gzip
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minigrad.data import load_digits
from minigrad.data.mnist import PARTS, format_idx

pytestmark = pytest.mark.usefixtures("gpu")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SECONDS = re.compile(r"[\d.]+ s\b.*")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and a few of the package's digits in files as MNIST's."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 8)
    images, labels, test_images, test_labels = load_digits()
    for part, array in zip(PARTS, [images[:60], labels[:60], test_images[:20], test_labels[:20]], strict=True):
        if part.ndim == 3:
            array = np.pad(np.kron(array * 255, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2)))
        (folder / part.file).write_bytes(gzip.compress(format_idx(np.rint(array).astype(np.uint8)), 1))
    return folder


ARGUMENTS: dict[str, Callable[[Path], list[str]]] = {
    "char_gpt.py": lambda folder: [
        "--data", str(folder / "text.txt"), "--steps", "4", "--layers", "1", "--features", "16", "--heads", "2",
        "--block", "8", "--batch-size", "4", "--eval-every", "2", "--sample", "12", "--dropout", "0.1", "--plot", "",
    ],
    "custom_loop.py": lambda folder: ["--epochs", "1", "--batch-size", "300"],
    "mnist_conv.py": lambda folder: [
        "--data", str(folder), "--channels", "3", "--hidden", "8", "--epochs", "1", "--batch-size", "20", "--plot", "",
    ],
    "mnist_ffn.py": lambda folder: [
        "--data", str(folder), "--hidden", "12", "--epochs", "2", "--batch-size", "20", "--plot", "",
    ],
    "train_digits.py": lambda folder: ["--epochs", "1", "--hidden", "8", "--batch-size", "200"],
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_examples(
    name: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(sys, "argv", [name, *ARGUMENTS[name](files), "--device", device])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        texts.append(SECONDS.sub("", capsys.readouterr().out))
    words, found = (text.split() for text in texts)
    assert len(words) == len(found) > 10
    for word, other in zip(words, found, strict=True):
        try:
            assert float(other.strip("%,()")) == pytest.approx(float(word.strip("%,()")), rel=5e-3, abs=2e-3)
        except ValueError:
            assert other == word
