"""Train a convolutional network to read MNIST's digits, and draw its curves and the digits that it misreads.

python examples/mnist_conv.py
python examples/mnist_conv.py --data folder/with/idx/files --epochs 10 --channels 32 64 128
"""

import argparse
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataError, load_mnist
from minigrad.nn import functional as F

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

Part = tuple[mg.Tensor, mg.Tensor]  # images (n, 1, 28, 28), labels (n,)
ROW = "epoch {:3}   train: loss {:.4f}   validation: loss {:.4f}, accuracy {:.2%}   {:.0f} s"
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="MNIST's four .gz files; without it they come from the cache or the network")
    add("--epochs", type=positive, default=6, help="passes over the training data")
    add("--batch-size", type=positive, default=64, help="images in one step")
    add("--lr", type=float, default=2e-3, help="learning rate at the start; it falls along a cosine")
    add("--channels", type=positive, nargs="+", default=[32, 64], help="filters of each convolution; at most 4 of them")
    add("--hidden", type=positive, default=128, help="units of the layer before the last")
    add("--dropout", type=float, default=0.4, help="share of these units switched off in a step")
    add("--weight-decay", type=float, default=0.02, help="decay of the weights (AdamW)")
    add("--device", default="cpu", help="where to compute: cpu or cuda")
    add("--seed", type=int, default=0, help="of the weights, the order of the images, and dropout")
    add("--plot", type=picture, metavar="PATH", default="mnist_conv.png", help="where to save the picture; '' for none")
    args = parser.parse_args()
    if len(args.channels) > 4:
        parser.error(f"argument --channels: {len(args.channels)} convolutions leave nothing of 28 pixels; at most 4")
    return args


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def picture(text: str) -> str:
    """A path that the picture can be saved to, or nothing."""
    path = Path(text)
    if text and path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in any of {', '.join(PICTURES)}")
    if text and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: is there such a folder?")
    return text


