"""Distill a network that reads MNIST into one of a fraction of its size, beside the same small network trained alone.

python examples/distill.py
python examples/distill.py --data folder/with/idx/files --images 60000 --epochs 10 --hidden 32
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import minigrad as mg
from minigrad import compress, data, io, nn, train
from minigrad.data import transforms

Part = tuple[mg.Tensor, mg.Tensor]  # images (n, 28, 28), labels (n,)
SIDES = ("alone", "distilled")
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="MNIST's four .gz files; without it they come from the cache or the network")
    add("--teacher-hidden", type=positive, nargs="+", default=[512, 512], help="units of the teacher's hidden layers")
    add("--teacher-epochs", type=positive, default=6, help="passes of the teacher, over images that are moved a little")
    add("--hidden", type=positive, nargs="+", default=[64], help="units of the student's hidden layers")
    add("--epochs", type=positive, default=30, help="passes of a student")
    add("--images", type=positive, default=3000, help="how many images a student sees; the teacher has seen all")
    add("--batch-size", type=positive, default=128, help="images in one step")
    add(
        "--lr",
        type=float,
        nargs="+",
        default=[3e-3, 1e-2, 3e-2],
        help="the best one for validation is taken, for each side",
    )
    add("--temperature", type=float, default=4.0, help="of the soft targets")
    add("--alpha", type=float, default=0.9, help="the share of the soft targets in the loss")
    add("--runs", type=positive, default=5, help="students of each side, with seeds of their own")
    add("--seed", type=int, default=0, help="of the first run")
    add("--plot", type=picture, metavar="PATH", default="distill.png", help="where to save the picture; '' for none")
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


class Run(NamedTuple):
    """A student that was trained."""

    student: nn.Module
    accuracy: float  # on the test set
    validation: float  # accuracy at the end
    curve: list[float]  # validation accuracy after each epoch
    seconds: float


def build(hidden: list[int], dropout: float = 0.0) -> nn.Sequential:
    """Dense layers with ReLU."""
    model, width = nn.Sequential([nn.Flatten()]), 28 * 28
    for units in hidden:
        model.add(nn.Dense(units, activation="relu", kernel_initializer="he_normal", in_features=width))
        if dropout:
            model.add(nn.Dropout(dropout))
        width = units
    return model.add(nn.Dense(10, in_features=width))


def fit_teacher(args: argparse.Namespace, train_set: Part, validation_set: Part) -> nn.Module:
    """The large network, trained with dropout on images that are moved by up to two pixels."""
    mg.random.seed(args.seed)
    moved = transforms.RandomCrop(padding=2)
    loader = data.DataLoader(
        data.TensorDataset(*train_set), args.batch_size, shuffle=True, seed=args.seed, transform=moved
    )
    model = build(args.teacher_hidden, dropout=0.2)
    trainer = train.Trainer(model, "cross_entropy", "adam", ["accuracy"], lr=1.5e-3, schedule="cosine")
    trainer.fit(loader, epochs=args.teacher_epochs, validation=validation_set, batch_size=500, verbose=0)
    return model.eval()


class Lab:
    """Students of both sides: they see the same images in the same order, from the same first weights."""

    def __init__(self, args: argparse.Namespace, teacher: nn.Module, sets: tuple[Part, Part, Part], cache: str) -> None:
        self.args, self.teacher, self.cache = args, teacher, cache
        self.train_set, self.validation_set, self.test_set = sets

    def fit(self, side: str, lr: float, seed: int) -> Run:
        """Train one student."""
        args, dataset = self.args, data.TensorDataset(*self.train_set)
        mg.random.seed(seed)
        student = build(args.hidden)
        model, loss = student, nn.CrossEntropyLoss()
        if side == "distilled":
            model = compress.Distiller(student, self.teacher, args.temperature, args.alpha)
            dataset = model.cache(self.cache, dataset, batch_size=500)  # the teacher reads each image once
            loss = model.loss
        loader = data.DataLoader(dataset, args.batch_size, shuffle=True, seed=seed)
        trainer = train.Trainer(model, loss, "adam", ["accuracy"], lr=lr, schedule="cosine")
        begin = time.perf_counter()
        history = trainer.fit(loader, epochs=args.epochs, validation=self.validation_set, batch_size=500, verbose=0)
        seconds = time.perf_counter() - begin
        curve = history["val_accuracy"]
        return Run(student.eval(), accuracy(student, self.test_set), curve[-1], curve, seconds)


def accuracy(model: nn.Module, part: Part) -> float:
    """The share of images that a network reads correctly."""
    with mg.no_grad():
        read = mg.argmax(model(part[0]), axis=-1)
    return float(mg.mean((read == part[1]).astype(mg.float32)).item())


def spread(values: list[float]) -> str:
    """Mean and standard deviation, in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.fmean(values):.2f} ± {100 * deviation:.2f}"


def sizes(models: dict[str, nn.Module], folder: str) -> dict[str, int] | None:
    """The bytes of the file of each model."""
    found = {}
    try:
        for name, model in models.items():
            path = os.path.join(folder, f"{name}.safetensors")
            io.save_weights(path, model.state_dict())
            found[name] = os.path.getsize(path)
    except ImportError:
        return None
    return found


