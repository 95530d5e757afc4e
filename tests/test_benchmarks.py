"""Every benchmark runs, its report can be read back, and the runner's arithmetic holds. Speed is never asserted."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

from benchmarks import FAMILIES, report, runner, timing  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.workload import Goal, Task, Workload, workloads  # noqa: E402

TORCH_PYTHON = os.environ.get("MINIGRAD_TORCH_PYTHON", sys.executable)
SETTINGS = runner.Settings({"minigrad": sys.executable, "torch": None}, threads=1, repeat=1, quick=True)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The report of all benchmarks, read back from its file, and what was printed."""
    file = tmp_path_factory.mktemp("benchmarks") / "report.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--vs", "", "--threads", "1", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text(encoding="utf-8")), done.stdout


def test_every_benchmark_runs(quick: tuple[dict[str, Any], str]) -> None:
    rows = quick[0]["rows"]
    names = [(family, workload.name) for family in FAMILIES for workload in workloads(family)]
    assert [(row["family"], row["workload"]) for row in rows] == names
    for row in rows:
        assert 0 < row["seconds"]["minigrad"] < math.inf, row
        assert row["rounds"]["minigrad"] == [row["seconds"]["minigrad"]]
        assert row["peak_bytes"]["minigrad"] > 2**20


def test_report_round_trips(quick: tuple[dict[str, Any], str]) -> None:
    made, printed = quick
    assert f"{report.heading(made)}\n\n{report.table(made)}\n" == printed


def test_report_says_what_ran(quick: tuple[dict[str, Any], str]) -> None:
    made = quick[0]
    assert made["threads"] == made["repeat"] == 1
    assert made["machine"]["processors"] >= 1
    assert set(made["sides"]) == {"minigrad"}
    assert all(made["sides"]["minigrad"].values())


def test_all_families_are_listed() -> None:
    files = {file.stem for file in (ROOT / "benchmarks").glob("*.py") if "\nWORKLOADS = [" in file.read_text("utf-8")}
    assert files == set(FAMILIES)


@pytest.mark.parametrize("family", ["mlp", "chain"])
def test_pytorch_computes_the_same(family: str) -> None:
    if not runner.installed(TORCH_PYTHON, "torch"):
        pytest.skip("PyTorch is not installed")
    settings = runner.Settings({"minigrad": sys.executable, "torch": TORCH_PYTHON}, threads=1, repeat=1, quick=True)
    for row in runner.run([family], settings)["rows"]:  # which raises where the values differ
        assert row["ratios"]["torch"] > 0


def test_missing_peer_is_said_and_no_error() -> None:
    made = runner.run(["chain"], SETTINGS)
    assert made["sides"]["torch"] is None
    assert made["rows"][0]["ratios"] == {}
    assert made["rows"][0]["reached"] is None
    assert "not installed" in report.table(made)
    assert "torch not installed" in report.heading(made)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["chains"], "unknown family 'chains', needs one of overhead, chain, mlp"),
        (["--vs", "tensorflow"], "unknown peer 'tensorflow', needs one of torch, jax"),
        (["--threads", "0"], "argument --threads: invalid positive value: '0'"),
    ],
)
def test_bad_arguments(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert text in capsys.readouterr().err


def test_missing_interpreter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = str(tmp_path / "python")
    assert main(["chain", "--quick", "--torch-python", missing]) == 1
    assert f"torch: cannot start the interpreter {missing!r}" in capsys.readouterr().err


def test_failing_side_shows_its_traceback() -> None:
    settings = runner.Settings({"minigrad": sys.executable}, threads=1, repeat=1, quick=True)
    with pytest.raises(runner.BenchmarkError, match=r"(?s)overhead: minigrad ended with status 1:.*IndexError"):
        runner.run_side(sys.executable, "overhead", 99, "minigrad", settings)


def test_unknown_family() -> None:
    with pytest.raises(ValueError, match="family: got 'chains', needs one of overhead, chain, mlp"):
        workloads("chains")


def test_sides_get_a_user_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    made = runner.environment(3)
    assert "OPENBLAS_CORETYPE" not in made
    assert {made[name] for name in runner.THREADS} == {"3"}


def test_quiet_measures_again_while_others_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.0, 0.5, 0.2, 0.0, 0.01])  # before and during the first try, twice before and during the second
    times = iter([1.0, 2.0])
    monkeypatch.setattr(runner.machine.Others, "share", lambda self: next(shares))
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(runner, "run_side", lambda *arguments: result(next(times)))
    settings = runner.Settings({"minigrad": sys.executable}, threads=1, repeat=1, quiet=True)
    made = runner.measure(sys.executable, "chain", 0, "minigrad", settings)
    assert made == result(2.0) | {"others": 0.01}


