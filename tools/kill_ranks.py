"""End ranks of a parallel run at random instants, start it again until it is done, and compare with one left alone.

python tools/kill_ranks.py --kills 100 --restarts 20

Each time one of these happens while the ranks average gradients, most of them in the middle of an allreduce: a rank is
killed (SIGKILL), terminated (SIGTERM) or raises, or the launcher is interrupted (SIGINT), terminated or killed. Within
a second all processes must be gone, with the right status, one reason shown, and nothing left in /dev/shm. In the end
the weights must be those of the run that was left alone, byte for byte.

Then jobs of a `Trainer` that the launcher starts again by itself (``--max-restarts``): a rank is killed or raises so
often, the others must end within a second, no zombie must stay while the launcher goes on, and the job must end with
the weights of one that nobody killed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("rank SIGKILL", "rank SIGTERM", "rank raises", "launcher SIGINT", "launcher SIGTERM", "launcher SIGKILL")
LIMIT = 1.0  # seconds
WEIGHTS = "weights.npz"


def parse_args() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kills", type=int, default=12, help="how often")
    add("--ranks", type=int, default=3, help="how many ranks")
    add("--steps", type=int, default=40, help="of the run")
    add("--limit", type=float, default=LIMIT, help="seconds in which all has to end; a busy machine needs more")
    add("--restarts", type=int, default=4, help="how often a job that starts again by itself is killed")
    add("--seed", type=int, default=0, help="of the instants")
    add("--train", metavar="FOLDER", help=argparse.SUPPRESS)
    add("--trainer", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


# --- the run that is killed -----------------------------------------------------------------------------------------


def train(folder: Path, steps: int) -> None:
    """Go on from the weights in a folder, if they are there, to the end."""
    import numpy as np

    import minigrad as mg
    from minigrad import nn, optim, parallel

    world = parallel.init()
    mg.random.seed(world.rank)
    model = nn.Sequential([nn.Dense(400, in_features=300), nn.Tanh(), nn.Dense(300, in_features=400)])
    step = 0
    if (folder / WEIGHTS).exists():
        with np.load(folder / WEIGHTS) as saved:
            step = int(saved["step"])
            model.load_state_dict({name: saved[name] for name in saved.files if name != "step"})
    ranks = parallel.DataParallel(model, bucket_size=1 << 18)
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    filler = np.ones(1_500_000, np.float32)
    for number in range(step, steps):
        x = np.random.default_rng([number, world.rank]).normal(size=(8, 300)).astype(np.float32)
        optimizer.zero_grad()
        (ranks(mg.asarray(x)) ** 2).mean().backward()
        optimizer.step()
        for _ in range(20):  # where most kills fall
            world.allreduce(filler)
        if (folder / f"raise-{world.rank}").exists():
            (folder / "raised").write_text(repr(time.monotonic()))
            raise ValueError("told to")
        if world.rank == 0:
            with open(folder / "new.npz", "wb") as file:
                np.savez(file, step=number + 1, **{name: t.numpy() for name, t in model.state_dict().items()})
            os.replace(folder / "new.npz", folder / WEIGHTS)
            (folder / "begun").touch()
        world.barrier()


def fit(folder: Path, steps: int) -> None:
    """The same by a Trainer, which goes on from its newest checkpoint."""
    import numpy as np

    import minigrad as mg
    from minigrad import nn, optim, parallel
    from minigrad import train as training

    world = parallel.init()
    attempt = parallel.restart_count()
    filler = np.ones(1_500_000, np.float32)

    class Watched(training.Callback):
        """Fill the step with collectives, raise when told to, and say that this attempt trains."""

        def on_train_batch_end(self, batch: int, logs: dict[str, object]) -> None:
            for _ in range(20):
                world.allreduce(filler)
            if (folder / f"raise-{world.rank}").exists():
                (folder / f"raise-{world.rank}").unlink()
                (folder / "raised").write_text(repr(time.monotonic()))
                raise ValueError("told to")
            if world.rank == 0:
                (folder / f"begun-{attempt}").touch()

    mg.random.seed(world.rank)
    model = nn.Sequential([nn.Dense(400, in_features=300), nn.Tanh(), nn.Dropout(0.1), nn.Dense(300, in_features=400)])
    x = np.random.default_rng(0).normal(size=(8 * steps * world.size, 300)).astype(np.float32)
    trainer = training.Trainer(
        parallel.DataParallel(model, bucket_size=1 << 18), "mse", lambda named: optim.AdamW(named, lr=1e-3), ema=0.9,
        callbacks=[training.Checkpoint(folder / "run", per="step", save_best=False), Watched()], seed=1,
    )  # fmt: skip
    trainer.fit((x, x), batch_size=8 * world.size, verbose=0, resume=folder / "run")
    if world.rank == 0:
        with open(folder / WEIGHTS, "wb") as file:
            np.savez(file, step=trainer.step, **{name: t.numpy() for name, t in model.state_dict().items()})


# --- who kills ------------------------------------------------------------------------------------------------------


def start(folder: Path, options: argparse.Namespace, restarts: int | None = None) -> subprocess.Popen[str]:
    """Start the run by the launcher; that of a `Trainer` if it may start again."""
    (folder / "begun").unlink(missing_ok=True)
    command = [sys.executable, "-m", "minigrad.launch", "-n", str(options.ranks), "--threads", "1"]
    words = [__file__, "--train", str(folder), "--steps", str(options.steps)]
    if restarts is not None:
        command += ["--max-restarts", str(restarts)]
        words.append("--trainer")
    words = command + words
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def left(folder: Path) -> list[int]:
    """The processes that have the folder among their words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(folder).encode() in words and state != "Z":
                found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """The ranks of a launcher."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(folder: Path, options: argparse.Namespace, way: str, chance: random.Random) -> str | None:
    """One run and its end; what is wrong, or None. The run may be over before."""
    shared = set(os.listdir("/dev/shm"))
    run = start(folder, options)
    while not (folder / "begun").exists() and run.poll() is None:
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.3))
    ranks = children(run.pid) if run.poll() is None else []
    if len(ranks) < options.ranks:
        run.communicate()
        return None  # it was done
    begun, victim = time.monotonic(), chance.randrange(options.ranks)
    who, what = way.split()
    if what == "raises":
        (folder / f"raise-{victim}").touch()
    else:
        os.kill(run.pid if who == "launcher" else ranks[victim], signal.Signals[what])
    _, text = run.communicate(timeout=60)
    if what == "raises" and (folder / "raised").exists():  # it looks for the file once a step
        begun = float((folder / "raised").read_text())
        (folder / "raised").unlink()
    took = time.monotonic() - begun
    while left(folder) and time.monotonic() - begun < 10:
        took = time.monotonic() - begun
        time.sleep(0.005)
    (folder / f"raise-{victim}").unlink(missing_ok=True)
    wrong = []
    if run.returncode == 0 and what != "raises":
        return None  # it was done before
    if took > options.limit:
        wrong.append(f"took {took:.2f} s")
    if left(folder):
        wrong.append(f"left {left(folder)}")
    zombies = [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
    if zombies and run.returncode != -signal.SIGKILL:  # those of a launcher that was killed are init's
        wrong.append(f"left the zombies {zombies}")
    if new := set(os.listdir("/dev/shm")) - shared:
        wrong.append(f"left {new} in /dev/shm")
    status = {"SIGKILL": 137, "SIGTERM": 143, "SIGINT": 130, "raises": 1}[what]
    if who == "launcher" and what == "SIGKILL":
        status = -9
    if run.returncode not in (status, 0):
        wrong.append(f"status {run.returncode}, not {status}")
    if text.count("Traceback") > 1 or (who == "rank" and text.count("rank ") < 1 and run.returncode):
        wrong.append(f"said {text!r}")
    kill.longest = max(getattr(kill, "longest", 0.0), took)  # type: ignore[attr-defined]
    return "; ".join(wrong) or None


def restart(folder: Path, options: argparse.Namespace, chance: random.Random) -> tuple[list[str], list[float]]:
    """One job, killed in each of its attempts but the last; what is wrong, and how long the others took to end."""
    shared, faults, times = set(os.listdir("/dev/shm")), [], []
    with start(folder, options, options.restarts) as run:
        for attempt in range(options.restarts):
            while not (folder / f"begun-{attempt}").exists() and run.poll() is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.3))
            ranks = children(run.pid) if run.poll() is None else []
            if len(ranks) < options.ranks:
                break  # it is done
            begun, victim, raises = time.monotonic(), chance.randrange(options.ranks), bool(attempt % 2)
            if raises:
                (folder / f"raise-{victim}").touch()
            else:
                os.kill(ranks[victim], signal.SIGKILL)
            while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() - begun < 60:
                time.sleep(0.005)  # zombies are there too
            if raises:
                if not (folder / "raised").exists():
                    break  # it was done before
                begun = float((folder / "raised").read_text())
                (folder / "raised").unlink()
            times.append(time.monotonic() - begun)
            if times[-1] > options.limit:
                faults.append(f"restart {attempt}: the others took {times[-1]:.2f} s")
        _, text = run.communicate(timeout=120)
    if run.returncode:
        faults.append(f"restarts: status {run.returncode}, said {text!r}")
    if text.count("minigrad.launch: restart") != len(times):
        faults.append(f"{len(times)} kills, but said {text!r}")
    if left(folder):
        faults.append(f"restarts: left {left(folder)}")
    if new := set(os.listdir("/dev/shm")) - shared:
        faults.append(f"restarts: left {new} in /dev/shm")
    return faults, times


def restarts(folder: Path, options: argparse.Namespace, chance: random.Random) -> tuple[list[str], list[float]]:
    """A job that is killed and one that is not; the weights at the end must be the same."""
    alone, killed = folder / "trainer alone", folder / "trainer killed"
    alone.mkdir()
    killed.mkdir()
    start(alone, options, 0).communicate()
    faults, times = restart(killed, options, chance)
    if not (killed / WEIGHTS).exists() or (killed / WEIGHTS).read_bytes() != (alone / WEIGHTS).read_bytes():
        faults.append("the weights of the job that was started again are others")
    return faults, times


def main() -> int:
    """Kill, compare, and say how it went."""
    import numpy as np

    options = parse_args()
    if options.train:
        (fit if options.trainer else train)(Path(options.train), options.steps)
        return 0
    chance = random.Random(options.seed)
    faults = []
    with tempfile.TemporaryDirectory() as name:
        alone, killed = Path(name, "alone"), Path(name, "killed")
        alone.mkdir()
        killed.mkdir()
        start(alone, options).communicate()
        wanted = (alone / WEIGHTS).read_bytes()
        rounds = 0
        for number in range(options.kills):
            way = WAYS[number % len(WAYS)]
            fault = kill(killed, options, way, chance)
            if fault:
                faults.append(f"kill {number} ({way}): {fault}")
                print(faults[-1], flush=True)
            with np.load(killed / WEIGHTS) as saved:
                done = int(saved["step"]) >= options.steps
            if done:
                rounds += 1
                if (killed / WEIGHTS).read_bytes() != wanted:
                    faults.append("the weights at the end are others")
                (killed / WEIGHTS).unlink()
        if (killed / WEIGHTS).exists() or not rounds:
            start(killed, options).communicate()
            rounds += 1
            if (killed / WEIGHTS).read_bytes() != wanted:
                faults.append("the weights at the end are others")
        again: list[float] = []
        if options.restarts:
            found, again = restarts(Path(name), options, chance)
            for fault in found:
                print(fault, flush=True)
            faults += found
    longest = getattr(kill, "longest", 0.0)
    print(f"{options.kills} kills, {rounds} runs done, {len(faults)} faults; the longest end took {longest:.2f} s")
    if options.restarts:
        took = f"{sum(again) / len(again):.2f} s in the mean, {max(again):.2f} s at most" if again else "never"
        print(f"{len(again)} restarts; the other ranks had ended after {took}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
