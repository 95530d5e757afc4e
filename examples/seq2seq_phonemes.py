"""Learn to say English words: a Transformer reads the letters of a word and writes its phonemes.

python examples/seq2seq_phonemes.py
python examples/seq2seq_phonemes.py --steps 8000 --features 256 --words anthropomorphic quixotry
"""

import argparse
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad import optim
from minigrad.data.cmudict import load_cmudict
from minigrad.models.generation import generate
from minigrad.models.seq2seq import Seq2Seq, Seq2SeqConfig

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

Pair = tuple[str, list[tuple[str, ...]]]  # a word, and the ways to say it
PADDING, START, END = range(3)
SPECIAL = ["<padding>", "<start>", "<end>"]
LONGEST = 32  # phonemes of a word, at most
POOL = 50  # batches that are sorted by length together, so that little of one is padding
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--steps", type=positive, default=1500, help="updates of the weights")
    add("--batch-size", type=positive, default=256, help="words in one step")
    add("--lr", type=float, default=3e-3, help="the largest learning rate, after a warm-up; then it falls")
    add("--features", type=positive, default=128, help="features of a letter or phoneme")
    add("--layers", type=positive, default=2, help="layers of the encoder, and of the decoder")
    add("--heads", type=positive, default=4, help="heads of attention")
    add("--dropout", type=float, default=0.1, help="share of the features switched off in a step")
    add("--beams", type=positive, default=1, help="width of the search for the phonemes of a word")
    add("--held-out", type=positive, default=5000, help="words to test with, drawn at random")
    add("--log-every", type=positive, default=250, help="steps between two lines of the log")
    add("--words", nargs="+", default=["minigrad", "transformer", "thoughtfulness", "knightly"], help="words to say")
    add("--device", default="cpu", help="where to compute: cpu or cuda")
    add("--seed", type=int, default=0, help="of the weights, the order of the words, and dropout")
    add(
        "--plot", type=picture, metavar="PATH", default="phonemes.png", help="where to save the picture; '' for nowhere"
    )
    args = parser.parse_args()
    if args.features % args.heads:
        parser.error(f"argument --features: {args.features} is not a multiple of the {args.heads} heads")
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


class Alphabet:
    """Ids of letters or phonemes."""

    def __init__(self, symbols: Iterable[str], device: str) -> None:
        self.device = device
        self.symbols = [*SPECIAL, *sorted(set(symbols))]
        self.ids = {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, texts: list[Iterable[str]]) -> tuple[mg.Tensor, mg.Tensor]:
        """Ids (batch, length), each row ended and filled up, and how many count."""
        rows = [[*(self.ids[symbol] for symbol in text), END] for text in texts]
        lengths = np.array([len(row) for row in rows])
        ids = np.full((len(rows), lengths.max()), PADDING)
        for row, given in zip(ids, rows, strict=True):
            row[: len(given)] = given
        return mg.asarray(ids, device=self.device), mg.asarray(lengths, device=self.device)


def batches(pairs: list[Pair], size: int, rng: np.random.Generator) -> Iterator[list[Pair]]:
    """Batches of words of similar length, in a random order, without end."""
    while True:
        order = rng.permutation(len(pairs))
        for start in range(0, len(order), POOL * size):
            pool = sorted(order[start : start + POOL * size], key=lambda i: len(pairs[i][0]))
            groups = [pool[i : i + size] for i in range(0, len(pool), size)]
            for k in rng.permutation(len(groups)):
                yield [pairs[i] for i in groups[k]]


