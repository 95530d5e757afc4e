"""Train a feed-forward classifier of handwritten digits, and draw its curves.

python examples/train_digits.py
python examples/train_digits.py --data mnist --epochs 10 --batch-size 128
"""

import argparse
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataError, load_digits, load_mnist
from minigrad.nn import functional as F

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

Part = tuple[mg.Tensor, mg.Tensor]  # images (n, pixels), labels (n,)
ROW = "epoch {:3}   train: loss {:.4f}, accuracy {:.2%}   validation: loss {:.4f}, accuracy {:.2%}"
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--data", choices=["digits", "mnist"], default="digits", help="8x8 digits, in the package, or MNIST")
    add("--epochs", type=positive, default=30, help="passes over the training data")
    add("--batch-size", type=positive, default=32, help="images in one step")
    add("--lr", type=float, default=3e-3, help="learning rate at the start; it falls along a cosine")
    add("--hidden", type=positive, nargs="+", default=[256, 128], help="units of each hidden layer")
    add("--dropout", type=float, default=0.3, help="share of the hidden units switched off in a step")
    add("--weight-decay", type=float, default=0.05, help="decay of the weights (AdamW)")
    add("--seed", type=int, default=0, help="of the weights, the order of the images, and dropout")
    add("--plot", type=picture, metavar="PATH", default="digits.png", help="where to save the curves; '' for nowhere")
    add("--device", default="cpu", help="where to compute")
    return parser.parse_args()


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def picture(text: str) -> str:
    """A path that the curves can be saved to, or nothing."""
    path = Path(text)
    if text and path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in any of {', '.join(PICTURES)}")
    if text and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: is there such a folder?")
    return text


def load(name: str, device: str) -> tuple[Part, Part, Part]:
    """Images and labels to train with, to validate (a tenth of what is not test, drawn at random) and to test."""
    data = load_digits() if name == "digits" else load_mnist()
    images, labels, test_images, test_labels = (mg.asarray(part, device=device) for part in data)
    images, test_images = images.reshape(len(images), -1), test_images.reshape(len(test_images), -1)
    order = mg.random.permutation(len(images))
    held, kept = order[: len(order) // 10], order[len(order) // 10 :]
    return (images[kept], labels[kept]), (images[held], labels[held]), (test_images, test_labels)


def build(hidden: list[int], dropout: float) -> nn.Sequential:
    """Dense layers with ReLU and dropout; each reads its number of inputs from the first batch."""
    model = nn.Sequential()
    for units in hidden:
        model.add(nn.Dense(units, activation="relu", kernel_initializer="he_normal"))
        model.add(nn.Dropout(dropout))
    return model.add(nn.Dense(10))


def evaluate(model: nn.Module, images: mg.Tensor, labels: mg.Tensor) -> tuple[float, float]:
    """Mean loss and accuracy, without dropout."""
    model.eval()
    with mg.no_grad():
        logits = model(images)
    model.train()
    correct = logits.argmax(axis=-1) == labels
    return F.cross_entropy(logits, labels).item(), correct.mean(dtype=mg.float32).item()


def train(
    model: nn.Module, optimizer: optim.Optimizer, train_set: Part, validation_set: Part, args: argparse.Namespace
) -> list[list[float]]:
    """Run the epochs; returns training loss and accuracy, validation loss and accuracy after each."""
    images, labels = train_set
    starts = range(0, len(images), args.batch_size)
    total, step, history = args.epochs * len(starts), 0, []
    for epoch in range(1, args.epochs + 1):
        order = mg.random.permutation(len(images))
        for start in progress(starts, f"epoch {epoch}/{args.epochs}"):
            batch = order[start : start + args.batch_size]
            optimizer.param_groups[0]["lr"] = args.lr * (1 + math.cos(math.pi * step / total)) / 2
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            step += 1
        row = [*evaluate(model, *train_set), *evaluate(model, *validation_set)]
        print(ROW.format(epoch, *row))
        history.append(row)
    return history


def progress(steps: range, what: str) -> Iterable[int]:
    """The steps, with a progress bar where tqdm is installed and the output is a terminal."""
    return steps if tqdm is None else tqdm(steps, what, leave=False, disable=None)


def plot(history: list[list[float]], test_accuracy: float, what: str, path: str) -> None:
    """Save a picture of the curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    epochs = range(1, len(history) + 1)
    train_loss, train_accuracy, validation_loss, validation_accuracy = zip(*history, strict=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(f"{what}: test accuracy {test_accuracy:.2%}")
    left.plot(epochs, train_loss, marker=".", label="training")
    left.plot(epochs, validation_loss, marker=".", label="validation")
    left.set(title="Loss", xlabel="epoch", ylabel="cross-entropy", yscale="log")
    for set_formatter in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
        set_formatter(ticker.FormatStrFormatter("%g"))
    right.plot(epochs, train_accuracy, marker=".", label="training")
    right.plot(epochs, validation_accuracy, marker=".", label="validation")
    right.axhline(test_accuracy, color="black", linestyle=":", label="test, at the end")
    right.set(title="Accuracy", xlabel="epoch", ylabel="images read correctly")
    right.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_xlim(0.5, len(epochs) + 0.5)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    train_set, validation_set, test_set = load(args.data, args.device)
    sizes = [len(labels) for _, labels in (train_set, validation_set, test_set)]
    if tqdm is None:
        print(f"no progress bar, for tqdm is not installed: {EXTRA}")
    print(f"{args.data}: {sizes[0]} images to train with, {sizes[1]} to validate, {sizes[2]} to test")
    model = build(args.hidden, args.dropout).to(device=args.device)
    optimizer = optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)

    begin = time.perf_counter()
    history = train(model, optimizer, train_set, validation_set, args)
    seconds = time.perf_counter() - begin

    _, accuracy = evaluate(model, *test_set)
    print(model)
    print(
        f"test accuracy {accuracy:.2%} ({round(accuracy * sizes[2])} of {sizes[2]}) after {seconds:.1f} s of training"
    )
    try:
        if args.plot:
            plot(history, accuracy, f"{args.data}, {' - '.join(map(str, args.hidden))} hidden units", args.plot)
            print(f"curves saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture of the curves, for {missing.name} is not installed: {EXTRA}")
    other = "--data mnist --epochs 10 --batch-size 128" if args.data == "digits" else "--hidden 1024 1024"
    print(f"try next: python examples/train_digits.py {other}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:  # a file is missing or damaged, or there is no network
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
