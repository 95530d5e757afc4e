"""The GPU's benchmarks run from end to end without a GPU; their arithmetic holds. No figure is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

from benchmarks import gpt  # noqa: E402
from benchmarks.gpu import __main__ as program  # noqa: E402
from benchmarks.gpu import side, steps, table  # noqa: E402
from benchmarks.gpu.work import SIDES, Work  # noqa: E402
from benchmarks.runner import BenchmarkError, installed  # noqa: E402


@pytest.mark.slow
def test_all_of_it_runs_and_both_sides_compute_the_same(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(file.read_text(encoding="utf-8"))
    sides = SIDES if installed(sys.executable, "torch") else SIDES[:2]
    for row, work in zip(made["rows"], side.works(quick=True), strict=True):
        assert row["work"] == work.name
        assert list(row["seconds"]) == [name for name in sides if name in work.sides]
        assert all(seconds > 0 for seconds in row["seconds"].values())
    assert f"{table.heading(made)}\n\n{table.table(made)}\n" == done.stdout
    if made["dry"]:
        assert "A DRY RUN WITHOUT A GPU: no figure below means anything." in done.stdout
        assert made["sides"]["minigrad"]["gpu"]["name"] == "stand-in"


def test_full_and_quick_measure_the_same_kinds() -> None:
    def kinds(works: list[Work]) -> set[str]:
        return {work.name.split()[0] for work in works}

    full = side.works(quick=False)
    assert kinds(full) == kinds(side.works(quick=True))
    assert len({work.name for work in full}) == len(full)
    assert all({"minigrad", "torch"} <= set(work.sides) <= set(SIDES) for work in full)
    assert all(work.flops or work.moved or work.items for work in full)


def test_the_gpt_is_gpt_2() -> None:
    config = steps.GPT2
    assert (config.layers, config.features, config.heads, config.length, config.batch) == (12, 768, 12, 1024, 16)
    small = gpt.Config(layers=1, features=8, heads=2, length=4, batch=1, vocabulary=11, tied=True)
    of_layer = 12 * 8**2 + 13 * 8  # weights and biases of a block, with its two norms
    assert sum(array.size for array in gpt.parameters(small).values()) == (11 + 4) * 8 + of_layer + 2 * 8
    d = config.features
    count = (config.vocabulary + config.length) * d + config.layers * (12 * d**2 + 13 * d) + 2 * d
    assert count - (config.vocabulary - 50257) * d == 124_439_808  # GPT-2's own number


def one(seconds: float, value: float = 1.0) -> dict[str, Any]:
    return {"seconds": seconds, "values": [[value, value]], "peak_bytes": int(seconds * 2**20)}


def made_report(**work: Any) -> tuple[dict[str, Any], dict[str, str]]:
    failed: dict[str, str] = {}
    found = {"minigrad": [one(3.0), one(1.0), one(2.0)], "minigrad graph": [one(0.5)], "torch": [one(1.0, 1.0005)]}
    rows = [
        table.row(Work("copy of 8 bytes", {}, moved=4e9), {"minigrad": [one(1.0)], "torch": [one(2.0)]}, failed),
        table.row(Work("a step", {}, **work), found, failed),
    ]
    return {"rows": rows}, failed


def test_medians_ratios_and_memory() -> None:
    made, failed = made_report(moved=2e9)
    row = made["rows"][1]
    assert failed == {}
    assert row["seconds"] == {"minigrad": 2.0, "minigrad graph": 0.5, "torch": 1.0}
    assert row["ratios"] == {"minigrad": {"torch": 2.0}, "minigrad graph": {"torch": 0.5}}
    assert row["peak_bytes"]["minigrad"] == 3 * 2**20
    lines = table.table(made).splitlines()
    assert [line.split()[-2:] for line in lines[3:]] == [["2.000!", "-"], ["0.500", "-"], ["-", "-"]]
    assert "1 GB/s (25 % of a copy)" in lines[3]


@pytest.mark.parametrize(
    ("work", "text"),
    [({"flops": 4e12}, "2 TFLOP/s"), ({"items": (32, "tokens"), "flops": 2e12}, "16 tokens/s, 1 TFLOP/s")],
)
def test_speeds(work: dict[str, Any], text: str) -> None:
    assert table.speed(made_report(**work)[0]["rows"][1], "minigrad", None) == text


def test_sides_that_do_other_work_fail() -> None:
    failed: dict[str, str] = {}
    row = table.row(Work("a step", {}), {"minigrad": [one(1.0)], "torch": [one(1.0, 1.01)]}, failed)
    assert row["ratios"] == {"minigrad": {"torch": 1.0}}
    assert list(failed) == ["a step, torch"]


def test_samples_take_their_time() -> None:
    calls: list[int] = []

    def seconds(run: Any, number: int) -> float:
        calls.append(number)
        return number * 1e-3

    assert side.take(seconds, lambda: None) == [pytest.approx(1e-3)] * side.SAMPLES
    assert calls[-1] * 1e-3 >= side.SAMPLE
    assert sum(calls[: -side.SAMPLES]) * 1e-3 >= side.WARM
    slow: list[int] = []
    assert side.take(lambda run, number: (slow.append(number), 2.0 * number)[1], lambda: None) == [2.0] * side.SAMPLES
    assert set(slow) == {1}


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(program, "has_gpu", lambda: False)
    assert program.main([]) == 1
    assert "there is no GPU that CuPy can use; --quick makes a dry run" in capsys.readouterr().err


def test_a_side_that_fails_does_not_take_the_others_along(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(command: list[str], threads: int) -> dict[str, Any]:
        job = json.loads(command[-1])
        if job["side"] == "torch":
            raise BenchmarkError("no luck")
        results = {str(index): one(1.0) for index in job["indices"]} | {str(job["indices"][0]): {"error": "too small"}}
        return {"results": results, "version": "1", "gpu": {"name": "a GPU"}}

    monkeypatch.setattr(program, "has_gpu", lambda: True)
    monkeypatch.setattr(program, "start", start)
    monkeypatch.setattr(program, "installed", lambda *_: True)
    assert program.main(["AdamW over", "matmul", "--quick"]) == 1
    said = capsys.readouterr().out
    assert "minigrad: too small" in said
    assert said.count("torch: no luck") == 3
    assert "Quick: tiny sizes" in said


def test_dropout_is_compared_by_its_mean() -> None:
    work = next(work for work in side.works(quick=True) if work.name.startswith("dropout"))
    assert work.compare(np.array([3.0, -1.0])) == [3.0]