def train(model: Seq2Seq, pairs: list[Pair], letters: Alphabet, phonemes: Alphabet, args: argparse.Namespace) -> None:
    """Run the steps."""
    optimizer = optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    rng = np.random.default_rng(args.seed)
    warm_up, losses = max(1, args.steps // 20), []
    stream = batches(pairs, args.batch_size, rng)
    for step in progress(range(1, args.steps + 1), "training"):
        batch = next(stream)
        source, source_lengths = letters.encode([word for word, _ in batch])
        target, target_lengths = phonemes.encode([said[rng.integers(len(said))] for _, said in batch])
        falling = (1 + math.cos(math.pi * step / args.steps)) / 2
        optimizer.param_groups[0]["lr"] = args.lr * min(step / warm_up, falling)
        optimizer.zero_grad()
        loss = model.loss(source, target, source_lengths=source_lengths, target_lengths=target_lengths)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % args.log_every == 0 or step == args.steps:
            recent = losses[-args.log_every :]
            print(f"step {step:5}   loss of a phoneme {sum(recent) / len(recent):.4f}")


def say(
    model: Seq2Seq, words: list[str], letters: Alphabet, phonemes: Alphabet, beams: int = 1
) -> list[tuple[str, ...]]:
    """The phonemes of words: the likeliest one at each step, or the best of a beam search."""
    found: list[list[int]] = []
    for start in range(0, len(words), 500):
        source, lengths = letters.encode(words[start : start + 500])
        inputs = {"source": source, "source_lengths": lengths}
        options = {"max_new_tokens": LONGEST, "stop": END, "beams": beams}
        found += generate(model, [[START]] * source.shape[0], inputs=inputs, **options)
    return [tuple(phonemes.symbols[i] for i in row) for row in found]


def distance(said: tuple[str, ...], right: tuple[str, ...]) -> int:
    """The least number of phonemes to insert, drop or exchange."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(said, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def progress(steps: range, what: str) -> Iterable[int]:
    """The steps, with a progress bar where tqdm is installed and the output is a terminal."""
    return steps if tqdm is None else tqdm(steps, what, leave=False, disable=None)


def plot(
    model: Seq2Seq, words: list[str], said: list[tuple[str, ...]], letters: Alphabet, phonemes: Alphabet, path: str
) -> None:
    """Save a picture of which letters the decoder looks at when it writes each phoneme."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    model.eval()
    figure, axes = pyplot.subplots(1, len(words), figsize=(4 * len(words), 4), layout="constrained", squeeze=False)
    figure.suptitle("Cross-attention, the mean over heads and layers")
    for ax, word, phones in zip(axes[0], words, said, strict=True):
        source, _ = letters.encode([word])
        target, _ = phonemes.encode([phones])
        with mg.no_grad():
            maps = model.cross_attention(source, model.shifted(target))
        ax.imshow(mg.mean(mg.concat(maps, axis=0), axis=(0, 1)).to("cpu").numpy(), cmap="Blues", vmin=0, aspect="auto")
        ax.set(title=word, xlabel="letters that are read", ylabel="phonemes that are written")
        ax.set_xticks(range(len(word) + 1), [*word, "end"])
        ax.set_yticks(range(len(phones) + 1), [*phones, "end"])
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    if tqdm is None:
        print(f"no progress bar, for tqdm is not installed: {EXTRA}")
    pairs = list(load_cmudict().items())
    letters = Alphabet((letter for word, _ in pairs for letter in word), args.device)
    phonemes = Alphabet((phoneme for _, said in pairs for way in said for phoneme in way), args.device)
    order = np.random.default_rng(args.seed).permutation(len(pairs))
    if args.held_out >= len(pairs):
        raise SystemExit(f"of {len(pairs)} words in the dictionary {args.held_out} to test leave none to train with")
    held_out, kept = ([pairs[i] for i in part] for part in (order[: args.held_out], order[args.held_out :]))
    print(f"cmudict: {len(kept)} words to train with, {len(held_out)} to test")
    config = Seq2SeqConfig(
        len(letters.symbols),
        len(phonemes.symbols),
        features=args.features,
        num_encoder_layers=args.layers,
        num_decoder_layers=args.layers,
        num_heads=args.heads,
        dropout=args.dropout,
        start_id=START,
        end_id=END,
        padding_id=PADDING,
    )
    model = Seq2Seq(config).to(args.device)
    print(f"{sum(p.size for p in model.parameters()):,} parameters")
    begin = time.perf_counter()
    train(model, kept, letters, phonemes, args)
    print(f"{args.steps} steps in {time.perf_counter() - begin:.1f} s")

    said = say(model, [word for word, _ in held_out], letters, phonemes, args.beams)
    right = sum(phones in ways for phones, (_, ways) in zip(said, held_out, strict=True))
    nearest = [
        min((distance(phones, way), len(way)) for way in ways) for phones, (_, ways) in zip(said, held_out, strict=True)
    ]
    wrong, total = map(sum, zip(*nearest, strict=True))
    print(f"word accuracy {right / len(said):.2%} ({right} of {len(said)}), phoneme error rate {wrong / total:.2%}")

    words = ["".join(letter for letter in word.lower() if letter in letters.ids) for word in args.words]
    spoken = say(model, words, letters, phonemes, args.beams)
    for word, phones in zip(words, spoken, strict=True):
        print(f"{word:>20}  {' '.join(phones)}")
    try:
        if args.plot:
            plot(model, words, spoken, letters, phonemes, args.plot)
            print(f"attention saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture of the attention, for {missing.name} is not installed: {EXTRA}")


if __name__ == "__main__":
    main()
