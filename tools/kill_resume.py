"""Kill a training run at random instants, resume it until it is done, and compare with a run that was left alone.

python tools/kill_resume.py --kills 200

The run has all that keeps a state: dropout, shuffled and augmented batches, fp16 with a loss scale that overflows,
accumulation, clipping, Adam, a schedule, an average of the weights, batch norm, metrics and a validation. It saves
itself every other step, in a file of many tensors, so that many kills fall into a write. At the end the whole state,
weights, optimizer, history and random numbers, must be the same file, byte for byte.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, WIDTH = 24, 16
CHECKPOINT, FINAL = "run.ckpt", "final.ckpt"


def parse_args() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kills", type=int, default=20, help="how often to kill")
    add("--terminate", type=float, default=0.1, help="share of SIGTERM, after which the run saves itself, for SIGKILL")
    add("--epochs", type=int, default=4, help="of each run")
    add("--workers", type=int, default=0, help="processes of the DataLoader")
    add("--seed", type=int, default=0, help="of the instants; each round of runs has a seed of its own")
    add("--train", metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args()


# --- the run that is killed -----------------------------------------------------------------------------------------


def shifted(batch: Any, rng: Any) -> Any:
    """Shift the images by a pixel, and add noise."""
    images, labels = batch
    images = np.roll(images, tuple(rng.integers(-1, 2, 2)), axis=(-2, -1))
    return images + rng.normal(0, 0.05, images.shape).astype(images.dtype), labels


def train(folder: Path, seed: int, epochs: int, workers: int) -> None:
    """Train from the checkpoint in a folder, if it is there, to the end."""
    from minigrad import amp, data, nn, random
    from minigrad.train import Callback, Metric, Trainer

    class Errors(Metric):
        """The share of wrong digits."""

        name = "errors"

        def reset(self) -> None:
            self.wrong = self.count = 0

        def update(self, outputs, targets, weight=None) -> None:  # type: ignore[no-untyped-def]
            self.wrong += int((outputs.argmax(-1) != targets).sum())
            self.count += targets.size

        def result(self) -> float:
            return self.wrong / max(self.count, 1)

    class Save(Callback):
        """Saves the run every other step, after every epoch, and on SIGTERM."""

        last = True

        def save(self, *args: object) -> None:
            self.trainer.save(folder / CHECKPOINT)

        def on_train_batch_end(self, batch: int, logs: dict[str, object]) -> None:
            if batch % 2:
                self.save()

        on_epoch_end = on_interrupt = save  # type: ignore[assignment]

    random.seed(seed)
    images, labels, test_images, test_labels = data.load_digits()
    layers = [nn.Flatten(), nn.Dense(WIDTH, in_features=64)]
    for _ in range(LAYERS):
        layers.append(nn.Residual(nn.Sequential([nn.BatchNorm(WIDTH), nn.Dense(WIDTH, "relu"), nn.Dropout(0.1)])))
    model = nn.Sequential([*layers, nn.Dense(10)])
    train_set = data.TensorDataset(images[:440].astype("float32"), labels[:440])
    options = {"batch_size": 20, "shuffle": True, "seed": seed, "num_workers": workers}
    loader = data.DataLoader(train_set, transform=shifted, **options)
    trainer = Trainer(
        model,
        optimizer="adam",
        metrics=[Errors()],
        lr=3e-3,
        precision="fp16",
        accumulate=2,
        clip_norm=1.0,
        schedule="warmup_cosine",
        ema=0.9,
        callbacks=[Save()],
    )
    trainer.scaler = amp.GradScaler(init_scale=2.0**20, growth_interval=4)  # grows until a step overflows
    validation = (test_images[:100].astype("float32"), test_labels[:100])
    trainer.fit(loader, epochs=epochs, validation=validation, verbose=0, resume=folder / CHECKPOINT)
    assert trainer.skipped > 0, "no step overflowed: the scaler was not tried"
    trainer.save(folder / FINAL)


# --- who kills ------------------------------------------------------------------------------------------------------


def start(folder: Path, seed: int, args: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The run, in a process of its own."""
    command = [sys.executable, __file__, "--train", str(folder), "--seed", str(seed)]
    command += ["--epochs", str(args.epochs), "--workers", str(args.workers)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MINIGRAD_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run that is left alone."""
    _, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed:\n{error.decode()}")


def until(seen: Callable[[], bool], process: subprocess.Popen[bytes]) -> float:
    """Wait until something is seen, or the run is over; how long it took."""
    begin = time.perf_counter()
    while not seen() and process.poll() is None:
        time.sleep(0.001)
    return time.perf_counter() - begin


def wait(rng: random.Random, process: subprocess.Popen[bytes], folder: Path, awake: float, length: float) -> None:
    """Until a random instant: while the run starts, when it is on its way again, or in the midst of a write."""
    checkpoint, kind = folder / CHECKPOINT, rng.random()
    if kind < 0.1:
        time.sleep(rng.uniform(0.0, awake))
        return
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    until(lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns != before, process)
    time.sleep(rng.uniform(0.0, 0.2 * length))
    if kind > 0.6:
        until(lambda: bool(written(folder)), process)
        time.sleep(rng.uniform(0.0, 0.003))


def written(folder: Path) -> list[Path]:
    """Checkpoints that are being written, or that a dead run has left half written."""
    return list(folder.glob(f".{CHECKPOINT}.*"))


def main() -> None:
    """Kill until it is enough."""
    args = parse_args()
    if args.train:
        train(Path(args.train), args.seed, args.epochs, args.workers)
        return
    rng = random.Random(args.seed)
    kills = terminated = writing = rounds = early = 0
    begin = time.perf_counter()
    while kills < args.kills:
        with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as killed:
            whole, parts = Path(alone), Path(killed)
            seed = args.seed * 1000 + rounds
            process = start(whole, seed, args)
            awake = until((whole / CHECKPOINT).exists, process)
            launched = time.perf_counter()
            finish(process)
            length = time.perf_counter() - launched
            while True:
                process = start(parts, seed, args)
                wait(rng, process, parts, awake, length)
                soft = rng.random() < args.terminate
                if process.poll() is not None or kills >= args.kills:
                    finish(process)
                    break
                process.send_signal(signal.SIGTERM if soft else signal.SIGKILL)
                process.communicate()
                if process.returncode == 0:  # it was just done
                    break
                kills += 1
                terminated += soft
                early += not (parts / CHECKPOINT).exists()
                writing += bool(written(parts))
                for file in written(parts):  # of the run that is dead
                    file.unlink()
            if (whole / FINAL).read_bytes() != (parts / FINAL).read_bytes():
                raise SystemExit(f"seed {seed}: the run that was killed ended in another state after {kills} kills")
            rounds += 1
            print(f"{rounds} runs equal bit for bit, {kills} kills", flush=True)
    print(
        f"{kills} kills ({terminated} by SIGTERM, {writing} in the midst of a write, {early} before a checkpoint) "
        f"in {rounds} runs, all equal to the uninterrupted ones, in {time.perf_counter() - begin:.0f} s"
    )


if __name__ == "__main__":
    main()
