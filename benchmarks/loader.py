"""The data loader: an epoch of shuffled batches, and one in which each image is rotated, by worker processes too.

The arrays are as large as MNIST's. PyTorch's datasets give items, ours whole batches; both rotate by the same function
of scipy. The figures are for one image; workers are started before the clock is.

``python -m benchmarks.loader`` prints images a second beside the memory that the processes have.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import Point, Task, Workload

if TYPE_CHECKING:
    from minigrad.data import DataLoader

Array = NDArray[Any]

BATCH = 128
DEGREES = 30.0
SIDE = 28


def arrays(n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images and labels, the same in every process."""
    rng = np.random.default_rng(0)
    return rng.random((n, 1, SIDE, SIDE), np.float32), np.arange(n) % 10


def epoch(loader: Any) -> Array:
    """Take every batch; what the sides must agree in is how many labels there are of each sum."""
    images = total = 0
    for batch, labels in loader:
        images += batch.shape[0]
        total += int(labels.sum())
    return np.array([images, total])


def minigrad_loader(n: int, workers: int, rotate: bool) -> DataLoader:
    from minigrad import data

    transform = data.transforms.RandomRotation(DEGREES) if rotate else None
    dataset = data.TensorDataset(*arrays(n))
    return data.DataLoader(dataset, BATCH, True, num_workers=workers, seed=0, transform=transform)


class Rotated:
    """PyTorch's dataset of rotated images, item by item."""

    def __init__(self, images: Array, labels: Array) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Array, int]:
        import torch
        from scipy.ndimage import affine_transform

        angle = np.deg2rad((2 * torch.rand(()).item() - 1) * DEGREES)
        matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        center = np.full(2, (SIDE - 1) / 2)
        image = affine_transform(self.images[index, 0], matrix, center - matrix @ center, order=1, mode="grid-constant")
        return image[None], int(self.labels[index])


def torch_loader(n: int, workers: int, rotate: bool) -> Any:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    images, labels = arrays(n)
    dataset: Any = (
        Rotated(images, labels) if rotate else TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    )
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


LOADERS = {"minigrad": minigrad_loader, "torch": torch_loader}


def task(side: str, n: int, workers: int, rotate: bool) -> Task:
    loader = LOADERS[side](n, workers, rotate)
    return Task(partial(epoch, loader))


def workload(n: int, workers: int, rotate: bool) -> Workload:
    what = f"load {n:,} images, {'rotated' if rotate else 'shuffled'}"
    by = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "no workers"
    return Workload(
        f"{what}, {by}, an image",
        {side: partial(task, side, n, workers, rotate) for side in LOADERS},
        point=Point(what, workers, "workers"),
        per=n,
    )


WORKLOADS = [
    workload(60_000, 0, rotate=False),
    *(workload(12_800, workers, rotate=True) for workers in (0, 1, 2)),
]
SWEEP = [workload(12_800, workers, rotate) for rotate in (False, True) for workers in (0, 1, 2, 4)]
QUICK = [workload(256, 0, rotate=False), workload(256, 1, rotate=True)]


def proportional(pid: int) -> float:
    """Memory of a process in MiB, with its share of what it shares (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> None:
    """Print a row for each number of workers: images a second, and the memory of the process and of its workers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=main.__doc__)
    parser.add_argument("--images", type=int, default=60_000, metavar="N", help="in the set (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[0, 1, 2], metavar="W", help="how many (default: 0 1 2)"
    )
    parser.add_argument("--epochs", type=int, default=3, help="timed; the fastest counts (default: %(default)s)")
    arguments = parser.parse_args()
    print(f"{'pipeline':>10} {'workers':>8} {'images/s':>10} {'this process':>14} {'each worker':>14}")
    for rotate in (False, True):
        for workers in arguments.workers:
            loader = minigrad_loader(arguments.images, workers, rotate)
            epoch(loader)
            seconds = []
            for _ in range(arguments.epochs):
                start = time.perf_counter()
                epoch(loader)
                seconds.append(time.perf_counter() - start)
            own, others = proportional(os.getpid()), [proportional(pid) for pid in loader.worker_pids]
            each = f"{max(others):10.0f} MiB" if others else f"{'-':>14}"
            name = "rotated" if rotate else "shuffled"
            print(f"{name:>10} {workers:8} {arguments.images / min(seconds):10,.0f} {own:10.0f} MiB {each}")
            loader.close()


if __name__ == "__main__":
    main()
