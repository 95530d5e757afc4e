"""Learn to answer in a dialogue: a Transformer reads what was said, and facts about what it was said of.

python examples/dialogue.py
python examples/dialogue.py --data ms_personality_chat.tar.xz --batch-size 64 --steps 3000 --save run
python examples/dialogue.py --save run --chat --persona witty
"""

import argparse
import lzma
import math
import os
import re
import sys
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import optim
from minigrad.data.chatterbot import load_chatterbot
from minigrad.data.download import DataError
from minigrad.io import load_checkpoint, save_checkpoint
from minigrad.knowledge.language.dialogue import DialogueModel
from minigrad.knowledge.language.linking import EntityLinker, fold, words
from minigrad.knowledge.language.lookup import TripleLookup
from minigrad.knowledge.language.stated_facts import SELF, stated_facts
from minigrad.models import Seq2SeqConfig, generate

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

SPECIAL = ["<padding>", "<start>", "<end>", "<turn>"]
PADDING, START, END, TURN = range(4)
CALLED = ("you", "your", "yours", "yourself", "u", "you're", "you've", "you'll", "you'd")  # the one who answers
ALTERNATIVES = ("computers", "emotion")  # in these each turn answers the first
LANGUAGE = "english"
ROW = "{}: step {:5}   training loss {:.4f}   validation perplexity {:.2f}   {:.0f} s"
EXTRA = "pip install 'minigrad[demo,text]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")
LOOK = 500  # validation turns to look at while training, at most
KEPT = {"best", "checks", "config", "facts", "longest", "losses", "model", "optimizer", "random", "run", "tokenizer"}
NAMES = {True: "with knowledge", False: "without knowledge"}


@dataclass(frozen=True)
class Turn:
    """Something to answer: what was said so far, the answer, and who gives it."""

    history: tuple[str, ...]
    answer: str
    persona: str = ""


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--data", type=a_path, metavar="PATH", default="", help="a folder or .tar of .qna files; '' for chatterbot's")
    add("--steps", type=positive, default=700, help="updates of the weights, of each model")
    add("--batch-size", type=positive, default=32, help="turns in one step")
    add("--lr", type=number, default=2e-3, help="the largest learning rate, after a warm-up; then it falls")
    add("--features", type=positive, default=128, help="features of a token")
    add("--layers", type=positive, default=1, help="layers of the encoder, and of the decoder")
    add("--heads", type=positive, default=4, help="heads of attention")
    add("--dropout", type=part, default=0.2, help="share of the features switched off in a step")
    add("--vocabulary", type=positive, default=2000, help="tokens, at most")
    add("--turns", type=positive, default=4, help="turns of the history that are read, at most")
    add(
        "--longest", type=positive, default=40, help="tokens of an answer, at most; turns with longer ones are left out"
    )
    add("--triples", type=positive, default=24, help="facts that are read, at most")
    add("--held-out", type=share, default=0.1, help="share of the conversations to validate with, and of those to test")
    add("--stop-after", type=positive, metavar="STEP", help="end the training there; call again with --save to go on")
    add("--no-knowledge", action="store_true", help="train the model without knowledge alone")
    add("--beams", type=positive, default=1, help="width of the search for an answer")
    add("--temperature", type=number, default=0.0, help="above 0, answers in the chat are drawn; with --beams 1")
    add("--log-every", type=positive, default=50, help="steps between two looks at the validation turns")
    add("--seed", type=int, default=0, help="of the weights, the split, the order of the turns, and dropout")
    add(
        "--save", type=folder, metavar="FOLDER", help="where models are kept; a run that was stopped goes on from there"
    )
    add("--chat", action="store_true", help="talk with the model in --save, or with the one that was just trained")
    add("--persona", default="", help="who answers in the chat, where the data have several")
    add("--plot", type=picture, metavar="PATH", default="dialogue.png", help="where to save the curves; '' for nowhere")
    args = parser.parse_args()
    if args.features % args.heads:
        parser.error(f"argument --features: {args.features} is not a multiple of the {args.heads} heads")
    if args.temperature and args.beams > 1:
        parser.error("argument --temperature: a beam search draws nothing, leave it at 0")
    return args


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def number(text: str) -> float:
    """A finite number, not below 0."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return found


def part(text: str) -> float:
    """A share that is not the whole."""
    if (found := number(text)) >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not below 1")
    return found


def folder(text: str) -> Path:
    """A folder that is there or can be made."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return path


