"""Every benchmark runs, its report can be read back, and the runner's arithmetic holds. Speed is never asserted."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

from benchmarks import FAMILIES, agreement, plot, report, runner, side, timing  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.workload import Goal, Point, Task, Workload, workloads  # noqa: E402

PEERS = {peer: os.environ.get(f"MINIGRAD_{peer.upper()}_PYTHON", sys.executable) for peer in ("torch", "jax")}
SETTINGS = runner.Settings({"minigrad": sys.executable, "torch": None}, threads=1, repeat=1, quick=True, scope="quick")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The report of all benchmarks, read back from its file, and what was printed."""
    file = tmp_path_factory.mktemp("benchmarks") / "report.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--vs", "", "--threads", "1", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text(encoding="utf-8")), done.stdout


def test_every_benchmark_runs(quick: tuple[dict[str, Any], str]) -> None:
    rows = quick[0]["rows"]
    names = [(family, workload.name) for family in FAMILIES for workload in workloads(family, "quick")]
    assert [(row["family"], row["workload"]) for row in rows] == names
    for row in rows:
        assert 0 < row["seconds"]["minigrad"] < math.inf, row
        assert row["rounds"]["minigrad"] == [row["seconds"]["minigrad"]]


def test_report_round_trips(quick: tuple[dict[str, Any], str]) -> None:
    made, printed = quick
    assert f"{report.heading(made)}\n\n{report.table(made)}\n\n{report.summary(made)}\n" == printed


def test_report_says_what_ran(quick: tuple[dict[str, Any], str]) -> None:
    made = quick[0]
    assert made["threads"] == made["repeat"] == 1
    assert made["machine"]["processors"] >= 1
    assert made["limits"]["flops"] > 0
    assert made["limits"]["bytes"] > 0
    assert set(made["sides"]) == {"minigrad"}
    assert all(made["sides"]["minigrad"].values())


def test_all_families_are_listed() -> None:
    files = {file.stem for file in (ROOT / "benchmarks").glob("*.py") if "\nWORKLOADS = [" in file.read_text("utf-8")}
    assert files == set(FAMILIES)


def test_every_row_of_the_table_is_there() -> None:
    goals = [workload.goal.ratio for family in FAMILIES for workload in workloads(family)]
    assert sum(ratio is not None for ratio in goals) == 29


@pytest.mark.parametrize("scope", ["rows", "sweep", "quick"])
@pytest.mark.parametrize("family", FAMILIES)
def test_workloads_are_told_apart(family: str, scope: str) -> None:
    found = workloads(family, scope)
    assert len({workload.name for workload in found}) == len(found)
    for workload in found:
        assert "minigrad" in workload.sides
        assert workload.flops is None or workload.moved is None
    if scope == "sweep":
        points = [workload.point for workload in found if workload.point]
        assert len(set(points)) == len(found)
        assert len({point.unit for point in points}) <= 1


def test_a_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    assert main(["overhead", "--sweep", "--quick", "--vs", "", "--json", str(file)]) == 0
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [row["workload"] for row in rows] == [workload.name for workload in workloads("overhead", "sweep")]
    assert rows[0]["workload"] in capsys.readouterr().out


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "imports"])
def test_peers_compute_the_same(family: str, peer: str) -> None:
    if not runner.installed(PEERS[peer], peer):
        pytest.skip(f"{peer} is not installed")
    if not any(peer in workload.sides for workload in workloads(family, "quick")):
        pytest.skip(f"{family} has no side of {peer}")
    pythons = {"minigrad": sys.executable, peer: PEERS[peer]}
    made = runner.run([family], replace(SETTINGS, pythons=pythons))
    assert made["failed"] == {}  # where the results differ it says so
    assert any(row["ratios"] for row in made["rows"])


def test_missing_peer_is_said_and_no_error() -> None:
    made = runner.run(["matmul"], SETTINGS)
    assert made["sides"]["torch"] is None
    assert made["rows"][0]["ratios"] == {}
    assert made["rows"][0]["reached"] is None
    assert "not installed" in report.table(made)
    assert "torch not installed" in report.heading(made)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["chains"], "unknown family 'chains', needs one of overhead, chain, mlp, "),
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


JOB = side.Job("chain", "quick", [0], "minigrad", threads=1, effort="quick")


def test_failing_side_shows_its_traceback() -> None:
    with pytest.raises(runner.BenchmarkError, match=r"(?s)chain: minigrad ended with status 1:.*IndexError"):
        runner.run_side(replace(JOB, indices=[99]), SETTINGS)


