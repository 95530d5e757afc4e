"""Train in float32, in float16 with a loss scale and in float16 without one, and draw what underflow takes away.

python examples/mixed_precision.py
python examples/mixed_precision.py --loss-weight 1e-5
python examples/mixed_precision.py --task text
"""

import argparse
import copy
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import amp, nn, optim
from minigrad.data import DataError, load_mnist
from minigrad.nn import functional as F

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

ROW = "{:19}  step {:5}   training loss {:.5f}   {} {}   gradients lost {:6.2%}   scale {:>7.7g}   {:.0f} s"
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")
DEFAULTS = {
    "classifier": {"steps": 4700, "batch_size": 128, "lr": 1e-3, "weight_decay": 0.01},
    "text": {"steps": 2000, "batch_size": 12, "lr": 2e-3, "weight_decay": 0.1},
}
RUNS = {"float32": (False, False), "float16, scaled": (True, True), "float16, not scaled": (True, False)}


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--task", choices=DEFAULTS, default="classifier", help="read MNIST's digits, or go on with a text (GPT)")
    add("--data", metavar="PATH", default="", help="a folder with MNIST's four .gz files, or a text file; '' for ours")
    add("--steps", type=positive, help="steps of each training; the task has a default, as for the next three")
    add("--batch-size", type=positive, help="examples in one step")
    add("--lr", type=float, help="learning rate at its highest; it rises and then falls along a cosine")
    add("--loss-weight", type=float, default=1.0, help="factor of the loss; one of several losses may have 1e-4")
    add("--weight-decay", type=float, help="decay of the matrices (AdamW)")
    add("--hidden", type=positive, nargs="+", default=[256, 128], help="units of the hidden layers, not of the GPT")
    add("--layers", type=positive, default=4, help="layers of the GPT")
    add("--features", type=positive, default=128, help="features of the GPT")
    add("--block", type=positive, default=64, help="characters that the GPT sees")
    add("--clip", type=float, default=1.0, help="longest gradient, all parameters together")
    add(
        "--weights", choices=["half", "float32"], default="half", help="float16 with float32 masters, or cast each time"
    )
    add("--growth-interval", type=positive, default=500, help="steps without overflow that double the scale")
    add("--looks", type=positive, default=20, help="how often to look at what the training has reached")
    add("--seed", type=int, default=0, help="of the weights and the order of the data")
    add(
        "--plot",
        type=picture,
        metavar="PATH",
        default="mixed_precision.png",
        help="where to save the picture; '' for none",
    )
    args = parser.parse_args()
    for name, value in DEFAULTS[args.task].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
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


@dataclass
class Task:
    """What is trained, and how it is judged."""

    build: Callable[[], nn.Module]
    draw: Callable[[], Any]  # a batch
    loss: Callable[[nn.Module, Any], mg.Tensor]
    score: Callable[[nn.Module], float]
    score_name: str
    score_format: str
    what: str


def digits_task(args: argparse.Namespace) -> Task:
    """MNIST: which digit it is."""
    images, labels, test_images, test_labels = load_mnist(args.data or None)
    images, test_images = images.reshape(len(images), -1), test_images.reshape(len(test_images), -1)

    def draw() -> Any:
        chosen = mg.random.integers(0, len(images), (args.batch_size,)).numpy()
        return mg.asarray(images[chosen]), mg.asarray(labels[chosen])

    def build() -> nn.Module:
        layers = [nn.Dense(n, activation="relu", kernel_initializer="he_normal") for n in args.hidden]
        model = nn.Sequential([*layers, nn.Dense(10)])
        model(mg.asarray(images[:1]))  # the layers read their numbers of inputs
        return model

    def score(model: nn.Module) -> float:
        parts = [slice(start, start + 1000) for start in range(0, len(test_images), 1000)]
        found = [model(mg.asarray(test_images[part])).argmax(axis=-1).numpy() for part in parts]
        return float((np.concatenate(found) == test_labels).mean())

    def loss(model: nn.Module, batch: Any) -> mg.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    units = " - ".join(map(str, args.hidden))
    return Task(build, draw, loss, score, "test accuracy", "{:.2%}", f"MNIST, {units} hidden units")


