"""Learn a knowledge graph and guess what it does not say: vectors of entities and relations, links, a picture.

python examples/knowledge_graph.py
python examples/knowledge_graph.py --data kinships --model rotate --lr 0.02 --epochs 100
python examples/knowledge_graph.py --model transe --loss self-adversarial --negatives 64 --margin 6 --lr 0.02
python examples/knowledge_graph.py --data FB15k-237.tar.gz --model complex --features 256 --batch-size 512 \\
    --optimizer adagrad --no-decay --n3 0.05 --std 0.001 --epochs 20 --validate-every 5 --checkpoint fb15k-237.ckpt
"""

import argparse
import gzip
import math
import os
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import io, knowledge, nn, optim

MODELS = {
    "complex": knowledge.ComplEx,
    "distmult": knowledge.DistMult,
    "rotate": knowledge.RotatE,
    "transe": knowledge.TransE,
    "transh": knowledge.TransH,
}
OPTIMIZERS = {"adagrad": optim.Adagrad, "adam": optim.Adam}
LOSSES = ("cross-entropy", "bce", "margin", "softplus", "self-adversarial")
EXTRA = "pip install 'minigrad[demo]'"
PICTURES = (".png", ".svg", ".pdf", ".jpg")
SHOWN = 60  # names in the picture


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--data", default="umls", help="umls, kinships, nations; or a folder or archive of train, valid and test.txt")
    add("--names", type=Path, help="a file of lines with a name in the data, a tab and the name to print; may be .gz")
    add("--model", choices=sorted(MODELS), default="complex", help="how a triple is scored")
    add("--features", type=positive, default=32, help="numbers in the vector of an entity")
    add("--norm", type=int, choices=[1, 2], default=1, help="of TransE's distances")
    add("--reciprocal", action=argparse.BooleanOptionalAction, help="vectors for inverse relations; without negatives")
    add("--loss", choices=LOSSES, default="cross-entropy", help="the first two score all entities, others negatives")
    add("--negatives", type=positive, default=32, help="wrong triples for each right one")
    add("--strategy", choices=["uniform", "bernoulli"], default="bernoulli", help="how they are drawn")
    add("--margin", type=float, default=4.0, help="of the losses that have one")
    add("--epochs", type=positive, default=256, help="passes over the data")
    add("--batch-size", type=positive, default=1024, help="queries, or right triples, in one step")
    add("--lr", type=number, default=0.1, help="learning rate at the start")
    add("--decay", action=argparse.BooleanOptionalAction, default=True, help="lower it to 0, a little each epoch")
    add("--optimizer", choices=sorted(OPTIMIZERS), default="adam", help="the rule of the steps")
    add("--n3", type=number, default=0.0, help="weight of the N3 penalty")
    add("--dropout", type=part, default=0.0, help="share of a query's numbers that are switched off in a step")
    add("--std", type=number, help="of normally distributed first values, instead of the model's own")
    add("--validate-every", type=positive, default=64, help="epochs between two evaluations")
    add("--checkpoint", type=Path, help="where to save the run after each epoch, and to go on from")
    add("--seed", type=int, default=0, help="of the weights, the order of the data, and what is drawn")
    add(
        "--plot",
        type=picture,
        default="knowledge_graph.png",
        metavar="PATH",
        help="where to save the picture; '' for nowhere",
    )
    args = parser.parse_args()
    args.scores_all = args.loss in ("cross-entropy", "bce")
    if args.reciprocal and not args.scores_all:
        parser.error(f"argument --reciprocal: with --loss {args.loss} no inverse relation would learn")
    if args.n3 and not args.scores_all:
        parser.error(f"argument --n3: needs --loss cross-entropy or bce, not {args.loss}")
    if args.features % 2 and MODELS[args.model].is_complex:
        parser.error(f"argument --features: --model {args.model} needs an even number, not {args.features}")
    if args.reciprocal is None:
        args.reciprocal = args.scores_all
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