def test_a_family_that_fails_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    run_side = runner.run_side

    def fails(job: side.Job, settings: runner.Settings) -> dict[str, Any]:
        if job.family == "dropout":
            raise runner.BenchmarkError("no luck")
        return run_side(job, settings)

    monkeypatch.setattr(runner, "run_side", fails)
    made = runner.run(["dropout", "cross_entropy"], SETTINGS)
    assert [row["family"] for row in made["rows"]] == ["cross_entropy"]
    assert made["failed"] == {"dropout": "no luck"}
    assert "dropout could not be measured: no luck" in report.summary(made)


def test_unknown_family() -> None:
    with pytest.raises(ValueError, match="family: got 'chains', needs one of overhead, chain, mlp, "):
        workloads("chains")


def test_memory() -> None:
    size = 1_000_000
    names = [workload.name for workload in workloads("optimizer", "sweep")]
    job = replace(JOB, family="optimizer", scope="sweep", indices=range(len(names)))
    made = runner.memory(names.index(f"AdamW, 1 tensor of {size:,} parameters"), [job], SETTINGS)["minigrad"]
    arrays = 4 * 4 * size  # parameters, gradients and two moments
    assert arrays <= made["peak_bytes"] - made["base_bytes"] < 3 * arrays


def test_memory_is_part_of_the_report() -> None:
    made = runner.run(["cross_entropy"], replace(SETTINGS, memory=True))
    assert made["rows"][0]["peak_bytes"]["minigrad"] > 2**20
    assert " MiB  " in report.table(made)


def test_sides_get_a_user_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MINIGRAD_KERNELS", "0")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")
    made = runner.environment(3)
    assert not {"OPENBLAS_CORETYPE", "MINIGRAD_KERNELS", "GOMP_SPINCOUNT"} & set(made)
    assert {made[name] for name in runner.THREADS} == {"3"}


def test_quiet_measures_again_while_others_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.0, 0.5, 0.2, 0.0, 0.01])  # before and during the first try, twice before and during the second
    times = iter([1.0, 2.0])
    monkeypatch.setattr(runner.machine.Others, "share", lambda self: next(shares))
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(runner, "run_side", lambda job, settings: {"results": {"0": next(times)}})
    made = runner.measure(JOB, replace(SETTINGS, quiet=True))
    assert made == {"results": {"0": 2.0}, "others": 0.01}


def test_quiet_takes_a_busy_round_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=200.0)
    monkeypatch.setattr(runner.machine.Others, "share", lambda self: 0.5)
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(runner, "run_side", lambda job, settings: {"results": {"0": 1.0}})
    made = runner.measure(JOB, replace(SETTINGS, quiet=True))
    assert made == {"results": {"0": 1.0}, "others": 0.5}