def share(text: str) -> float:
    """A part of the data; twice it is held out."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and below 0.5")
    return found


def a_path(text: str) -> str:
    """A file or folder to read, or nothing."""
    if text and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is no file or folder")
    return text


def picture(text: str) -> str:
    """A path that the picture can be saved to, or nothing."""
    path = Path(text)
    if text and path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in any of {', '.join(PICTURES)}")
    if text and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: is there such a folder?")
    return text


def chatterbot() -> list[Turn]:
    """The turns of ChatterBot's conversations, each once; code, which takes lines, is left out."""
    found: dict[Turn, None] = {}
    for category, talks in load_chatterbot().items():
        for talk in talks:
            said = [turn.strip() for turn in talk]
            for i in range(1, len(said)):
                history = said[:1] if category in ALTERNATIVES else said[:i]
                if all(said[: i + 1]) and "\n" not in "".join(said[: i + 1]):
                    found[Turn(tuple(history), said[i])] = None
    return list(found)


def personalities(path: str) -> list[Turn]:
    """The questions of .qna files with the answers of each persona, named ``english_witty.qna`` and so on."""
    texts = {}
    if Path(path).is_dir():
        texts = {file.stem: file.read_text(encoding="utf-8") for file in Path(path).glob(f"{LANGUAGE}_*.qna")}
    else:
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                name = Path(member.name)
                if member.isfile() and name.suffix == ".qna" and name.name.startswith(LANGUAGE):
                    texts[name.stem] = archive.extractfile(member).read().decode("utf-8")
    found: dict[Turn, None] = {}
    for name, text in sorted(texts.items()):
        persona = name.partition("_")[2]
        for block in re.split(r"^> !# @qna\.pair\.source.*$", text, flags=re.MULTILINE)[1:]:
            asked, _, rest = block.partition("**Filters:**")
            answer = re.search(r"```markdown\n(.*?)\n```", rest, re.DOTALL)
            if answer is None:
                raise DataError(f"{name}.qna: a question without an answer")
            for question in re.findall(r"^(?:# \?|-) (.+)$", asked, re.MULTILINE):
                found[Turn((question.strip(),), " ".join(answer[1].split()), persona)] = None
    if not found:
        raise DataError(f"{path}: holds no files {LANGUAGE}_*.qna")
    return list(found)


def plain(text: str) -> str:
    """A text without case and punctuation."""
    return " ".join(fold(word) for word, _, _ in words(text))