def plot(runs: dict[str, list[Run]], lab: Lab, teacher_accuracy: float, path: str) -> None:
    """Save a picture of the curves, of every pair of students, and of what the teacher says of a few digits."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure = pyplot.figure(figsize=(13, 4.3), layout="constrained")
    figure.suptitle("MNIST: a small network alone, and with a large one as its teacher")
    left, middle, right = figure.subfigures(1, 3)
    axes, other = left.subplots(), middle.subplots()
    colors = dict(zip(SIDES, ("tab:gray", "tab:blue"), strict=True))
    for side in SIDES:
        curves = list(zip(*(run.curve for run in runs[side]), strict=True))
        epochs = range(1, len(curves) + 1)
        mean = [statistics.fmean(values) for values in curves]
        axes.plot(epochs, mean, marker=".", color=colors[side], label=side)
        axes.fill_between(epochs, [*map(min, curves)], [*map(max, curves)], color=colors[side], alpha=0.25, lw=0)
    axes.set(title="Validation, mean and range of the runs", xlabel="epoch", ylabel="digits read correctly")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower right")
    pairs = list(zip(runs["alone"], runs["distilled"], strict=True))
    for alone, distilled in pairs:
        other.plot([0, 1], [alone.accuracy, distilled.accuracy], color="lightgray", zorder=0)
    for place, side in enumerate(SIDES):
        values = [run.accuracy for run in runs[side]]
        other.scatter([place] * len(values), values, color=colors[side], s=25)
        other.hlines(statistics.fmean(values), place - 0.15, place + 0.15, color=colors[side])
    other.axhline(teacher_accuracy, color="black", linestyle=":")
    other.annotate("teacher", (-0.4, teacher_accuracy), xytext=(0, -12), textcoords="offset points")
    other.set_xticks([0, 1], SIDES)
    other.set(title="Test, each pair from the same first weights", xlim=(-0.45, 1.45))
    for place in (axes, other):
        place.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=1))
        place.grid(alpha=0.3)

    images, _ = lab.train_set
    first = images[: min(2000, len(images))]
    with mg.no_grad():
        soft = mg.softmax(lab.teacher(first) / lab.args.temperature, axis=-1).numpy()
    doubtful = soft.max(axis=-1).argsort()[:4]
    right.suptitle(f"What the teacher says of images, at temperature {lab.args.temperature:g}", fontsize=11)
    grid = right.subplots(4, 2, width_ratios=(1, 3))
    for (shown, bars), i in zip(grid, doubtful, strict=False):
        shown.imshow(first[int(i)].numpy(), cmap="gray_r")
        shown.axis("off")
        bars.bar(range(10), soft[i], color="tab:blue")
        bars.set(xticks=range(10), yticks=[], ylim=(0, 1.05 * soft[doubtful].max()))
        bars.spines[["top", "left", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    images, labels, test_images, test_labels = (mg.asarray(part) for part in data.load_mnist(args.data))
    order = mg.random.permutation(len(images))
    held, kept = order[: len(order) // 20], order[len(order) // 20 :]
    train_set, validation_set = (images[kept], labels[kept]), (images[held], labels[held])
    test_set = test_images, test_labels
    begin = time.perf_counter()
    teacher = fit_teacher(args, train_set, validation_set)
    teacher_accuracy = accuracy(teacher, test_set)
    count, own = (sum(p.size for p in m.parameters()) for m in (teacher, build(args.hidden)))
    seconds = time.perf_counter() - begin
    seen = f"{len(train_set[0])} images, test accuracy {teacher_accuracy:.2%}"
    print(f"teacher: {count:,} parameters, {seen}, {seconds:.0f} s")
    print(f"student: {own:,} parameters, {own / count:.1%} of the teacher's", flush=True)

    few = tuple(part[: args.images] for part in train_set)
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(args, teacher, (few, validation_set, test_set), os.path.join(folder, "teacher.cache"))
        rates = {}
        for side in SIDES:
            tried = {lr: lab.fit(side, lr, args.seed + 1000).validation for lr in args.lr} if len(args.lr) > 1 else {}
            rates[side] = max(tried, key=tried.__getitem__) if tried else args.lr[0]
            runs[side] = [lab.fit(side, rates[side], args.seed + k) for k in range(args.runs)]
        chosen = ", ".join(f"{side} {rates[side]:g}" for side in SIDES)
        print(f"students: {len(few[0])} images, {args.epochs} epochs; learning rates: {chosen}")
        print("\n  seed  alone  distilled   test accuracy, %")
        for k, (alone, distilled) in enumerate(zip(runs["alone"], runs["distilled"], strict=True)):
            print(f"{args.seed + k:6}  {100 * alone.accuracy:5.2f}  {100 * distilled.accuracy:9.2f}")
        for side in SIDES:
            took = statistics.fmean(run.seconds for run in runs[side])
            print(f"{side:>9}: {spread([run.accuracy for run in runs[side]])} %, {took:.1f} s a run")
        gains = [b.accuracy - a.accuracy for a, b in zip(runs["alone"], runs["distilled"], strict=True)]
        print(f"distilling gains {spread(gains)} points")
        found = sizes({"teacher": teacher, "student": runs["distilled"][0].student}, folder)
        if found is not None:
            print(f"files: teacher {found['teacher']:,} bytes, student {found['student']:,} bytes")
    try:
        if args.plot:
            plot(runs, lab, teacher_accuracy, args.plot)
            print(f"picture saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture, for {missing.name} is not installed: {EXTRA}")


if __name__ == "__main__":
    try:
        main()
    except data.DataError as error:  # a file is missing or damaged, or there is no network
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