def picture(text: str) -> str:
    """A path that the picture can be saved to, or nothing."""
    path = Path(text)
    if text and path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in any of {', '.join(PICTURES)}")
    if text and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: is there such a folder?")
    return text


def of_run(args: argparse.Namespace) -> dict[str, Any]:
    """The options that the numbers of a checkpoint depend on; the others may change when it goes on."""
    names = ("model", "features", "norm", "reciprocal", "loss", "optimizer")
    return {name: getattr(args, name) for name in names} | {"data": Path(args.data).name}


def loaded(args: argparse.Namespace) -> dict[str, Any]:
    """What a run kept."""
    try:
        state = io.load_checkpoint(args.checkpoint)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
    if not isinstance(state, dict) or state.get("run") != of_run(args):
        raise SystemExit(f"{args.checkpoint} is of a run with other options; name another file, or remove it")
    return state


def losses(
    model: knowledge.KnowledgeModel, facts: knowledge.TripleSet, args: argparse.Namespace
) -> Iterator[mg.Tensor]:
    """The losses of the batches of an epoch."""
    queries = knowledge.Queries(facts)
    if args.scores_all:
        loss = knowledge.all_entity_bce if args.loss == "bce" else knowledge.all_entity_cross_entropy
        for batch in queries.batches(args.batch_size):
            found = loss(model.score_queries(batch.queries), batch.rows, batch.answers)
            yield found + args.n3 * model.penalty(batch) if args.n3 else found
        return
    sampler = knowledge.NegativeSampler(facts, args.negatives, strategy=args.strategy, filtered=True)
    order = mg.random.permutation(len(facts)).numpy()
    for start in range(0, len(order), args.batch_size):
        right = facts.triples[order[start : start + args.batch_size]]
        scores = model(right), model(sampler(right))
        if args.loss == "softplus":
            yield knowledge.softplus_loss(*scores)
        elif args.loss == "margin":
            yield knowledge.margin_ranking_loss(*scores, args.margin)
        else:
            yield knowledge.self_adversarial_loss(*scores, args.margin)


def train(model: knowledge.KnowledgeModel, graph: knowledge.Graph, args: argparse.Namespace) -> None:
    """Run the epochs; where there is a checkpoint, those that are left."""
    optimizer = OPTIMIZERS[args.optimizer](model.named_parameters(), lr=args.lr)
    known, begin, epoch = graph.known, time.perf_counter(), 0
    if args.checkpoint and args.checkpoint.exists():
        state = loaded(args)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        mg.random.set_state(state["random"])
        epoch = state["epoch"]
        print(f"going on after epoch {epoch}")
    while epoch < args.epochs:
        if args.decay:
            optimizer.param_groups[0]["lr"] = args.lr * (1 - epoch / args.epochs)
        found = []
        for loss in losses(model, graph.train, args):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        epoch += 1
        if args.checkpoint:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            io.save_checkpoint(args.checkpoint, {**state, "run": of_run(args), "random": mg.random.get_state()})
        evaluates = epoch % args.validate_every == 0 or epoch == args.epochs
        if evaluates or args.checkpoint:
            text = f"epoch {epoch:4}   {time.perf_counter() - begin:7.1f} s   loss {np.mean(found):.4f}"
            if evaluates:
                text += f"   validation: {knowledge.evaluate(model, graph.valid, known)}"
            print(text, flush=True)