def split(turns: list[Turn], held_out: float, seed: int) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Turns to train, validate and test with: conversations that begin alike stay together, whoever answers."""
    groups = sorted({plain(turn.history[0]) for turn in turns})
    order = np.random.default_rng(seed).permutation(len(groups))
    count = max(1, round(held_out * len(groups)))
    validation, test = ({groups[i] for i in order[k * count : (k + 1) * count]} for k in range(2))
    parts: tuple[list[Turn], list[Turn], list[Turn]] = ([], [], [])
    for turn in turns:
        start = plain(turn.history[0])
        parts[1 if start in validation else 2 if start in test else 0].append(turn)
    known = {(plain(turn.history[-1]), plain(turn.answer), turn.persona) for turn in parts[0]}
    for part in parts[1:]:  # the same words late in another conversation
        part[:] = [turn for turn in part if (plain(turn.history[-1]), plain(turn.answer), turn.persona) not in known]
    return parts


class Knowledge:
    """The facts that turns state, and those of them that a history is about."""

    def __init__(self, facts: Iterable[tuple[str, str, str, str]], limit: int) -> None:
        self.facts = list(dict.fromkeys(tuple(fact) for fact in facts))  # persona, head, relation, tail
        self.limit = limit
        self.places = {fact: i for i, fact in enumerate(self.facts)}
        self.of = {
            persona: TripleLookup(fact[1:] for fact in self.facts if fact[0] == persona)
            for persona in dict.fromkeys(fact[0] for fact in self.facts)
        }
        names = [(head, head) for _, head, _, _ in self.facts if head != SELF]
        self.linker = EntityLinker([*names, *((name, SELF) for name in CALLED)])
        self._words = [{fold(word) for word, _, _ in words(f"{fact[2]} {fact[3]}")} for fact in self.facts]
        self._found: dict[tuple[tuple[str, ...], str], list[int]] = {}

    @classmethod
    def stated(cls, turns: list[Turn], limit: int) -> "Knowledge":
        """The facts that the answers of some turns state."""
        return cls(
            ((turn.persona, *fact) for turn in turns for fact in stated_facts(turn.history[-1], turn.answer)), limit
        )

    def about(self, history: tuple[str, ...], persona: str) -> list[int]:
        """The facts about what a history mentions, first those that share words with it; at most `limit`."""
        if (history, persona) not in self._found:
            entities = [entity for said in reversed(history) for m in self.linker(said) for entity in m.entities]
            triples = self.of[persona].about(entities) if persona in self.of else []
            places = [self.places[persona, *triple] for triple in triples]
            said = {fold(word) for word, _, _ in words(history[-1])}
            self._found[history, persona] = sorted(places, key=lambda i: -len(said & self._words[i]))[: self.limit]
        return self._found[history, persona]


class Reader:
    """From turns to what a model takes: tokens of BPE, and the facts that were looked up."""

    def __init__(self, tokenizer: str, knowledge: Knowledge, turns: int, longest: int) -> None:
        from tokenizers import Tokenizer

        self.tokenizer, self.knowledge, self.turns, self.longest = tokenizer, knowledge, turns, longest
        self._bpe = Tokenizer.from_str(tokenizer)
        self._ids: dict[str, list[int]] = {}
        self._facts = [[self.ids(part) for part in fact[1:]] for fact in knowledge.facts]

    @staticmethod
    def learned(texts: list[str], vocabulary: int) -> str:
        """A tokenizer that some texts teach: byte-level BPE of their lower case."""
        from tokenizers import ByteLevelBPETokenizer

        bpe = ByteLevelBPETokenizer(lowercase=True, unicode_normalizer="nfkc", add_prefix_space=True)
        bpe.train_from_iterator(texts, vocabulary, min_frequency=2, show_progress=False, special_tokens=SPECIAL)
        return bpe.to_str()

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self._bpe.encode(text).ids
        return self._ids[text]

    def text(self, ids: list[int]) -> str:
        return self._bpe.decode(ids).strip()

    @property
    def vocabulary(self) -> int:
        return self._bpe.get_vocab_size()

    def history(self, turns: list[Turn], knowledge: bool) -> dict[str, mg.Tensor]:
        """What the encoder reads: the last turns, the youngest with number 0; speaker 1 is the one who answers."""
        rows, numbers = [], []
        for turn in turns:
            said = [[*self.ids(text)[-4 * self.longest :], TURN] for text in turn.history[-self.turns :]]
            rows.append([token for part in said for token in part])
            numbers.append([len(said) - 1 - i for i, part in enumerate(said) for _ in part])
        numbers_of = padded(numbers, 0)
        found = {"source": padded(rows, PADDING), "turns": numbers_of, "speakers": numbers_of % 2}
        found["source_lengths"] = np.array([len(row) for row in rows])
        if knowledge:
            about = [self.knowledge.about(turn.history, turn.persona) for turn in turns]
            used = sorted({fact for row in about for fact in row})
            place = {fact: i for i, fact in enumerate(used)}
            parts = padded([part for fact in used for part in self._facts[fact]] or [[]] * 3, PADDING)
            found["facts"] = parts.reshape(-1, 3, parts.shape[1])[: len(used)]
            found["chosen"] = padded([[place[fact] for fact in row] for row in about], -1)
        return {name: mg.asarray(array) for name, array in found.items()}

    def answers(self, turns: list[Turn]) -> dict[str, mg.Tensor]:
        """What the decoder writes."""
        rows = [[*self.ids(turn.answer), END] for turn in turns]
        return {"target": mg.asarray(padded(rows, PADDING)), "target_lengths": mg.asarray([len(row) for row in rows])}

    def fits(self, turn: Turn) -> bool:
        return len(self.ids(turn.answer)) < self.longest


def padded(rows: list[list[int]], fill: int) -> np.ndarray:
    """Rows of different lengths as one array, at least one wide."""
    found = np.full((len(rows), max(1, *map(len, rows), 0)), fill)
    for row, given in zip(found, rows, strict=True):
        row[: len(given)] = given
    return found


def groups(turns: list[Turn], size: int) -> Iterator[list[Turn]]:
    """All turns, some at a time."""
    yield from (turns[i : i + size] for i in range(0, len(turns), size))


def log_likelihoods(model: DialogueModel, reader: Reader, turns: list[Turn]) -> tuple[np.ndarray, np.ndarray]:
    """For each turn the negative logarithm of its answer's probability, and the answer's tokens, the end among them."""
    model.eval()
    sums, counts = [], []
    with mg.no_grad():
        for some in groups(turns, 128):
            answers = reader.answers(some)
            losses = model.loss(**reader.history(some, model.has_knowledge), **answers, reduction="none")
            sums.append(mg.sum(losses, axis=1).numpy())
            counts.append(answers["target_lengths"].numpy())
    model.train()
    return np.concatenate(sums), np.concatenate(counts)


def perplexity(sums: np.ndarray, counts: np.ndarray) -> float:
    return math.exp(min(sums.sum() / counts.sum(), 700.0)) if counts.size else math.nan


def train(
    model: DialogueModel, reader: Reader, parts: tuple[list[Turn], ...], args: argparse.Namespace
) -> tuple[list[float], list[tuple[int, float]]]:
    """Run the steps, and keep the weights that were best on the validation turns; gives losses and perplexities."""
    training, validation = parts[0], parts[1][:: math.ceil(len(parts[1]) / LOOK)]
    name = NAMES[model.has_knowledge]
    optimizer = optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []
    checks: list[tuple[int, float]] = []
    best, seconds, start = model.state_dict(), 0.0, 0
    file = args.save and args.save / f"{name.replace(' ', '_')}.ckpt"
    if file and file.exists():
        state = loaded(file)
        if state["run"] != of_run(args):
            raise SystemExit(f"{file} is of a run with other options; name another folder, or remove it")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        mg.random.set_state(state["random"])
        losses, checks, best = state["losses"], [tuple(check) for check in state["checks"]], state["best"]
        start, seconds = len(losses), state["seconds"]
        print(f"{name}: going on after step {start}")
    begin = time.perf_counter() - seconds
    warm_up, count, epoch, order = max(1, args.steps // 10), math.ceil(len(training) / args.batch_size), -1, []
    for step in progress(range(start, args.steps), name):
        if step // count != epoch:  # not sorted by length: turns with answers of one length have few kinds of answers
            epoch = step // count
            order = np.random.default_rng((args.seed, epoch)).permutation(len(training))
        batch = [training[i] for i in order[step % count * args.batch_size :][: args.batch_size]]
        falling = (1 + math.cos(math.pi * step / args.steps)) / 2
        optimizer.param_groups[0]["lr"] = args.lr * min((step + 1) / warm_up, falling)
        optimizer.zero_grad()
        loss = model.loss(**reader.history(batch, model.has_knowledge), **reader.answers(batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        look, stopped = (step + 1) % args.log_every == 0 or step + 1 == args.steps, step + 1 == args.stop_after
        seconds = time.perf_counter() - begin
        if look:
            checks.append((step + 1, perplexity(*log_likelihoods(model, reader, validation))))
            recent = losses[-args.log_every :]
            say(ROW.format(name, step + 1, sum(recent) / len(recent), checks[-1][1], seconds))
            if checks[-1][1] <= min(value for _, value in checks):
                best = {key: mg.tensor(value.detach()) for key, value in model.state_dict().items()}
        if file and (look or stopped):
            state = {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": mg.random.get_state(),
                "losses": losses, "checks": checks, "best": best, "seconds": seconds, "run": of_run(args),
                "config": vars(model.config), "turns": args.turns, "tokenizer": reader.tokenizer,
                "facts": reader.knowledge.facts, "triples": args.triples, "longest": args.longest,
            }  # fmt: skip
            save_checkpoint(file, state)
        if stopped:
            raise SystemExit(f"{name}: stopped after step {step + 1}")
    model.load_state_dict(best)
    return losses, checks


def loaded(file: Path) -> dict[str, Any]:
    """What a run kept."""
    try:
        state = load_checkpoint(file)
    except DataError as error:
        raise SystemExit(f"dialogue.py: {error}") from None
    if not isinstance(state, dict) or not state.keys() >= KEPT:
        raise SystemExit(f"{file} is not of a run of dialogue.py; name another folder, or remove it")
    return state


def of_run(args: argparse.Namespace) -> dict[str, object]:
    """The options that a run's course depends on."""
    apart = {"save", "chat", "persona", "plot", "beams", "temperature", "no_knowledge", "data", "stop_after"}
    return {name: value for name, value in vars(args).items() if name not in apart} | {"data": Path(args.data).name}


