"""Data parallelism: a GPT's training step on ranks of one thread each, beside one process with all the threads.

``python -m benchmarks.scaling -n 2`` measures both on the same batch, of which each rank takes its share; ``--vs
torch`` measures PyTorch's DistributedDataParallel (gloo) as well. This is no family of ``python -m benchmarks``, whose
sides are one process each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gpt, timing
from benchmarks.gpt import Config, batch
from benchmarks.runner import ROOT, environment
from benchmarks.workload import Task
from minigrad import parallel
from minigrad.parallel import Communicator

CONFIGS = [
    Config(layers=4, features=128, heads=4, length=64, batch=12),
    Config(layers=6, features=384, heads=6, length=256, batch=16),
]
QUICK = [Config(layers=1, features=16, heads=2, length=8, batch=4)]
LINE = "{:<44}{:<12}{:>14}{:>16}{:>12}"


def shard(config: Config, rank: int, size: int) -> list[Any]:
    """The ids, positions and targets of a rank, as many as those of any other."""
    ids, positions, targets = batch(config)
    each = config.batch // size
    rows = slice(rank * each, (rank + 1) * each)
    return [ids[rows].copy(), positions, targets.reshape(config.batch, -1)[rows].reshape(-1).copy()]


def task_minigrad(config: Config, inputs: list[Any], ranks: Communicator | None) -> Task:
    """A step of minigrad, with DataParallel where there are ranks."""
    import minigrad as mg
    from minigrad import nn, optim

    F, p = gpt.words_minigrad(), gpt.parameters_minigrad(config)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.names = list(p)
            for name, parameter in p.items():
                setattr(self, attribute(name), parameter)

        def forward(self, *inputs: Any) -> Any:
            return gpt.loss(F, config, {name: getattr(self, attribute(name)) for name in self.names}, *inputs)

    model: nn.Module = Model() if ranks is None else parallel.DataParallel(Model(), ranks)
    tensors = [mg.asarray(array) for array in inputs]
    return gpt.step(optim.AdamW, lambda: model(*tensors), model.parameters())


def task_torch(config: Config, inputs: list[Any], ranks: Communicator | None) -> Task:
    """A step of PyTorch, with DistributedDataParallel where there are ranks."""
    import torch
    from torch import distributed
    from torch.nn import parallel as ddp

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    F, p = gpt.words_torch(), gpt.parameters_torch(config)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.names = list(p)
            for name, parameter in p.items():
                self.register_parameter(attribute(name), parameter)

        def forward(self, *inputs: Any) -> Any:
            return gpt.loss(F, config, {name: getattr(self, attribute(name)) for name in self.names}, *inputs)

    model: torch.nn.Module = Model()
    if ranks is not None:
        store = f"file://{os.environ['MINIGRAD_BENCH_STORE']}"
        distributed.init_process_group("gloo", init_method=store, rank=ranks.rank, world_size=ranks.size)
        model = ddp.DistributedDataParallel(model, gradient_as_bucket_view=True)
    tensors = [torch.from_numpy(array) for array in inputs]
    return gpt.step(torch.optim.AdamW, lambda: model(*tensors), model.parameters(), fused=True)


TASKS: dict[str, Callable[[Config, list[Any], Communicator | None], Task]] = {
    "minigrad": task_minigrad,
    "torch": task_torch,
}


def attribute(name: str) -> str:
    """The attribute of a module that holds a parameter."""
    return name.replace(".", "_")


def measure(side: str, config: Config, seconds: float) -> None:
    """Time steps in this process, as a rank of many or alone; print the median of the slowest rank and two losses."""
    world = parallel.init()
    share = replace(config, batch=config.batch // world.size)
    task = TASKS[side](share, shard(config, world.rank, world.size), world if world.size > 1 else None)
    losses = [float(world.allreduce(np.float64(task.run().item()), "mean")) for _ in range(2)]
    task.run()
    took = timing.repeat(task, 1)
    number = max(2, int(world.allreduce(np.float64(seconds / 5 / took), "max")))
    rounds = []
    for _ in range(5):
        world.barrier()
        rounds.append(float(world.allreduce(np.float64(timing.repeat(task, number) / number), "max")))
    if world.rank == 0:
        print(json.dumps({"seconds": statistics.median(rounds), "losses": losses}))


def start(side: str, index: int, ranks: int, threads: int, quick: bool) -> dict[str, Any]:
    """The figures of one side, measured in processes of its own."""
    words = ["-m", "benchmarks.scaling", "--side", side, "--config", str(index), *(["--quick"] if quick else [])]
    launcher = ["-m", "minigrad.launch", "-n", str(ranks), "--threads", str(threads)] if ranks > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        own = environment(threads) | {"MINIGRAD_BENCH_STORE": str(Path(folder, "store"))}
        command = [sys.executable, *launcher, *words]
        done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks.scaling: {side} ended with status {done.returncode}:\n{done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=2, help="how many ranks, of one thread each (default: %(default)s)")
    parser.add_argument("--vs", choices=["torch"], help="measure it as well")
    parser.add_argument("--repeat", type=int, default=5, help="rounds of turns (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small model, few steps")
    parser.add_argument("--side", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--config", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    configs = QUICK if arguments.quick else CONFIGS
    if any(config.batch % arguments.n for config in configs):
        parser.error(f"-n: got {arguments.n}, needs a divisor of every batch: {[config.batch for config in configs]}")
    if arguments.side:
        measure(arguments.side, configs[arguments.config], 0.01 if arguments.quick else 6.0)
        return 0
    n = arguments.n
    repeat = 1 if arguments.quick else arguments.repeat
    print(LINE.format("", "", f"{n} threads", f"{n} ranks x 1", "efficiency"))
    for index, config in enumerate(configs):
        sides = ["minigrad", *([arguments.vs] if arguments.vs else [])]
        runs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {side: [] for side in sides}
        for _ in range(repeat):
            for side in sides:
                alone = start(side, index, 1, n, arguments.quick)
                runs[side].append((alone, start(side, index, n, 1, arguments.quick)))
        truth = runs["minigrad"][0][0]["losses"]
        for side, turns in runs.items():
            for result in (result for turn in turns for result in turn):
                if not np.allclose(result["losses"], truth, rtol=1e-4):
                    raise SystemExit(f"benchmarks.scaling: {side} has the losses {result['losses']}, not {truth}")
            one, many = (statistics.median(turn[k]["seconds"] for turn in turns) for k in (0, 1))
            ratio = statistics.median(turn[0]["seconds"] / turn[1]["seconds"] for turn in turns)
            name = f"GPT {config.layers} layers d{config.features} T{config.length} batch {config.batch}"
            print(LINE.format(name, side, f"{one * 1e3:.1f} ms", f"{many * 1e3:.1f} ms", f"{ratio:.2f}"), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
