"""Prune a network that reads MNIST's digits: most of its weights go while it trains on, or half of its neurons.

python examples/prune.py
python examples/prune.py --data folder/with/idx/files --sparsity 0.95 --scores taylor
"""

import argparse
import copy
import os
import time
from pathlib import Path

import minigrad as mg
from minigrad import compress, data, io, nn, optim, train

Part = tuple[mg.Tensor, mg.Tensor]  # images (n, 28, 28), labels (n,)
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="MNIST's four .gz files; without it they come from the cache or the network")
    add("--hidden", type=positive, nargs="+", default=[300, 100], help="units of each hidden layer")
    add("--epochs", type=positive, default=10, help="passes over the training data before anything is pruned")
    add("--prune-epochs", type=positive, default=10, help="passes while weights go, and after")
    add("--batch-size", type=positive, default=128, help="images in one step")
    add("--lr", type=float, default=1.5e-3, help="learning rate at the start of both parts; it falls along a cosine")
    add("--sparsity", type=share, default=0.9, help="share of the weights that goes")
    add("--scores", choices=["magnitude", "movement", "taylor", "random"], default="magnitude", help="which go first")
    add("--scope", choices=["global", "layer"], default="global", help="whether layers are compared with each other")
    add("--neurons", type=share, default=0.5, help="share of the neurons that goes, in a second network")
    add("--neuron-scores", choices=["l2", "l1", "taylor", "activation"], default="l2", help="which of them go first")
    add("--tune-epochs", type=positive, default=3, help="passes after the neurons are gone")
    add("--out", metavar="FOLDER", default=".", help="where to save the models")
    add("--plot", type=picture, metavar="PATH", default="prune.png", help="where to save the picture; '' for none")
    add("--seed", type=int, default=0, help="of the weights and of the order of the images")
    return parser.parse_args()


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def share(text: str) -> float:
    """An argument between nothing and all."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return value


def picture(text: str) -> str:
    """A path that the picture can be saved to, or nothing."""
    path = Path(text)
    if text and path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in any of {', '.join(PICTURES)}")
    if text and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: is there such a folder?")
    return text


def load(folder: str | None) -> tuple[Part, Part]:
    """Images and labels to train with and to test."""
    images, labels, test_images, test_labels = (mg.asarray(part) for part in data.load_mnist(folder))
    return (images, labels), (test_images, test_labels)


def build(hidden: list[int], pixels: int) -> nn.Sequential:
    """Dense layers with ReLU."""
    model = nn.Sequential([nn.Flatten()])
    for units in hidden:
        model.add(nn.Dense(units, activation="relu", in_features=pixels, kernel_initializer="he_normal"))
        pixels = units
    return model.add(nn.Dense(10, in_features=pixels))


def fit(args: argparse.Namespace, model: nn.Module, part: Part, epochs: int, callbacks: list[train.Callback]) -> None:
    """Train with a rate that falls from its start to 0."""
    steps = epochs * -(-len(part[1]) // args.batch_size)
    optimizer = optim.Adam(model.named_parameters(), lr=args.lr)
    schedule = optim.schedules.CosineAnnealingLR(optimizer, steps)
    trainer = train.Trainer(model, "cross_entropy", optimizer, ["accuracy"], schedule=schedule, callbacks=callbacks)
    options = {"seed": args.seed + len(callbacks)}
    loader = data.DataLoader(data.TensorDataset(*part), args.batch_size, shuffle=True, **options)
    trainer.fit(loader, epochs=epochs)


def accuracy(model: nn.Module, part: Part) -> float:
    """The share of digits that is read correctly."""
    return float(train.Trainer(model, "cross_entropy", metrics=["accuracy"]).evaluate(part, batch_size=500)["accuracy"])


def milliseconds(model: nn.Module, images: mg.Tensor, repeats: int = 30) -> float:
    """The best time of a call, in evaluation mode and without a graph."""
    best = float("inf")
    model.eval()
    with mg.no_grad():
        for _ in range(repeats):
            begin = time.perf_counter()
            model(images)
            best = min(best, time.perf_counter() - begin)
    return 1e3 * best


def prune_weights(args: argparse.Namespace, model: nn.Module, parts: tuple[Part, Part], before: float) -> None:
    """Let single weights go, save what is left, and say what it cost and gave."""
    train_set, test_set = parts
    steps = args.prune_epochs * -(-len(train_set[1]) // args.batch_size)
    schedule = compress.CubicSchedule(args.sparsity, end=max(1, steps * 6 // 10), every=max(1, steps // 100))
    pruner = compress.Pruner(schedule, scope=args.scope, scores=args.scores)
    fit(args, model, train_set, args.prune_epochs, [pruner])
    report = compress.sparsity(model, test_set[0][:128])
    print(report)

    after = accuracy(model, test_set)
    print(f"{report.pruned:.1%} of the weights gone: test accuracy {before:.2%} -> {after:.2%}")
    files = [Path(args.out, name) for name in ("dense.safetensors", "pruned.safetensors")]
    io.save_weights(files[0], model.state_dict(masks=False))
    compress.save_sparse(files[1], model)
    sizes = [file.stat().st_size for file in files]
    print(f"file: {sizes[0]:,} bytes dense, {sizes[1]:,} sparse: {sizes[0] / sizes[1]:.1f} times smaller")
    again = build(args.hidden, test_set[0][0].size)
    again.load_state_dict(compress.load_sparse(files[1]))
    sparse = compress.sparsify(again)
    for count in (1, 32, 128):
        images = test_set[0][:count]
        times = milliseconds(model, images), milliseconds(sparse, images)
        print(f"{count:>4} images at once: {times[0]:.3f} ms dense, {times[1]:.3f} ms sparse")
    try:
        if args.plot:
            report.plot(args.plot)
            print(f"picture saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture, for {missing.name} is not installed: {EXTRA}")


def prune_neurons(args: argparse.Namespace, model: nn.Module, parts: tuple[Part, Part], before: float) -> None:
    """Take whole neurons out, train on, and say what that cost and gave."""
    train_set, test_set = parts
    images, labels = train_set[0][:2000], train_set[1][:2000]
    whole = compress.measure(model, test_set[0][:128], repeats=30)
    model.zero_grad()
    mg.cross_entropy(model(images), labels).backward()  # for scores of first order
    batches = [images] if args.neuron_scores == "activation" else None
    kept = compress.remove_neurons(model, args.neurons, scores=args.neuron_scores, data=batches)
    print(f"neurons kept: {', '.join(str(len(units)) for units in kept.values())}")

    at_once = accuracy(model, test_set)
    fit(args, model, train_set, args.tune_epochs, [])
    after = accuracy(model, test_set)
    print(f"{args.neurons:.0%} of the neurons gone: test accuracy {before:.2%} -> {at_once:.2%}, tuned {after:.2%}")
    file = Path(args.out, "small.safetensors")
    io.save_weights(file, model.state_dict())
    print(compress.measure(model, test_set[0][:128], repeats=30).beside(whole))
    again = build([len(units) for units in kept.values()], test_set[0][0].size)
    again.load_state_dict(io.load_weights(file))
    size, old = file.stat().st_size, Path(args.out, "dense.safetensors").stat().st_size
    print(f"file: {old:,} bytes before, {size:,} now; loaded again, test accuracy {accuracy(again, test_set):.2%}")


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    parts = load(args.data)
    train_set, test_set = parts
    print(f"{len(train_set[1])} images to train with, {len(test_set[1])} to test")
    model = build(args.hidden, train_set[0][0].size)
    fit(args, model, train_set, args.epochs, [])
    before = accuracy(model, test_set)
    print(f"test accuracy {before:.2%}, nothing pruned")
    prune_weights(args, copy.deepcopy(model), parts, before)
    prune_neurons(args, model, parts, before)


if __name__ == "__main__":
    try:
        main()
    except data.DataError as error:  # a file is missing or damaged, or there is no network
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
