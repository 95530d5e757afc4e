"""Train a GPT on the characters of a text, show what it writes meanwhile, and draw its curves.

python examples/char_gpt.py
python examples/char_gpt.py --data shakespeare.txt --steps 2000
"""

import argparse
import gzip
import math
import os
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad import nn, optim
from minigrad.models import GPT, CharacterTokenizer, GPTConfig, generate

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

ROW = "step {:5}   training loss {:.4f}   validation loss {:.4f}   {:.1f} s"
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")
LIBRARY = 1 << 20  # characters to read of the standard library


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--data", type=text_file, metavar="FILE", default="", help="a text, .gz too; '' for Python's own source")
    add("--steps", type=positive, default=2000, help="steps of training")
    add("--batch-size", type=positive, default=12, help="pieces of text in one step")
    add("--block", type=positive, default=64, help="characters of a piece, and the longest context")
    add("--layers", type=positive, default=4, help="layers of the decoder")
    add("--heads", type=positive, default=4, help="heads of attention")
    add("--features", type=positive, default=128, help="features of a character")
    add("--dropout", type=float, default=0.0, help="share of what each part adds that is switched off")
    add("--lr", type=float, default=2e-3, help="learning rate at its highest; it rises and then falls along a cosine")
    add("--warmup", type=positive, default=100, help="steps in which it rises")
    add("--weight-decay", type=float, default=0.1, help="decay of the matrices (AdamW)")
    add("--clip", type=float, default=1.0, help="longest gradient, all parameters together")
    add("--eval-every", type=positive, default=250, help="steps from one look at the validation loss to the next")
    add("--sample", type=int, default=200, help="characters to write each time; 0 for none")
    add("--temperature", type=float, default=0.8, help="lower writes what is likelier")
    add("--prompt", type=some_text, default="\n", help="how its text begins")
    add("--device", default="cpu", help="where to compute: cpu or cuda")
    add("--seed", type=int, default=0, help="of the weights, the pieces, and what it writes")
    add("--plot", type=picture, metavar="PATH", default="char_gpt.png", help="where to save the curves; '' for nowhere")
    add("--save", type=Path, metavar="FOLDER", help="where to save the weights and the alphabet")
    args = parser.parse_args()
    if args.features % args.heads:
        parser.error(f"argument --features: {args.features} is not a multiple of the {args.heads} heads")
    return args


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def some_text(text: str) -> str:
    """An argument that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("a text begins with something")
    return text


def text_file(text: str) -> str:
    """A file to read, or nothing."""
    if text and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no file")
    return text


def picture(text: str) -> str:
    """A path that the curves can be saved to, or nothing."""
    path = Path(text)
    if text and path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in any of {', '.join(PICTURES)}")
    if text and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: is there such a folder?")
    return text


def load(path: str) -> str:
    """A text: that of a file, or the beginning of the standard library, in ASCII."""
    if path:
        data = gzip.decompress(Path(path).read_bytes()) if path.endswith(".gz") else Path(path).read_bytes()
        return data.decode("utf-8")
    parts, size = [], 0
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        parts.append(file.read_text(encoding="utf-8", errors="ignore").encode("ascii", "ignore").decode())
        size += len(parts[-1])
        if size > LIBRARY:
            break
    return "".join(parts)


def pieces(ids: np.ndarray, starts: np.ndarray, block: int, device: str = "cpu") -> tuple[mg.Tensor, mg.Tensor]:
    """Pieces of a text, and the character that follows each of theirs."""
    windows = np.lib.stride_tricks.sliding_window_view(ids, block + 1)[starts]
    return mg.asarray(windows[:, :-1].copy(), device=device), mg.asarray(windows[:, 1:].copy(), device=device)


def evaluate(model: GPT, ids: np.ndarray, block: int, most: int | None = None) -> float:
    """The mean loss over a text, or over about `most` of its characters, in pieces side by side."""
    starts, device = np.arange(0, len(ids) - block, block), model.parameters()[0].device
    if most is not None:
        starts = starts[:: max(1, len(starts) * block // most)]
    model.eval()
    with mg.no_grad():
        groups = [starts[i : i + 64] for i in range(0, len(starts), 64)]
        losses = [model(*pieces(ids, group, block, device)).item() * len(group) for group in groups]
    model.train()
    return sum(losses) / len(starts)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Up along a line, then down along a cosine to a tenth."""
    warmup = min(args.warmup, max(args.steps // 10, 1))
    if step < warmup:
        return args.lr * (step + 1) / warmup
    done = (step - warmup) / max(args.steps - warmup, 1)
    return args.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)


def clip_gradients(parameters: list[nn.Parameter], most: float) -> None:
    """Shorten the gradient of all parameters together where it is too long."""
    length = math.sqrt(sum(mg.vecdot(g, g).item() for g in (p.grad.reshape(-1) for p in parameters)))
    if length > most:
        for p in parameters:
            p.grad = p.grad * (most / length)


def write(model: GPT, tokenizer: CharacterTokenizer, args: argparse.Namespace) -> str:
    """What the model writes, after the prompt."""
    prompt = tokenizer.encode(args.prompt)
    options = {"temperature": args.temperature, "sliding": True}
    return tokenizer.decode(generate(model, prompt, max_new_tokens=args.sample, **options))


def train(
    model: GPT, tokenizer: CharacterTokenizer, parts: tuple[np.ndarray, np.ndarray], args: argparse.Namespace
) -> tuple[list[float], list[tuple[int, float]]]:
    """Run the steps; returns the loss of each, and the validation losses with their steps."""
    training, validation = parts
    parameters = model.parameters()
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99))
    losses: list[float] = []
    checks: list[tuple[int, float]] = []
    begin = time.perf_counter()
    for step in progress(range(args.steps), "training"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        starts = mg.random.integers(0, len(training) - args.block, (args.batch_size,)).numpy()
        optimizer.zero_grad()
        loss = model(*pieces(training, starts, args.block, args.device))
        loss.backward()
        clip_gradients(parameters, args.clip)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % args.eval_every == 0 or step + 1 == args.steps:
            checks.append((step + 1, evaluate(model, validation, args.block, most=20_000)))
            recent = losses[-args.eval_every :]
            row = ROW.format(step + 1, sum(recent) / len(recent), checks[-1][1], time.perf_counter() - begin)
            say(f"{row}\n{write(model, tokenizer, args)}\n" if args.sample else row)
    return losses, checks


def progress(steps: range, what: str) -> Iterable[int]:
    """The steps, with a progress bar where tqdm is installed and the output is a terminal."""
    return steps if tqdm is None else tqdm(steps, what, leave=False, disable=None)


def say(text: str) -> None:
    """Print beside the progress bar."""
    print(text) if tqdm is None else tqdm.write(text)


def plot(losses: list[float], checks: list[tuple[int, float]], what: str, path: str) -> None:
    """Save a picture of the curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    steps = np.arange(1, len(losses) + 1)
    width = max(len(losses) // 50, 1)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    axes.plot(steps, losses, color="C0", alpha=0.25, linewidth=0.7)
    label = f"training, mean of {width} steps" if width > 1 else "training"
    axes.plot(steps[width - 1 :], smooth, color="C0", label=label)
    axes.plot(*zip(*checks, strict=True), color="C1", marker="o", label="validation")
    axes.set(title=what, xlabel="step", ylabel="cross-entropy of a character (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    text = load(args.data)
    tokenizer = CharacterTokenizer.from_text(text + args.prompt)
    ids = tokenizer.encode(text)
    parts = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]
    if len(parts[1]) <= args.block:
        raise SystemExit(f"the text has {len(ids)} characters, too few for pieces of {args.block}")
    if tqdm is None:
        print(f"no progress bar, for tqdm is not installed: {EXTRA}")
    model = GPT(
        GPTConfig(
            vocab_size=tokenizer.vocab_size,
            max_length=args.block,
            features=args.features,
            num_layers=args.layers,
            num_heads=args.heads,
            dropout=args.dropout,
            attention_dropout=args.dropout,
            embedding_dropout=args.dropout,
        )
    ).to(args.device)
    count = sum(p.size for p in model.parameters())
    what = Path(args.data).name or "the standard library"
    print(f"{what}: {len(ids):,} characters, an alphabet of {tokenizer.vocab_size}; {count:,} parameters")

    begin = time.perf_counter()
    losses, checks = train(model, tokenizer, parts, args)
    seconds = time.perf_counter() - begin

    final = evaluate(model, parts[1], args.block)
    print(f"validation loss {final:.4f} (all {len(parts[1]):,} characters) after {seconds:.1f} s of training")
    try:
        if args.plot:
            plot(losses, checks, f"{what}: validation loss {final:.3f}", args.plot)
            print(f"curves saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture of the curves, for {missing.name} is not installed: {EXTRA}")
    if args.save:
        model.save_pretrained(args.save)
        tokenizer.save(args.save / "characters.json")
        print(f"weights saved to {args.save}")
    print("try next: python examples/char_gpt.py --layers 6 --features 256 --block 128 --dropout 0.1 --steps 5000")


if __name__ == "__main__":
    main()