def show(model: knowledge.KnowledgeModel, graph: knowledge.Graph, names: dict[str, str]) -> None:
    """Print the best guesses for some test triples, and what is near to an entity."""
    guess = knowledge.LinkPredictor(model, graph.train)
    truth = set(graph.valid) | set(graph.test)
    print("guesses that are not among the training triples; * is confirmed by the others")
    asked = {(h, r): None for h, r, _ in graph.test[:: max(1, len(graph.test) // 40)]}
    for h, r in list(asked)[:6]:
        found = guess.predict_tails(h, r, k=4)
        texts = [f"{names.get(t, t)}{'*' if (h, r, t) in truth else ''}" for t, _ in found]
        print(f"  {names.get(h, h)} | {r} | {', '.join(texts)}")
    h = graph.test[0][0]
    near = [f"{names.get(name, name)} {cosine:.2f}" for name, cosine in guess.nearest(h, k=4)]
    print(f"nearest to {names.get(h, h)}: {', '.join(near)}")


def groups(graph: knowledge.Graph) -> list[str]:
    """A word for each entity: the largest of its kinds that is not a kind of most, or what it most often does."""
    facts = list(graph.train)
    if "isa" in graph.relations:
        above: dict[str, set[str]] = {
            name: {t for h, r, t in facts if (h, r) == (name, "isa")} for name in graph.entities
        }
        sizes = Counter(kind for kinds in above.values() for kind in kinds)
        common = [kind for kind, count in sizes.most_common() if count < 0.3 * len(above)][:9]
        found = [[kind for kind in common if kind in above[name] or kind == name] for name in graph.entities]
        return [kinds[0].replace("_", " ") if kinds else "other" for kinds in found]
    roles: dict[str, Counter[str]] = {name: Counter() for name in graph.entities}
    for h, r, t in facts:
        roles[h][f"head of {r}"] += 1
        roles[t][f"tail of {r}"] += 1
    first = [counts.most_common(1)[0][0] if counts else "other" for counts in roles.values()]
    common = {role for role, _ in Counter(first).most_common(9)}
    return [role if role in common else "other" for role in first]


def spread(vectors: mg.Tensor) -> list[int]:
    """Entities whose names do not cover one another in the picture."""
    points, _ = knowledge.principal_components(vectors)
    points = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    chosen: list[int] = []
    for i, (x, y) in enumerate(points):
        if all(abs(x - points[j][0]) > 0.2 or abs(y - points[j][1]) > 0.022 for j in chosen) and x < 0.85:
            chosen.append(i)
    return chosen[:SHOWN]


def read_names(path: Path | None) -> dict[str, str]:
    """Names to print."""
    if path is None:
        return {}
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return {line.split("\t")[0]: line.split("\t")[1] for line in text.splitlines() if "\t" in line}


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    try:
        graph = knowledge.read_graph(args.data) if Path(args.data).exists() else knowledge.load_graph(args.data)
        names = read_names(args.names)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
    if len(graph.entities) < 2:
        raise SystemExit(f"{Path(__file__).name}: {args.data}: has one entity, so that there is nothing to guess")
    print(graph)
    options = {"reciprocal": args.reciprocal, "dropout": args.dropout}
    if args.std is not None:
        options["initializer"] = lambda t: nn.init.normal(t, 0.0, args.std)
    if args.model == "transe":
        options["p"] = args.norm
    # with all entities scored, every row has a gradient
    options["sparse"] = not args.scores_all
    model = MODELS[args.model](len(graph.entities), len(graph.relations), args.features, **options)
    train(model, graph, args)
    for title, sides in (("both sides", "both"), ("tails", "tail"), ("heads", "head")):
        print(f"test, {title}: {knowledge.evaluate(model, graph.test, graph.known, sides=sides)}")
    show(model, graph, names)
    try:
        if args.plot and args.features == 1:
            print("no picture, for vectors of one feature have no plane")
        elif args.plot:
            texts = [names.get(name, name).replace("_", " ") for name in graph.entities]
            title = f"{Path(args.data).name}: the entities of {type(model).__name__}"
            of = groups(graph)
            knowledge.plot_embedding(
                model.entities.weight,
                args.plot,
                names=texts,
                groups=of,
                label=spread(model.entities.weight),
                title=title,
            )
            print(f"picture saved to {args.plot}")
    except ImportError as missing:
        print(f"no picture, for {missing.name} is not installed: {EXTRA}")


if __name__ == "__main__":
    main()
