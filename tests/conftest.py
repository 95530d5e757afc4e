"""Hypothesis profiles, chosen by HYPOTHESIS_PROFILE (else ci under CI, dev elsewhere); the order of tests; a GPU."""

from __future__ import annotations

import gc
import importlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

EXAMPLES = 25

hypothesis.settings.register_profile("dev", max_examples=EXAMPLES, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=2 * EXAMPLES, deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("nightly", max_examples=20 * EXAMPLES, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

LAST = ("test_packaging", "test_examples", "test_benchmarks")


def pytest_configure() -> None:
    """Heed Ctrl-C and the end of a terminal, here and in what tests start, where nohup or a shell had them ignored."""
    for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests last, and what runs whole programs after what calls functions; nightly ones only in their profile."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "nightly":
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(pytest.mark.skip(reason="HYPOTHESIS_PROFILE=nightly runs it"))
    items.sort(key=lambda item: (item.get_closest_marker("slow") is not None, item.path.stem in LAST))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let a module begin early with what takes long, beside the tests that come before its own."""
    gc.freeze()  # a collection that a test asks for need not walk over what all the other tests are made of
    chosen: dict[Any, list[pytest.Item]] = {}
    for item in [] if session.config.option.collectonly else session.items:
        chosen.setdefault(getattr(item, "module", None), []).append(item)
    for module, items in chosen.items():
        if hasattr(module, "begin"):
            module.begin(items)


@pytest.fixture(scope="module")
def gpu() -> Iterator[None]:
    """A GPU through CuPy, which MINIGRAD_TEST_GPU=1 demands; where there is none, the stand-in for CuPy."""
    try:
        import cupy

        cupy.zeros(1)
    except Exception:
        if os.environ.get("MINIGRAD_TEST_GPU"):
            raise
        with importlib.import_module("stand_in_cupy").installed():
            yield
    else:
        importlib.import_module("minigrad.cuda").compile_kernels()
        yield