def load(folder: str | None, device: str) -> tuple[Part, Part, Part]:
    """Images and labels to train with, to validate (a twentieth of what is not test, drawn at random) and to test."""
    images, labels, test_images, test_labels = (mg.asarray(part, device=device) for part in load_mnist(folder))
    images, test_images = images.reshape(-1, 1, 28, 28), test_images.reshape(-1, 1, 28, 28)
    order = mg.random.permutation(len(images)).to(device)
    held, kept = order[: len(order) // 20], order[len(order) // 20 :]
    return (images[kept], labels[kept]), (images[held], labels[held]), (test_images, test_labels)


class ConvNet(nn.Module):
    """Convolutions, each followed by ReLU and a pooling that halves the image, then two dense layers."""

    def __init__(self, channels: list[int], hidden: int, dropout: float) -> None:
        self.features = nn.Sequential()
        for filters in channels:
            self.features.add(nn.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal"))
            self.features.add(nn.MaxPool2D(2))
        self.head = nn.Sequential([nn.Dense(hidden, activation="relu"), nn.Dropout(dropout), nn.Dense(10)])

    def forward(self, images: mg.Tensor) -> mg.Tensor:
        """Logits (n, 10) of images (n, 1, height, width)."""
        x = self.features(images)
        return self.head(x.reshape(len(x), -1))


def predict(model: nn.Module, images: mg.Tensor) -> mg.Tensor:
    """Logits without dropout, 500 images at a time, so that what lies between the layers stays small."""
    model.eval()
    with mg.no_grad():
        logits = mg.concat([model(images[start : start + 500]) for start in range(0, len(images), 500)])
    model.train()
    return logits


def evaluate(model: nn.Module, images: mg.Tensor, labels: mg.Tensor) -> tuple[float, float]:
    """Mean loss and accuracy."""
    logits = predict(model, images)
    correct = logits.argmax(axis=-1) == labels
    return F.cross_entropy(logits, labels).item(), correct.mean(dtype=mg.float32).item()


def train(
    model: nn.Module, optimizer: optim.Optimizer, train_set: Part, validation_set: Part, args: argparse.Namespace
) -> list[list[float]]:
    """Run the epochs; returns the training loss, the validation loss and accuracy of each."""
    images, labels = train_set
    starts = range(0, len(images), args.batch_size)
    total, step, history, begin = args.epochs * len(starts), 0, [], time.perf_counter()
    for epoch in range(1, args.epochs + 1):
        order, summed = mg.random.permutation(len(images)).to(args.device), 0.0
        bar = progress(starts, f"epoch {epoch}/{args.epochs}")
        for start in bar:
            batch = order[start : start + args.batch_size]
            optimizer.param_groups[0]["lr"] = args.lr * (1 + math.cos(math.pi * step / total)) / 2
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            summed += loss.item() * len(batch)
            step += 1
            if tqdm is not None and step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
        row = [summed / len(images), *evaluate(model, *validation_set)]
        print(ROW.format(epoch, *row, time.perf_counter() - begin))
        history.append(row)
    return history


def progress(steps: range, what: str) -> Iterable[int]:
    """The steps, with a progress bar where tqdm is installed and the output is a terminal."""
    return steps if tqdm is None else tqdm(steps, what, leave=False, disable=None)


def plot(history: list[list[float]], test_set: Part, logits: mg.Tensor, accuracy: float, path: str) -> None:
    """Save a picture of the curves, and of the misread digits that the network was surest of."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    epochs = range(1, len(history) + 1)
    train_loss, validation_loss, validation_accuracy = zip(*history, strict=True)
    figure = pyplot.figure(figsize=(13, 4.2), layout="constrained")
    figure.suptitle(f"MNIST, convolutional network: test accuracy {accuracy:.2%}")
    left, middle, right = figure.subfigures(1, 3)
    axes = left.subplots()
    axes.plot(epochs, train_loss, marker=".", label="training, with dropout")
    axes.plot(epochs, validation_loss, marker=".", label="validation")
    axes.set(title="Loss", xlabel="epoch", ylabel="cross-entropy", yscale="log")
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    # 0.7 and 0.9 would be written into their neighbours
    axes.yaxis.set_minor_formatter(lambda y, _: "" if f"{y:g}".strip("0.") in ("7", "9") else f"{y:g}")
    other = middle.subplots()
    other.plot(epochs, validation_accuracy, marker=".", color="C1", label="validation")
    other.axhline(accuracy, color="black", linestyle=":", label="test, at the end")
    other.set(title="Accuracy", xlabel="epoch", ylabel="digits read correctly")
    other.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    for each in (axes, other):
        each.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        each.set_xlim(0.5, len(epochs) + 0.5)
        each.grid(alpha=0.3)
        each.legend()

    images, labels = (part.to("cpu").numpy() for part in test_set)
    probabilities = mg.softmax(logits, axis=-1).to("cpu").numpy()
    read = probabilities.argmax(axis=-1)
    wrong = sorted((read != labels).nonzero()[0], key=lambda i: -probabilities[i, read[i]])
    right.suptitle(f"{len(wrong)} of {len(labels)} misread, the surest first: label, then reading", fontsize=10)
    grid = right.subplots(3, 5)
    for place in grid.flat:
        place.axis("off")
    for place, i in zip(grid.flat, wrong, strict=False):
        place.imshow(images[i, 0], cmap="gray_r")
        place.set_title(f"{labels[i]}, {read[i]}", fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    train_set, validation_set, test_set = load(args.data, args.device)
    sizes = [len(labels) for _, labels in (train_set, validation_set, test_set)]
    if tqdm is None:
        print(f"no progress bar, for tqdm is not installed: {EXTRA}")
    print(f"{sizes[0]} images to train with, {sizes[1]} to validate, {sizes[2]} to test")
    model = ConvNet(args.channels, args.hidden, args.dropout).to(args.device)
    model(train_set[0][:1])  # the layers read their numbers of inputs
    optimizer = optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)

    begin = time.perf_counter()
    history = train(model, optimizer, train_set, validation_set, args)
    seconds = time.perf_counter() - begin

    logits = predict(model, test_set[0])
    accuracy = (logits.argmax(axis=-1) == test_set[1]).mean(dtype=mg.float32).item()
    print(model)
    print(
        f"test accuracy {accuracy:.2%} ({round(accuracy * sizes[2])} of {sizes[2]}) after {seconds:.1f} s of training"
    )
    try:
        if args.plot:
            plot(history, test_set, logits, accuracy, args.plot)
            print(f"picture saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture, for {missing.name} is not installed: {EXTRA}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:  # a file is missing or damaged, or there is no network
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