def test_quiet_takes_a_busy_round_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=200.0)
    monkeypatch.setattr(runner.machine.Others, "share", lambda self: 0.5)
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(runner, "run_side", lambda *arguments: result(1.0))
    settings = runner.Settings({"minigrad": sys.executable}, threads=1, repeat=1, quiet=True)
    made = runner.measure(sys.executable, "chain", 0, "minigrad", settings)
    assert made == result(1.0) | {"others": 0.5}


def test_own_work_does_not_count_as_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, own, clock = iter([10.0, 14.0]), iter([1.0, 4.0]), iter([0.0, 5.0])
    monkeypatch.setattr(runner.machine, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(runner.machine, "own_seconds", lambda: next(own))
    monkeypatch.setattr(runner.machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(runner.machine.os, "cpu_count", lambda: 2)
    assert runner.machine.Others().share() == pytest.approx((4 - 3) / 5 / 2)


def result(seconds: float, value: float = 1.0) -> dict[str, Any]:
    return {"seconds": seconds, "value": value, "peak_bytes": 1, "others": 0.0}


def test_medians_of_rounds_and_their_ratio() -> None:
    runs = {"minigrad": [result(1.0), result(9.0), result(2.0)], "torch": [result(3.0), result(8.0), result(10.0)]}
    row = runner.row("family", Workload("name", {}, Goal(ratio=0.3)), runs)
    assert row["seconds"] == {"minigrad": 2.0, "torch": 8.0}
    assert row["ratios"] == {"torch": 0.25}
    assert row["fastest_ratios"] == {"torch": pytest.approx(1 / 3)}
    assert row["reached"] is True
    assert report.spread(row["rounds"]["minigrad"], 2.0) == "-50/+350 %"


@pytest.mark.parametrize("value", [1.01, math.nan])
def test_sides_that_do_different_work(value: float) -> None:
    runs = {"minigrad": [result(1.0)], "torch": [result(1.0, value)]}
    with pytest.raises(runner.BenchmarkError, match=r"name: torch got .*, minigrad 1\.0"):
        runner.row("family", Workload("name", {}), runs)


@pytest.mark.parametrize(
    ("goal", "seconds", "ratio", "want"),
    [
        (Goal(), 1.0, 0.5, None),
        (Goal(ratio=0.5), 1.0, 0.5, True),
        (Goal(ratio=0.5), 1.0, 0.51, False),
        (Goal(ratio=0.5), 1.0, None, None),
        (Goal(seconds=1.0), 1.0, None, True),
        (Goal(ratio=0.5, seconds=1.0), 2.0, None, False),
        (Goal(ratio=0.5, seconds=1.0), 1.0, None, None),
    ],
)
def test_goals(goal: Goal, seconds: float, ratio: float | None, want: bool | None) -> None:
    assert runner.reached(goal, seconds, ratio) is want


def test_every_call_gets_an_argument_of_its_own() -> None:
    made: list[list[int]] = []
    spent: list[list[int]] = []

    def before() -> list[int]:
        made.append([len(made)])
        return made[-1]

    assert timing.measure(Task(spent.append, before), timing.QUICK) > 0
    assert spent == made


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.001234, "1.23 ms"), (1e-6, "1 us"), (4.567e-7, "457 ns")]
)
def test_durations(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text
