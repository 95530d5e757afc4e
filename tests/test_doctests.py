"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import minigrad as mg
import minigrad.nn
from minigrad.ops.registry import Op

SKIPPED = {"minigrad._core"}
if importlib.util.find_spec("cupy") is None:
    SKIPPED |= {"minigrad.backend.cuda", "minigrad.backend.cupy"}


def modules():
    for package in (mg, minigrad.nn):
        yield package.__name__
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not any(info.name.startswith(name) for name in SKIPPED):
                yield info.name


def examples(name):
    module = importlib.import_module(name)
    yield from doctest.DocTestFinder(exclude_empty=True).find(module)
    parser = doctest.DocTestParser()
    for value in vars(module).values():  # an op is no function, so the finder passes it over
        if isinstance(value, Op) and value.__module__ == name:
            yield parser.get_doctest(value.__doc__ or "", {}, value.name, module.__file__, 0)


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_examples_in_docstrings(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    state = mg.random.get_state()
    for example in examples(name):
        runner.run(example, out=report.append)
    mg.random.set_state(state)
    assert not runner.failures, "".join(report)


def test_examples_are_found_in_functions_classes_and_ops():
    assert any(e.examples for e in examples("minigrad.autograd"))
    assert any(e.name == "softmax" and e.examples for e in examples("minigrad.ops.softmax"))