def test_own_work_does_not_count_as_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, own, clock = iter([10.0, 14.0]), iter([1.0, 4.0]), iter([0.0, 5.0])
    monkeypatch.setattr(runner.machine, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(runner.machine, "own_seconds", lambda: next(own))
    monkeypatch.setattr(runner.machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(runner.machine.os, "cpu_count", lambda: 2)
    assert runner.machine.Others().share() == pytest.approx((4 - 3) / 5 / 2)


def result(seconds: float, values: tuple[float, float] = (1.0, 1.0)) -> dict[str, Any]:
    return {"seconds": seconds, "values": [values], "others": 0.0}


def made_row(name: str, mine: float, theirs: float, **attributes: Any) -> dict[str, Any]:
    runs = {"minigrad": [result(mine)], "torch": [result(theirs)]}
    return runner.row("family", Workload(name, {}, **attributes), runs, {})


def test_medians_of_rounds_and_their_ratio() -> None:
    runs = {"minigrad": [result(1.0), result(9.0), result(2.0)], "torch": [result(3.0), result(8.0), result(10.0)]}
    row = runner.row("family", Workload("name", {}, Goal(ratio=0.3)), runs, {})
    assert row["seconds"] == {"minigrad": 2.0, "torch": 8.0}
    assert row["ratios"] == {"torch": 0.25}
    assert row["fastest_ratios"] == {"torch": pytest.approx(1 / 3)}
    assert row["reached"] is True
    assert report.spread(row["rounds"]["minigrad"], 2.0) == "-50/+350 %"


@pytest.mark.parametrize("values", [(1.01, 1.0), (1.0, 1.01), (math.nan, 1.0), (1.0, math.nan)])
def test_sides_that_do_different_work(values: tuple[float, float]) -> None:
    runs = {"minigrad": [result(1.0)], "torch": [result(1.0, values)]}
    with pytest.raises(runner.BenchmarkError, match=r"name: torch got .*, minigrad \[\(1\.0, 1\.0\)\]"):
        runner.row("family", Workload("name", {}), runs, {})


def test_fingerprints() -> None:
    x = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    (norm, product), second = agreement.fingerprint([x, x[0]])
    assert second[1] == pytest.approx(float(x[0] @ np.cos(np.arange(200))))
    assert norm == pytest.approx(float(np.linalg.norm(x)))
    assert agreement.agree([(norm, product)], agreement.fingerprint(x), 1e-12)
    assert not agreement.agree([(norm, product)], [(norm, product), second], 1e-3)
    assert not agreement.agree([(norm, product)], agreement.fingerprint(-x), 1e-3)
    assert not agreement.agree([(norm, product)], agreement.fingerprint(x[::-1]), 1e-3)
    assert not agreement.agree([(norm, product)], agreement.fingerprint(x.T), 1e-3)
    assert agreement.fingerprint(None) == []
    assert agreement.fingerprint(x, np.sum) == [(abs(x.sum()), x.sum())]


def test_geometric_means_are_over_rows_with_a_goal() -> None:
    goal = Goal(ratio=1.0)
    rows = [made_row("a", 1.0, 2.0, goal=goal), made_row("b", 1.0, 8.0, goal=goal), made_row("c", 9.0, 1.0)]
    assert runner.geometric_means(rows) == {"torch": pytest.approx(0.25)}


def test_shares_of_the_limit() -> None:
    rates = {"flops": 4e9, "bytes": 2e9}
    assert report.speed(made_row("a", 2.0, 1.0, flops=2e9), rates) == ["1 GFLOP/s", "25 %"]
    assert report.speed(made_row("a", 2.0, 1.0, moved=2e9), rates) == ["1 GB/s", "50 %"]
    assert report.speed(made_row("a", 2.0, 1.0), rates) == ["-", "-"]


def test_slower_rows_are_flagged() -> None:
    made = {
        "rows": [made_row("fast", 1.0, 2.0), made_row("slow", 3.0, 2.0)],
        "geometric_means": {"torch": 0.5},
        "failed": {},
        "minutes": 1.0,
    }
    text = "geometric mean of the ratios to torch: 0.500\nslower than a peer:\n  slow: 1.500 x torch\n1.0 minutes"
    assert report.summary(made) == text
    assert [report.ratio(value) for value in (None, 1.0, 1.5)] == ["-", "1.000 ", "1.500!"]


@pytest.mark.parametrize("scope", ["rows", "sweep"])
def test_pictures(scope: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [
        made_row(f"{size}", 1.0, size, goal=Goal(ratio=0.5), point=Point("series", size, "elements")) for size in (1, 9)
    ]
    file = tmp_path / "picture.png"
    plot.draw({"scope": scope, "rows": rows}, file)
    assert file.read_bytes().startswith(b"\x89PNG")


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

    task = Task(spent.append, before)
    assert timing.call(task)[0] > 0
    assert timing.measure(task, timing.QUICK, 1e-6) > 0
    assert spent == made


def test_slow_tasks_get_fewer_samples() -> None:
    calls: list[float] = []
    task = Task(lambda: calls.append(timing.repeat(Task(lambda: None), 1)))
    assert timing.measure(task, timing.Effort(warmup=0.0, sample=0.0, samples=5, budget=60.0), 1.0) >= 0
    assert len(calls) == 5
    assert timing.measure(task, timing.Effort(warmup=0.0, sample=0.0, samples=5, budget=0.0), 1.0) >= 0
    assert len(calls) == 5 + 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.001234, "1.23 ms"), (1e-6, "1 us"), (4.567e-7, "457 ns")]
)
def test_durations(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_allreduce_is_measured_on_ranks() -> None:
    command = [sys.executable, "-m", "benchmarks.allreduce", "-n", "2", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[1].split()) == ("2 ranks of 1 thread", ["bytes", "processes"])
    assert [int(line.split()[0].replace(",", "")) for line in lines[2:]] == [4, 1 << 16, 1 << 22]


def test_steps_are_measured_on_ranks() -> None:
    command = [sys.executable, "-m", "benchmarks.scaling", "-n", "2", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["2", "threads", "2", "ranks", "x", "1", "efficiency"]
    assert "minigrad" in lines[1].split()
