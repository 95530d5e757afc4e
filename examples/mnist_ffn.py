"""Train a feed-forward network to read MNIST's digits with the Trainer, and draw its curves and what it misreads.

python examples/mnist_ffn.py
python examples/mnist_ffn.py --data folder/with/idx/files --epochs 40 --hidden 1024 1024
"""

import argparse
import os
import time
from pathlib import Path

import minigrad as mg
from minigrad import data, nn, train
from minigrad.data import transforms

Part = tuple[mg.Tensor, mg.Tensor]  # images (n, 28, 28), labels (n,)
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="MNIST's four .gz files; without it they come from the cache or the network")
    add("--epochs", type=positive, default=15, help="passes over the training data")
    add("--patience", type=positive, default=4, help="epochs without a better validation loss that end the training")
    add("--batch-size", type=positive, default=128, help="images in one step")
    add("--lr", type=float, default=1.5e-3, help="learning rate at the start; it falls along a cosine")
    add("--hidden", type=positive, nargs="+", default=[512, 512], help="units of each hidden layer")
    add("--dropout", type=float, default=0.2, help="share of the hidden units switched off in a step")
    add("--l2", type=float, default=1e-6, help="penalty on the squares of the weights")
    add("--shift", type=int, default=2, help="by how many pixels at most an image is moved, each way")
    add("--rotate", type=float, default=0.0, help="by how many degrees at most an image is turned; needs scipy")
    add("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="what to compute in")
    add("--resume", metavar="FOLDER", help="save the run there after every epoch, and go on from there")
    add("--device", default="cpu", help="where to compute: cpu or cuda")
    add("--seed", type=int, default=0, help="of the weights, the order of the images, dropout and augmentation")
    add("--plot", type=picture, metavar="PATH", default="mnist_ffn.png", help="where to save the picture; '' for none")
    return parser.parse_args()


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


def load(folder: str | None) -> tuple[Part, Part, Part]:
    """Images and labels to train with, to validate (a twentieth of what is not test, drawn at random) and to test."""
    images, labels, test_images, test_labels = (mg.asarray(part) for part in data.load_mnist(folder))
    order = mg.random.permutation(len(images))
    held, kept = order[: len(order) // 20], order[len(order) // 20 :]
    return (images[kept], labels[kept]), (images[held], labels[held]), (test_images, test_labels)


def build(hidden: list[int], dropout: float) -> nn.Sequential:
    """Dense layers with ReLU and dropout; each reads its number of inputs from the first batch."""
    model = nn.Sequential([nn.Flatten()])
    for units in hidden:
        model.add(nn.Dense(units, activation="relu", kernel_initializer="he_normal"))
        model.add(nn.Dropout(dropout))
    return model.add(nn.Dense(10))


def plot(history: dict[str, list[float]], test_set: Part, logits: mg.Tensor, accuracy: float, path: str) -> None:
    """Save a picture of the curves, and of the misread digits that the network was surest of."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    epochs = range(1, len(history["loss"]) + 1)
    figure = pyplot.figure(figsize=(13, 4.2), layout="constrained")
    figure.suptitle(f"MNIST, feed-forward network: test accuracy {accuracy:.2%}")
    left, middle, right = figure.subfigures(1, 3)
    axes, other = left.subplots(), middle.subplots()
    for place, name in ((axes, "loss"), (other, "accuracy")):
        place.plot(epochs, history[name], marker=".", label="training, with dropout and shifts")
        place.plot(epochs, history[f"val_{name}"], marker=".", label="validation")
        place.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        place.set_xlim(0.5, len(epochs) + 0.5)
        place.grid(alpha=0.3)
    axes.set(title="Loss", xlabel="epoch", ylabel="cross-entropy", yscale="log")
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    # 0.7 and 0.9 would be written into their neighbours
    axes.yaxis.set_minor_formatter(lambda y, _: "" if f"{y:g}".strip("0.") in ("7", "9") else f"{y:g}")
    other.axhline(accuracy, color="black", linestyle=":", label="test, at the end")
    other.set(title="Accuracy", xlabel="epoch", ylabel="digits read correctly")
    other.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axes.legend()
    other.legend()

    images, labels = (part.numpy() for part in test_set)
    probabilities = mg.softmax(logits, axis=-1).to("cpu").numpy()
    read = probabilities.argmax(axis=-1)
    wrong = sorted((read != labels).nonzero()[0], key=lambda i: -probabilities[i, read[i]])
    right.suptitle(f"{len(wrong)} of {len(labels)} misread, the surest first: label, then reading", fontsize=10)
    grid = right.subplots(3, 5)
    for place in grid.flat:
        place.axis("off")
    for place, i in zip(grid.flat, wrong, strict=False):
        place.imshow(images[i], cmap="gray_r")
        place.set_title(f"{labels[i]}, {read[i]}", fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    train_set, validation_set, test_set = load(args.data)
    sizes = [len(labels) for _, labels in (train_set, validation_set, test_set)]
    print(f"{sizes[0]} images to train with, {sizes[1]} to validate, {sizes[2]} to test")
    changes = [transforms.RandomRotation(args.rotate)] * bool(args.rotate)
    changes += [transforms.RandomCrop(padding=args.shift)] * bool(args.shift)
    options = {"seed": args.seed, "transform": transforms.Compose(changes) if changes else None}
    loader = data.DataLoader(data.TensorDataset(*train_set), args.batch_size, shuffle=True, **options)
    callbacks = [train.EarlyStopping(patience=args.patience)]
    if args.resume:
        callbacks.append(train.Checkpoint(args.resume))
    trainer = train.Trainer(
        build(args.hidden, args.dropout),
        loss="cross_entropy",
        optimizer="adam",
        metrics=["accuracy"],
        lr=args.lr,
        regularizer=nn.L2(args.l2),
        schedule="cosine",
        precision=args.precision,
        device=args.device,
        callbacks=callbacks,
    )

    begin = time.perf_counter()
    history = trainer.fit(loader, epochs=args.epochs, validation=validation_set, batch_size=500, resume=args.resume)
    seconds = time.perf_counter() - begin

    print(trainer.model)
    found = trainer.evaluate(test_set, batch_size=500)
    accuracy = found["accuracy"]
    print(
        f"test accuracy {accuracy:.2%} ({round(accuracy * sizes[2])} of {sizes[2]}), loss {found['loss']:.4f}, "
        f"after {seconds:.1f} s of training"
    )
    try:
        if args.plot:
            plot(history, test_set, trainer.predict(test_set[0], batch_size=500), accuracy, args.plot)
            print(f"picture saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture, for {missing.name} is not installed: {EXTRA}")


if __name__ == "__main__":
    try:
        main()
    except data.DataError as error:  # a file is missing or damaged, or there is no network
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
