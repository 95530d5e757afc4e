"""minigrad.launch: what a rank is given, how failures end all, and what is left behind: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minigrad import launch, threads

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, signal, sys, time
import numpy as np
from minigrad import get_num_threads, parallel
import beside

world = parallel.init()
x = np.ones(1_000_000, np.float32)
how = sys.argv[1]
if how == "tell":
    lines = world.all_gather(np.array([world.rank, get_num_threads(), parallel.restart_count()]))
    if world.rank == 0:
        print(lines.reshape(world.size, 3).tolist(), sys.argv[2:], __name__, beside.WORD, sys.stdin.read() == "")
    sys.exit(0)
if how == "again" and parallel.restart_count() == 2:
    sys.exit(0)
for step in range(100_000):
    world.allreduce(x)
    if step == 3 and world.rank == 0:
        open(sys.argv[2], "w").close()
    if step == 5 and world.rank == 1:
        if how in ("raise", "again"):
            raise ValueError("boom")
        if how in ("SIGKILL", "SIGTERM", "SIGABRT"):
            os.kill(os.getpid(), signal.Signals[how])
        if how == "status":
            sys.exit(3)
        if how == "words":
            sys.exit("my last words")
        if how == "Ctrl-C":
            raise KeyboardInterrupt
        if how == "leave":
            sys.exit(0)
        if how == "abort":
            world.abort("enough")
    if step == 5 and how == "all raise":
        raise ValueError("boom")
"""

