"""The documents tell the truth: their Python blocks run in order, examples with a prompt give what they show."""

from __future__ import annotations

import doctest
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minigrad.ops.registry import REGISTRY
from minigrad.testing.contract import CHECKS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("README.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#]+)")


def blocks(path: Path) -> Iterator[tuple[int, str]]:
    """The Python blocks of a document, each with the number of lines before it."""
    text = path.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        yield text.count("\n", 0, found.start(1)), found[1]


def run(path: Path, namespace: dict[str, Any]) -> None:
    """Run the blocks of a document in one namespace: as a doctest where there is a prompt, else as they are."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    for before, block in blocks(path):
        if not block.startswith(">>>"):
            # the empty lines let a traceback point into the document
            exec(compile("\n" * before + block, str(path), "exec", dont_inherit=True), namespace)
            continue
        test = doctest.DocTestParser().get_doctest(block, {}, path.name, str(path), before)
        test.globs = namespace  # the parser would copy it, and later blocks miss what this one defines
        report: list[str] = []
        failed = runner.run(test, out=report.append, clear_globs=False).failed
        assert not failed, "".join(report)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_document(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The blocks run in an empty folder, and ops that they register keep the contract."""
    module = types.ModuleType(f"docs_{path.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    known = dict(REGISTRY)
    try:
        run(path, vars(module))
        for name in REGISTRY.keys() - known.keys():
            for check in CHECKS:
                check(REGISTRY[name])
    finally:
        REGISTRY.clear()
        REGISTRY.update(known)


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_every_check_of_the_contract_is_described() -> None:
    text = (ROOT / "docs" / "adding_an_op.md").read_text(encoding="utf-8")
    for check in CHECKS:
        assert f"`{check.__name__}`" in text, check.__name__


def test_the_documents_are_found() -> None:
    assert {"adding_an_op.md", "architecture.md", "numerics.md"} <= {path.name for path in DOCUMENTS}


@pytest.mark.parametrize(
    "body", ["assert x == 2", ">>> x\n2", ">>> x + y\n3"], ids=["plain", "doctest", "undefined name"]
)
def test_a_fault_would_be_found(body: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.md"
    path.write_text(f"```python\n>>> x = 1\n```\n\n```python\n{body}\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        run(path, {})