def text_task(args: argparse.Namespace) -> Task:
    """The next character, by the GPT of char_gpt.py."""
    from char_gpt import evaluate, load, pieces  # the example beside this one

    from minigrad.models import GPT, CharacterTokenizer, GPTConfig

    text = load(args.data)
    tokenizer = CharacterTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    training, held = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    if len(held) <= args.block:
        raise SystemExit(f"the text has {len(ids)} characters, too few for pieces of {args.block}")
    size = {"vocab_size": tokenizer.vocab_size, "max_length": args.block, "features": args.features}

    def draw() -> Any:
        starts = mg.random.integers(0, len(training) - args.block, (args.batch_size,)).numpy()
        return pieces(training, starts, args.block)

    def score(model: nn.Module) -> float:
        return evaluate(model, held, args.block)

    return Task(
        lambda: GPT(GPTConfig(**size, num_layers=args.layers, num_heads=4)),
        draw,
        lambda model, batch: model(*batch),
        score,
        "validation loss",
        "{:.4f}",
        f"characters, {args.layers} layers of {args.features} features",
    )


@dataclass
class Record:
    """What a training has shown."""

    looks: list[tuple[int, float, float, float]] = field(default_factory=list)  # step, loss, score, share of lost
    scales: list[float] = field(default_factory=list)  # at every step
    skipped: list[int] = field(default_factory=list)  # steps
    seconds: float = 0.0