def progress(steps: range, what: str) -> Iterable[int]:
    """The steps, with a progress bar where tqdm is installed and the output is a terminal."""
    return steps if tqdm is None else tqdm(steps, what, leave=False, disable=None)


def say(text: str) -> None:
    """Print beside the progress bar, at once."""
    print(text, flush=True) if tqdm is None else tqdm.write(text)


def answer(model: DialogueModel, reader: Reader, turns: list[Turn], beams: int, temperature: float = 0.0) -> list[str]:
    """What the model says: the likeliest token at each step, the best of a beam search, or what is drawn."""
    found: list[str] = []
    for some in groups(turns, 128):
        options = {"max_new_tokens": reader.longest, "stop": END, "beams": beams, "temperature": temperature}
        inputs = reader.history(some, model.has_knowledge)
        found += map(reader.text, generate(model, [[START]] * len(some), inputs=inputs, **options))
    return found


def distinct(texts: list[str], n: int) -> float:
    """Distinct n-grams of words over all of them (J. Li et al., 2016)."""
    grams = [gram for parts in map(str.split, map(plain, texts)) for gram in zip(*(parts[i:] for i in range(n)))]
    return len(set(grams)) / max(1, len(grams))


def report(
    model: DialogueModel, reader: Reader, test: list[Turn], fixed: list[bool], args: argparse.Namespace
) -> dict[str, float]:
    """Figures on turns that were held out."""
    sums, counts = log_likelihoods(model, reader, test)
    said = answer(model, reader, test, args.beams)
    known = np.array([bool(reader.knowledge.about(turn.history, turn.persona)) for turn in test])
    right = [plain(a) == plain(turn.answer) for a, turn in zip(said, test, strict=True)]
    sure, parts = np.array(fixed), {"": known | True, ", facts found": known, ", none found": ~known}
    found = {f"perplexity{name}": perplexity(sums[mask], counts[mask]) for name, mask in parts.items()}
    for name, mask in parts.items():
        chosen = [hit for hit, use in zip(right, mask & sure, strict=True) if use]
        found[f"exact match{name}, %"] = 100 * sum(chosen) / len(chosen) if chosen else math.nan
    return found | {"distinct-1": distinct(said, 1), "distinct-2": distinct(said, 2)}