TRAINER = """
import sys, time
import numpy as np
from minigrad import nn, random, train

class Slow(train.Callback):
    def on_train_batch_end(self, batch, logs):
        time.sleep(float(sys.argv[2]))
        if self.trainer.ranks.rank == 0:
            open(sys.argv[3], "w").close()

random.seed(1)
x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
model = nn.Sequential([nn.Dense(8, "tanh", in_features=5), nn.Dropout(0.5), nn.Dense(3, in_features=8)])
checkpoint = train.Checkpoint(sys.argv[1], save_best=False)
trainer = train.Trainer(model, "cross_entropy", "adam", callbacks=[checkpoint, Slow()], parallel=True, seed=3)
trainer.fit((x, np.arange(60) % 3), epochs=4, batch_size=6, verbose=0, resume=sys.argv[1])
if trainer.ranks.rank == 0:
    print(trainer.step, trainer.history["loss"], [p.tolist() for p in model.parameters()])
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WORD = 'beside'\n")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def start(*words: object, folder: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    names = {k: v for k, v in os.environ.items() if k not in ("MINIGRAD_NUM_THREADS", "OMP_NUM_THREADS")}
    return subprocess.Popen(
        [sys.executable, "-m", "minigrad.launch", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env={**names, **environment},
    )  # fmt: skip


def processes(word: str) -> list[str]:
    """Those that have a word on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and word in (entry / "cmdline").read_text():
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_a_rank_gets_its_share(program: Path) -> None:
    for words, environment, wanted in [
        (["-n", 3], {}, max(1, threads.cores() // 3)),
        (["-n", 2, "--threads", 2], {"OMP_NUM_THREADS": "1"}, 2),
        (["-n", 2], {"MINIGRAD_NUM_THREADS": "3"}, 3),
    ]:
        run = start(*words, program, "tell", "-n", "a b", **environment)
        out, err = run.communicate(timeout=60)
        assert (run.returncode, err) == (0, "")
        ranks = [[rank, wanted, 0] for rank in range(int(str(words[1])))]
        assert out == f"{ranks} ['-n', 'a b'] __main__ beside True\n"


def test_a_script_finds_itself(tmp_path: Path) -> None:
    """As with ``python``, also once it has gone to another folder."""
    (tmp_path / "program.py").write_text("import os; os.chdir('/'); print(open(__file__).read().count('chdir'))")
    run = start("-n", 1, "program.py", folder=tmp_path, PYTHONPATH=str(ROOT))
    assert run.communicate(timeout=60) == ("2\n", "")


def test_a_module(program: Path) -> None:
    run = start("-n", 1, "-m", "program", "tell", folder=program.parent, PYTHONPATH=str(ROOT))
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    assert "__main__ beside" in out


@pytest.mark.parametrize(
    ("how", "status", "words", "tracebacks"),
    [
        ("raise", 1, "minigrad: rank 1 failed\nTraceback", 1),
        ("all raise", 1, "ValueError: boom", 1),
        ("SIGKILL", 137, "rank 1 was killed by SIGKILL; the system does that when memory runs out", 0),
        ("SIGTERM", 143, "rank 1 was killed by SIGTERM", 0),
        ("SIGABRT", 134, "rank 1 was killed by SIGABRT", 0),
        ("status", 3, "rank 1 ended with status 3", 0),
        ("words", 1, "my last words", 0),
        ("leave", 1, "one of the other ranks has ended, and this rank waits for it", 1),
        ("abort", 1, "rank 1 ends all: enough", 0),
    ],
)
def test_a_failure_ends_all(program: Path, how: str, status: int, words: str, tracebacks: int) -> None:
    shared = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    run = start("-n", 3, program, how, program.parent / "begun")
    _, err = run.communicate(timeout=60)
    assert run.returncode == status, err
    assert words in err
    assert err.count("Traceback") == tracebacks, err
    assert "runpy" not in err
    assert "worker.py" not in err
    assert not processes(str(program))
    if os.path.isdir("/dev/shm"):
        assert set(os.listdir("/dev/shm")) <= shared


@pytest.mark.parametrize(
    ("text", "said", "tracebacks"),
    [
        ("def f(:\n", "SyntaxError: invalid syntax", 0),
        (None, "No module named not_there", 0),
        # the others fail at once, and wait until it is told
        ("class Slow(Exception):\n    def __str__(self):\n        import time\n        time.sleep(0.5)\n"
         "        return 'told'\nfrom minigrad import parallel\nparallel.init().barrier()\nraise Slow",
         "Slow: told", 1),
        ("from minigrad import parallel\nparallel.init()\n", "MINIGRAD_TIMEOUT is soon, needs seconds, more than 0", 1),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_once(tmp_path: Path, text: str | None, said: str, tracebacks: int) -> None:
    words = ["-m", "not_there"]
    if text is not None:
        (tmp_path / "program.py").write_text(text)
        words = [str(tmp_path / "program.py")]
    run = start("-n", 3, *words, MINIGRAD_TIMEOUT="soon" if "MINIGRAD" in said else "60")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1, err
    assert err.count(said) == 1, err
    assert err.count("Traceback") == tracebacks, err
    assert "runpy" not in err


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_closed_stream_is_not_the_memory_of_the_ranks(program: Path, fd: int) -> None:
    """The lowest free number is given to what is opened next, and what prints would write there."""
    (program.parent / "beside.py").write_text("WORD = 'beside'\nprint('x' * 100_000, flush=True)\n")
    command = [sys.executable, "-m", "minigrad.launch", "-n", "2", str(program), "tell"]
    line = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
    run = subprocess.run([sys.executable, "-c", line, str(fd), *command], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert ("__main__ beside" in run.stdout) == (fd != 1)


def test_a_failed_rank_that_does_not_end(tmp_path: Path) -> None:
    """A thread holds it, and the other rank computes: nothing else tells of the failure."""
    (tmp_path / "program.py").write_text(
        "import threading, time\nfrom minigrad import parallel\nworld = parallel.init()\nworld.barrier()\n"
        "if world.rank == 0:\n    threading.Thread(target=time.sleep, args=(100,)).start()\n"
        "    raise ValueError('boom')\n"
        "time.sleep(100)\n"
    )
    run = start("-n", 2, tmp_path / "program.py")
    _, err = run.communicate(timeout=60)
    assert run.returncode in (1, 137)
    assert err.count("ValueError: boom") == 1
    assert "rank 1" not in err


def test_nohup(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import os, signal, time\nfrom minigrad import parallel\nworld = parallel.init()\nif world.rank == 0:\n"
        "    os.kill(os.getppid(), signal.SIGHUP)\n    time.sleep(0.3)\nworld.barrier()\n"
    )
    command = [sys.executable, "-m", "minigrad.launch", "-n", "2", str(tmp_path / "program.py")]
    line = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    for words, status in [(command, 129), ([sys.executable, "-c", line, *command], 0)]:
        assert subprocess.run(words, capture_output=True, timeout=60).returncode == status


def test_ctrl_c_while_ranks_start(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("")
    line = (
        "import os, signal, sys; from minigrad.parallel import supervisor\n"
        "class Early(supervisor.Supervisor):\n"
        "    def _start(self, rank):\n"
        "        super()._start(rank)\n"
        "        if rank == 1: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(Early(['script', sys.argv[1]], 2, os.environ).run())"
    )
    command = [sys.executable, "-c", line, str(tmp_path / "program.py")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (130, "")
    assert run.stderr.splitlines()[1:] == ["KeyboardInterrupt"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_to_the_launcher_ends_all(program: Path, number: signal.Signals, status: int) -> None:
    begun = program.parent / "begun"
    run = start("-n", 2, program, "loop", begun)
    while not begun.exists():
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == status
    assert err.count("Traceback") <= 1
    end = time.monotonic() + 5.0
    while processes(str(program)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not processes(str(program))


def test_it_starts_again(program: Path) -> None:
    run = start("-n", 2, "--max-restarts", 2, program, "again", program.parent / "begun")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert err.count("ValueError: boom") == 2
    assert "restart 2 of 2" in err
    run = start("-n", 2, "--max-restarts", 1, program, "again", program.parent / "begun")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1
    assert err.count("ValueError: boom") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_no_failure(program: Path, number: signal.Signals) -> None:
    """Ctrl-C, in the launcher or heeded by a rank, never starts again."""
    begun = program.parent / "begun"
    run = start("-n", 2, "--max-restarts", 3, program, "loop", begun)
    while not begun.exists():
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "restart" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_trainer_saves_itself_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """A signal to the launcher lets the ranks end their step and save it; the next run ends as one left alone."""
    program, begun = tmp_path / "program.py", tmp_path / "begun"
    program.write_text(TRAINER)
    run = start("-n", 2, "--max-restarts", 1, program, tmp_path / "run", "0.05", begun)
    while not begun.exists():
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(number)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (128 + number, ""), err
    assert err.count(f"KeyboardInterrupt: {number.name}") == 1
    assert len(list((tmp_path / "run").iterdir())) == 1
    ends = []
    for folder in (tmp_path / "run", tmp_path / "alone"):
        again = start("-n", 2, program, folder, "0", begun)
        out, err = again.communicate(timeout=60)
        assert (again.returncode, err) == (0, "")
        ends.append(out)
    assert ends[0] == ends[1]
    assert ends[0].startswith("40 ")


def test_ctrl_c_of_a_rank_is_no_failure(program: Path) -> None:
    run = start("-n", 2, "--max-restarts", 3, program, "Ctrl-C", program.parent / "begun")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "restart" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "0", "x.py"], "-n is 0, needs at least 1"),
        (["--threads", "0", "x.py"], "--threads is 0, needs at least 1"),
        (["-n", "1025", "x.py"], "-n is 1025, needs at most 1024"),
        (["--grace", "nan", "x.py"], "--grace is nan, needs at least 0"),
        (["-n", "2", "not_there.py"], "there is no file not_there.py"),
        ([], "script"),
    ],
)
def test_wrong_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        launch.main(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_ranks_that_are_killed_leave_nothing_and_go_on() -> None:
    """The tool, a few times; docs/parallel.md says how to run it for long. A busy machine may need longer to end."""
    tool = ROOT / "tools" / "kill_ranks.py"
    command = [sys.executable, str(tool), "--kills", "6", "--ranks", "2", "--steps", "12", "--limit", "10"]
    done = subprocess.run([*command, "--restarts", "2"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 faults" in done.stdout
    assert "2 restarts" in done.stdout