def train(task: Task, name: str, args: argparse.Namespace) -> Record:
    """One of the three trainings, from the same weights on the same batches."""
    half, scaled = RUNS[name]
    mg.random.seed(args.seed)
    model = task.build()
    if half and args.weights == "half":
        model.to(mg.float16)  # the optimizer keeps float32 masters
    parameters = model.parameters()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99))
    scaler = amp.GradScaler(growth_interval=args.growth_interval, enabled=scaled)
    record, losses = Record(), []
    every = max(args.steps // args.looks, 1)
    for step in progress(range(1, args.steps + 1), name):
        begin = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        batch = task.draw()
        optimizer.zero_grad()
        with amp.autocast(mg.float16, enabled=half):
            loss = task.loss(model, batch)
        scaler.scale(loss * args.loss_weight).backward()
        scaler.unscale_(optimizer)
        look = step % every == 0 or step == args.steps
        gradients = [p.grad.numpy().copy() for p in parameters] if look else []
        optim.clip_grad_norm_(parameters, args.clip)
        twin = copy.deepcopy(model) if look and half else None
        record.scales.append(scaler.get_scale())
        if not scaler.step(optimizer):
            record.skipped.append(step)
        scaler.update()
        losses.append(loss.item())
        record.seconds += time.perf_counter() - begin
        if look:
            lost = 0.0 if twin is None else share_lost(task, twin, batch, gradients, args.loss_weight)
            model.eval()
            with mg.no_grad(), amp.autocast(mg.float16, enabled=half):
                score = task.score(model)
            model.train()
            record.looks.append((step, sum(losses[-every:]) / len(losses[-every:]), score, lost))
            shown = task.score_format.format(score)
            scale = record.scales[-1]
            say(ROW.format(name, step, record.looks[-1][1], task.score_name, shown, lost, scale, record.seconds))
    return record


def share_lost(task: Task, model: nn.Module, batch: Any, gradients: list[np.ndarray], weight: float) -> float:
    """Of the elements of the gradient that float32 finds other than 0, with the same weights, how many are 0.

    NaN where the gradient is not finite.
    """
    if not all(np.isfinite(g).all() for g in gradients):
        return math.nan
    model.to(mg.float32)
    model.zero_grad()
    (task.loss(model, batch) * weight).backward()
    truth = [p.grad.numpy() for p in model.parameters()]
    lost = sum(int(((g == 0) & (t != 0)).sum()) for g, t in zip(gradients, truth, strict=True))
    return lost / max(sum(int((t != 0).sum()) for t in truth), 1)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Up along a line, then down along a cosine to a tenth."""
    warmup = min(100, max(args.steps // 10, 1))
    if step <= warmup:
        return args.lr * step / warmup
    done = (step - warmup) / (args.steps - warmup)
    return args.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)


def progress(steps: range, what: str) -> Iterable[int]:
    """The steps, with a progress bar where tqdm is installed and the output is a terminal."""
    return steps if tqdm is None else tqdm(steps, what, leave=False, disable=None)


def say(text: str) -> None:
    """Print beside the progress bar."""
    print(text, flush=True) if tqdm is None else tqdm.write(text)


def report(task: Task, records: dict[str, Record]) -> None:
    """A table of the three trainings."""
    print(f"\n{'':19}  {task.score_name:>15}   gradients lost   steps skipped   last scale   seconds")
    for name, record in records.items():
        known = [look[3] for look in record.looks if not math.isnan(look[3])]
        lost = sum(known) / max(len(known), 1)
        score, scaled = task.score_format.format(record.looks[-1][2]), RUNS[name][1]
        scale = f"{record.scales[-1]:.7g}" if scaled else "-"
        shown = f"{lost:.2%}" if RUNS[name][0] else "-"
        print(f"{name:19}  {score:>15}   {shown:>14}   {len(record.skipped):13}   {scale:>10}   {record.seconds:7.1f}")
    print("gradients lost: elements that are 0 in float16 and not in float32, at the same weights; mean of the looks")


def plot(task: Task, records: dict[str, Record], what: str, path: str) -> None:
    """Save a picture: loss, score, lost gradients, scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, places = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    figure.suptitle(f"Mixed precision: {what}")
    (loss_axes, score_axes), (lost_axes, scale_axes) = places
    for k, (name, record) in enumerate(records.items()):
        steps, losses, scores, lost = zip(*record.looks, strict=True)
        look = {"label": name, "color": f"C{k}", "marker": ".", "linestyle": ("-", "--", ":")[k]}
        loss_axes.plot(steps, losses, **look)
        score_axes.plot(steps, scores, **look)
        if RUNS[name][0]:
            lost_axes.plot(steps, lost, **look)
        if RUNS[name][1]:
            every = range(1, len(record.scales) + 1)
            scale_axes.step(every, record.scales, where="mid", color=f"C{k}", label=name)
            if not record.skipped:
                continue
            heights = [record.scales[step - 1] for step in record.skipped]
            scale_axes.plot(record.skipped, heights, "x", color="C3", label=f"{len(record.skipped)} skipped steps")
    loss_axes.set(title="Training loss", yscale="log")
    for set_formatter in (loss_axes.yaxis.set_major_formatter, loss_axes.yaxis.set_minor_formatter):
        set_formatter(ticker.FormatStrFormatter("%g"))
    score_axes.set(title=task.score_name.capitalize())
    if "%" in task.score_format:
        score_axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    lost_axes.set(title="Elements of the gradient that underflow to 0")
    lost_axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    scale_axes.set(title="Loss scale")
    scale_axes.set_yscale("log", base=2)
    for axes in places.flat:
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_args()
    if tqdm is None:
        print(f"no progress bar, for tqdm is not installed: {EXTRA}")
    task = text_task(args) if args.task == "text" else digits_task(args)
    what = task.what + ("" if args.loss_weight == 1 else f", loss times {args.loss_weight:g}")
    print(f"{what}: three times {args.steps} steps of {args.batch_size}; weights of the float16 runs: {args.weights}")
    records = {name: train(task, name, args) for name in RUNS}
    report(task, records)
    try:
        if args.plot:
            plot(task, records, what, args.plot)
            print(f"picture saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture, for {missing.name} is not installed: {EXTRA}")
    if args.loss_weight == 1:
        print("try next, where the gradients are smaller: python examples/mixed_precision.py --loss-weight 1e-5")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:  # a file is missing or damaged, or there is no network
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
