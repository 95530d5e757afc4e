"""Train a classifier of handwritten digits on several processes or machines: the same script in three ways.

python examples/data_parallel.py
python -m minigrad.launch -n 2 examples/data_parallel.py
mpiexec -n 2 python examples/data_parallel.py                     # pip install mpi4py, and an MPI

With --trainer a Trainer does what is written out here otherwise. With --folder it saves the run and goes on with what
is there, so that a failure costs no more than an epoch:

python -m minigrad.launch -n 2 --max-restarts 3 examples/data_parallel.py --trainer --folder run
"""

import argparse
from contextlib import nullcontext

import minigrad as mg
from minigrad import data, nn, optim, parallel, train

HALVES = {"none": None, "fp16": mg.float16, "bf16": mg.bfloat16}


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--epochs", type=positive, default=10, help="passes over the training data")
    add("--batch-size", type=positive, default=64, help="images of all ranks that go through the network at a time")
    add("--accumulate", type=positive, default=1, help="such batches in one step")
    add("--lr", type=float, default=3e-3, help="learning rate")
    add("--compression", choices=list(HALVES), default="none", help="what gradients are sent as")
    add("--seed", type=int, default=0, help="of the weights and the order of the images")
    add("--trainer", action="store_true", help="train with a Trainer")
    add("--folder", help="where the Trainer saves the run, and looks for one to go on with")
    return parser.parse_args()


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def main() -> None:
    args = parse_args()
    world = parallel.init()
    mg.random.seed(args.seed)
    images, labels, test_images, test_labels = data.load_digits()
    layers = [nn.Flatten(), nn.Dense(128, activation="relu"), nn.BatchNorm1D(), nn.Dense(10)]
    model = parallel.DataParallel(nn.Sequential(layers), sync_batch_norm=True, compression=HALVES[args.compression])
    model(mg.asarray(test_images[:2]))  # the layers read their numbers of inputs
    optimizer = optim.AdamW(model.named_parameters(), lr=args.lr)
    if world.rank == 0:
        print(f"{world.size} ranks ({world.engine}), each on {mg.get_num_threads()} threads")
    run = with_trainer if args.trainer else by_hand
    run(args, model, optimizer, data.TensorDataset(images, labels), (test_images, test_labels))


def with_trainer(args: argparse.Namespace, model: nn.Module, optimizer, train_set, test_set) -> None:
    """A trainer knows what its ranks have to tell each other."""
    callbacks = [train.Checkpoint(args.folder)] if args.folder else []
    trainer = train.Trainer(model, "cross_entropy", optimizer, accumulate=args.accumulate, callbacks=callbacks)
    loader = data.DataLoader(train_set, args.batch_size, shuffle=True, seed=args.seed)
    trainer.fit(loader, epochs=args.epochs, validation=test_set, verbose=2, resume=args.folder)


def by_hand(args: argparse.Namespace, model: parallel.DataParallel, optimizer, train_set, test_set) -> None:
    """The loop written out."""
    world = parallel.init()
    if args.batch_size % world.size:
        raise SystemExit(f"--batch-size is {args.batch_size}, needs a multiple of the {world.size} ranks")
    loader = data.DataLoader(
        train_set, args.batch_size // world.size, shuffle=True, seed=args.seed,
        rank=world.rank, world_size=world.size,
    )  # fmt: skip
    test_images, test_labels = (mg.asarray(part) for part in test_set)

    for epoch in range(args.epochs):
        total = seen = 0.0
        for step, (x, y) in enumerate(loader, 1):
            last = step % args.accumulate == 0 or step == len(loader)
            with nullcontext() if last else model.no_sync():
                loss = nn.functional.cross_entropy(model(x), y)
                # the parts of the last batch may differ by one image
                (model.weighted(loss, len(y)) / args.accumulate).backward()
            total += loss.item() * len(y)
            seen += len(y)
            if last:
                optimizer.step()
                optimizer.zero_grad()
        total, seen = world.allreduce([total, seen])
        if world.rank == 0:
            model.eval()
            with mg.no_grad():
                correct = (model(test_images).argmax(axis=-1) == test_labels).mean(dtype=mg.float32).item()
            model.train()
            print(f"epoch {epoch + 1:3}   loss {total / seen:.6f}   test accuracy {correct:.2%}", flush=True)


if __name__ == "__main__":
    main()