def plot(curves: dict[str, tuple[list[float], list[tuple[int, float]]]], what: str, path: str) -> None:
    """Save a picture of the losses."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for i, (name, (losses, checks)) in enumerate(curves.items()):
        width = max(len(losses) // 50, 1)
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(np.arange(width, len(losses) + 1), smooth, color=f"C{i}", alpha=0.5, label=f"{name}: training")
        steps, values = zip(*checks, strict=True)
        axes.plot(steps, np.log(values), color=f"C{i}", marker="o", label=f"{name}: validation")
    axes.set(title=what, xlabel="step", ylabel="cross-entropy of a token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def chat(model: DialogueModel, reader: Reader, args: argparse.Namespace) -> None:
    """Talk, line by line, until the input ends or Ctrl-C; an empty line begins anew."""
    personas = [persona for persona in reader.knowledge.of if persona]
    persona = args.persona or (personas[0] if personas else "")
    if args.persona and args.persona not in personas:
        raise SystemExit(
            f"no persona {args.persona!r}: there {'are ' + ', '.join(personas) if personas else 'is none'}"
        )
    print(f"say something{f' to the {persona} one' if persona else ''}; an empty line begins anew, Ctrl-D ends")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # what is piped in may be no text of this encoding
    history: list[str] = []
    shown = "you> " if sys.stdin.isatty() else ""
    try:
        while True:
            line = input(shown).strip()
            if not line:
                history = []
                continue
            history.append(line)
            turn = Turn(tuple(history), "", persona)
            history += answer(model, reader, [turn], args.beams, args.temperature)
            print(f"bot> {history[-1]}", flush=True)
    except (EOFError, KeyboardInterrupt):
        print("\nbye" if shown else "bye")


def saved(folder: Path, args: argparse.Namespace) -> tuple[DialogueModel, Reader] | None:
    """The best weights that a run kept, and what it read with; None where there is no run."""
    file = folder / f"{NAMES[not args.no_knowledge].replace(' ', '_')}.ckpt"
    if not file.exists():
        return None
    state = loaded(file)
    knowledge = Knowledge(state["facts"], state["triples"])
    model = DialogueModel(Seq2SeqConfig(**state["config"]), turns=state["turns"], knowledge=not args.no_knowledge)
    model.load_state_dict(state["best"])
    return model.eval(), Reader(state["tokenizer"], knowledge, state["turns"], state["longest"])


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    if tqdm is None:
        print(f"no progress bar, for tqdm is not installed: {EXTRA}")
    try:
        import tokenizers  # noqa: F401
    except ImportError as missing:
        raise SystemExit(f"dialogue.py needs {missing.name}: {EXTRA}") from None
    kept = saved(args.save, args) if args.chat and args.save else None
    if kept is not None:
        return chat(*kept, args)
    try:
        turns = personalities(args.data) if args.data else chatterbot()
    except ImportError as missing:
        raise SystemExit(f"dialogue.py needs {missing.name}: {EXTRA}") from None
    except DataError as error:
        raise SystemExit(f"dialogue.py: {error}") from None
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, tarfile.TarError, zlib.error) as error:
        raise SystemExit(f"dialogue.py: {args.data}: {error}") from None

    parts = split(turns, args.held_out, args.seed)
    knowledge = Knowledge.stated(parts[0], args.triples)
    texts = [text for turn in parts[0] for text in (*turn.history, turn.answer)]
    reader = Reader(Reader.learned(texts, args.vocabulary), knowledge, args.turns, args.longest)
    parts = tuple([turn for turn in part if reader.fits(turn)] for part in parts)
    if not all(parts):
        raise SystemExit(f"{len(turns)} turns are too few for --held-out {args.held_out} and --longest {args.longest}")
    what = Path(args.data).name or "chatterbot-corpus"
    print(f"{what}: {len(parts[0])} turns to train with, {len(parts[1])} to validate, {len(parts[2])} to test")
    found = sum(bool(knowledge.about(turn.history, turn.persona)) for turn in parts[2])
    print(f"{len(knowledge.facts)} facts that training turns state; some are found for {found} of the test turns")
    answers: dict[tuple[str, str], set[str]] = {}
    for turn in turns:
        answers.setdefault((plain(" | ".join(turn.history)), turn.persona), set()).add(plain(turn.answer))
    fixed = [len(answers[plain(" | ".join(turn.history)), turn.persona]) == 1 for turn in parts[2]]
    usual = Counter(turn.answer for turn in parts[0]).most_common(1)[0][0]
    share_usual = np.mean([plain(usual) == plain(turn.answer) for turn, sure in zip(parts[2], fixed) if sure] or [0.0])
    print(f"{sum(fixed)} test turns have one answer; {share_usual:.1%} of these are {usual!r}, the commonest answer")

    config = Seq2SeqConfig(
        reader.vocabulary,
        features=args.features,
        num_encoder_layers=args.layers,
        num_decoder_layers=args.layers,
        num_heads=args.heads,
        dropout=args.dropout,
        start_id=START,
        end_id=END,
        padding_id=PADDING,
    )
    curves, figures, models = {}, {}, {}
    for use in [False] if args.no_knowledge else [True, False]:
        mg.random.seed(args.seed)
        model = models[use] = DialogueModel(config, turns=args.turns, knowledge=use)
        print(f"{NAMES[use]}: {sum(p.size for p in model.parameters()):,} parameters")
        curves[NAMES[use]] = train(model, reader, parts, args)
        figures[NAMES[use]] = report(model, reader, parts[2], fixed, args)
    width = max(map(len, next(iter(figures.values()))))
    print(f"\n{'on test turns':{width}}  " + "  ".join(f"{name:>17}" for name in figures))
    for row in next(iter(figures.values())):
        print(f"{row:{width}}  " + "  ".join(f"{values[row]:17.3f}" for values in figures.values()))
    given = [turn.answer for turn in parts[2]]
    print(f"the answers given are distinct-1 {distinct(given, 1):.3f}, distinct-2 {distinct(given, 2):.3f}\n")
    for turn in parts[2][:: max(1, len(parts[2]) // 6)][:6]:
        print(f"  {turn.history[-1]}   [{f'{turn.persona}: ' if turn.persona else ''}{turn.answer}]")
        for use, model in models.items():
            print(f"    {NAMES[use]}: {answer(model, reader, [turn], args.beams)[0]}")
    try:
        if args.plot:
            plot(curves, f"{what}: {len(parts[0])} turns", args.plot)
            print(f"curves saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture of the curves, for {missing.name} is not installed: {EXTRA}")
    if args.chat:
        chat(models[not args.no_knowledge].eval(), reader, args)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; with --save, the same command goes on from the last look") from None
