"""Train networks that read handwritten digits also where an adversary has changed them, and draw what it changed.

python examples/adversarial.py --data digits --epsilon 0.1 --epochs 30
python examples/adversarial.py --epsilon 0.3 --epochs 8 --free 4
"""

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

import minigrad as mg
from minigrad import nn, optim, train
from minigrad.data import DataError, load_digits, load_mnist
from minigrad.nn import functional as F

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

Part = tuple[mg.Tensor, mg.Tensor]  # images (n, 1, height, width), labels (n,)
ROW = "{:12} {:14.2%} {:16.2%} {:13.0f} s"
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--data", choices=["digits", "mnist"], default="mnist", help="8x8 digits, in the package, or MNIST")
    add("--epsilon", type=share, default=0.2, help="how far the adversary may change a pixel, paper is 0 and ink 1")
    add("--steps", type=positive, default=5, help="steps of the adversary in training (PGD)")
    add("--attack-steps", type=positive, default=20, help="steps of the adversary that the networks are tested with")
    add("--epochs", type=positive, default=2, help="passes over the training data for each network")
    add("--free", type=positive, metavar="REPLAYS", help="train a third network, by free adversarial training")
    add("--batch-size", type=positive, default=128, help="images in one step")
    add("--lr", type=float, default=5e-3, help="the largest learning rate, in one cycle")
    add("--channels", type=positive, nargs="+", default=[8, 16], help="filters of each convolution; at most 3 of them")
    add("--hidden", type=positive, default=64, help="units of the layer before the last")
    add("--test", type=positive, default=1000, help="images of the test part to try the adversary on")
    add("--seed", type=int, default=0, help="of the weights, the order of the images, and the adversary")
    add(
        "--plot", type=picture, metavar="PATH", default="adversarial.png", help="where to save the picture; '' for none"
    )
    args = parser.parse_args()
    if len(args.channels) > 3:
        parser.error(f"argument --channels: {len(args.channels)} convolutions leave nothing of 8 pixels; at most 3")
    return args


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def share(text: str) -> float:
    """An argument between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, and at most 1")
    return value


def picture(text: str) -> str:
    """A path that the picture can be saved to, or nothing."""
    path = Path(text)
    if text and path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in any of {', '.join(PICTURES)}")
    if text and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: is there such a folder?")
    return text


def load(name: str, test: int) -> tuple[Part, Part]:
    """Images and labels to train with, and to test, of the latter so many."""
    data = load_digits() if name == "digits" else load_mnist()
    images, labels, test_images, test_labels = (mg.asarray(part) for part in data)
    return (images[:, None], labels), (test_images[:test, None], test_labels[:test])


class ConvNet(nn.Module):
    """Convolutions, each followed by ReLU and a pooling that halves the image, then two dense layers."""

    def __init__(self, channels: list[int], hidden: int) -> None:
        self.features = nn.Sequential()
        for filters in channels:
            self.features.add(nn.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal"))
            self.features.add(nn.MaxPool2D(2))
        self.head = nn.Sequential([nn.Flatten(), nn.Dense(hidden, activation="relu"), nn.Dense(10)])

    def forward(self, images: mg.Tensor) -> mg.Tensor:
        """Logits (n, 10) of images (n, 1, height, width)."""
        return self.head(self.features(images))


def fit(what: str, train_set: Part, adversary: object, args: argparse.Namespace) -> tuple[nn.Module, float]:
    """A network trained with an adversary, or with none, and the seconds that it took."""
    mg.random.seed(args.seed)  # all start from the same weights
    images, labels = train_set
    model = ConvNet(args.channels, args.hidden)
    model(images[:1])  # the layers read their numbers of inputs
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    starts, begin = range(0, len(images), args.batch_size), time.perf_counter()
    # with replays each batch is trained on several times, so fewer epochs cost as much
    replays = getattr(adversary, "replays", 1)
    epochs = max(args.epochs // replays, 1)
    schedule = optim.schedules.OneCycleLR(optimizer, args.lr, epochs=epochs, steps_per_epoch=len(starts) * replays)

    def step() -> None:
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    def backward(loss: mg.Tensor, weight: float = 1.0) -> None:
        (loss * weight).backward()

    for epoch in range(1, epochs + 1):
        order, summed = mg.random.permutation(len(images)), 0.0
        for start in progress(starts, f"{what}, epoch {epoch}/{epochs}"):
            batch = order[start : start + args.batch_size]
            x, y = images[batch], labels[batch]

            def compute(x: mg.Tensor, y: mg.Tensor = y) -> mg.Tensor:
                return F.cross_entropy(model(x), y)

            if adversary is None:
                loss = compute(x)
                backward(loss)
            else:
                loss = adversary(compute, x, backward, step)
            step()
            summed += loss.item() * len(batch)
        print(f"{what:12} epoch {epoch}   training loss {summed / len(images):.4f}")
    return model.eval(), time.perf_counter() - begin


def progress(steps: range, what: str) -> Iterable[int]:
    """The steps, with a progress bar where tqdm is installed and the output is a terminal."""
    return steps if tqdm is None else tqdm(steps, what, leave=False, disable=None)


def attack(model: nn.Module, part: Part, epsilon: float, steps: int) -> mg.Tensor:
    """The images, changed so that the network misreads them."""
    images, labels = part
    pgd = train.PGD(epsilon, 2.5 * epsilon / steps, steps, bounds=(0.0, 1.0))
    pieces = []
    for start in range(0, len(images), 500):
        y = labels[start : start + 500]
        pieces.append(pgd.perturb(lambda x, y=y: F.cross_entropy(model(x), y), images[start : start + 500]))
    return mg.concat(pieces)


def read(model: nn.Module, images: mg.Tensor) -> mg.Tensor:
    """The digits that the network reads."""
    with mg.no_grad():
        return model(images).argmax(axis=-1)


def accuracy(model: nn.Module, images: mg.Tensor, labels: mg.Tensor) -> float:
    """The share read correctly."""
    return (read(model, images) == labels).mean(dtype=mg.float32).item()


def plot(models: dict[str, nn.Module], test_set: Part, args: argparse.Namespace) -> None:
    """Save a picture: accuracy over epsilon, and digits as they were and as the adversary changed them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure = pyplot.figure(figsize=(13, 1.4 * (len(models) + 1)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    axes = left.subplots()
    radii = [args.epsilon * k / 4 for k in range(7)]
    few = test_set[0][:200], test_set[1][:200]
    for name, model in models.items():
        found = [accuracy(model, attack(model, few, r, args.attack_steps) if r else few[0], few[1]) for r in radii]
        axes.plot(radii, found, marker=".", label=f"{name} training")
    axes.axvline(args.epsilon, color="black", linestyle=":", label="epsilon in training")
    axes.set(title="What the adversary leaves of the accuracy", xlabel="epsilon", ylabel="digits read correctly")
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.legend()

    part = test_set[0][:8], test_set[1][:8]
    rows = {"as it is": (part[0], next(iter(models.values())))}
    for name, model in models.items():
        rows[name] = attack(model, part, args.epsilon, args.attack_steps), model
    right.suptitle("Changed to mislead each network, and what it reads; red where that is wrong", fontsize=10)
    grid = right.subplots(len(rows), len(part[1]), squeeze=False)
    for (name, (images, model)), places in zip(rows.items(), grid, strict=True):
        for place, image, digit, label in zip(places, images.numpy(), read(model, images), part[1], strict=True):
            place.imshow(image[0], cmap="gray_r", vmin=0.0, vmax=1.0)
            place.set(xticks=[], yticks=[])
            place.set_title(str(digit.item()), fontsize=9, color="black" if digit.item() == label.item() else "red")
        places[0].set_ylabel(name, fontsize=9)
    figure.savefig(args.plot, dpi=110)


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    train_set, test_set = load(args.data, args.test)
    if tqdm is None:
        print(f"no progress bar, for tqdm is not installed: {EXTRA}")
    sizes = len(train_set[1]), len(test_set[1])
    print(f"{args.data}: {sizes[0]} images to train with, {sizes[1]} to test; epsilon {args.epsilon:g}")
    bounds = (0.0, 1.0)
    adversaries: dict[str, object] = {
        "plain": None,
        "PGD": train.PGD(args.epsilon, 2.5 * args.epsilon / args.steps, args.steps, bounds=bounds),
    }
    if args.free is not None:
        adversaries["free"] = train.Free(args.epsilon, args.free, bounds=bounds)
    models, lines = {}, []
    for name, adversary in adversaries.items():
        model, seconds = fit(name, train_set, adversary, args)
        clean = accuracy(model, *test_set)
        robust = accuracy(model, attack(model, test_set, args.epsilon, args.attack_steps), test_set[1])
        lines.append(ROW.format(name, clean, robust, seconds))
        models[name] = model
    print(f"{'training':12} {'clean accuracy':>14} {'under attack':>16} {'seconds':>15}")
    print("\n".join(lines))
    try:
        if args.plot:
            plot(models, test_set, args)
            print(f"picture saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture, for {missing.name} is not installed: {EXTRA}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:  # a file is missing or damaged, or there is no network
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
