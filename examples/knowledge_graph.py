"""Learn a knowledge graph by heart and guess what it does not say: vectors of entities and relations, links, a picture.

python examples/knowledge_graph.py
python examples/knowledge_graph.py --model rotate --data kinships
python examples/knowledge_graph.py --data FB15k-237.tar.gz --model complex --features 256 --batch-size 512 \\
    --optimizer adagrad --reciprocal --n3 0.05 --std 0.001 --epochs 40 --validate-every 5 --checkpoint fb15k-237.ckpt
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad import io, knowledge, nn, optim

MODELS = {"distmult": knowledge.DistMult, "complex": knowledge.ComplEx}
OPTIMIZERS = {"adam": optim.Adam, "adagrad": optim.Adagrad}


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add(
        "--data",
        default="umls",
        help="umls, kinships or nations; or a folder or archive with train.txt, valid.txt and test.txt",
    )
    add("--model", choices=sorted(MODELS), default="complex", help="how a triple is scored")
    add("--features", type=positive, default=32, help="numbers in the vector of an entity")
    add("--epochs", type=positive, default=256, help="passes over the triples")
    add("--batch-size", type=positive, default=1024, help="queries in one step")
    add("--lr", type=float, default=0.1, help="learning rate")
    add("--optimizer", choices=sorted(OPTIMIZERS), default="adam", help="the rule of the steps")
    add("--reciprocal", action="store_true", help="give the inverse of each relation a vector of its own")
    add("--n3", type=float, default=0.0, help="weight of the N3 penalty")
    add("--dropout", type=float, default=0.0, help="share of a query's numbers that are switched off in a step")
    add("--std", type=float, help="standard deviation of the first values, normally distributed")
    add("--validate-every", type=positive, default=64, help="epochs between two evaluations")
    add("--checkpoint", type=Path, help="where to save the run after every epoch, and to go on from")
    add("--seed", type=int, default=0, help="of the weights and the order of the queries")
    return parser.parse_args()


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def train(model, graph: knowledge.Graph, args: argparse.Namespace) -> None:
    """Score all entities for every query, and raise the answers."""
    optimizer = OPTIMIZERS[args.optimizer](model.named_parameters(), lr=args.lr)
    queries, rng, begin, known, epoch = (
        knowledge.Queries(graph.train),
        np.random.default_rng(args.seed),
        time.time(),
        graph.known,
        0,
    )
    print(f"{len(queries)} queries", flush=True)
    if args.checkpoint and args.checkpoint.exists():
        state = io.load_checkpoint(args.checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        epoch = state["epoch"]
    while epoch < args.epochs:
        losses = []
        for batch in queries.batches(args.batch_size, np.random.default_rng((args.seed, epoch))):
            optimizer.zero_grad()
            scores = model.score_queries(batch.queries)
            loss = knowledge.all_entity_cross_entropy(scores, batch.rows, batch.answers)
            losses.append(loss.item())
            if args.n3:
                loss = loss + args.n3 * model.penalty(batch)
            loss.backward()
            optimizer.step()
        epoch += 1
        if args.checkpoint:
            io.save_checkpoint(
                args.checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            )
        text = f"epoch {epoch:4}   {time.time() - begin:7.1f} s   loss {np.mean(losses):.4f}"
        if epoch % args.validate_every == 0 or epoch == args.epochs:
            text += f"   validation: {knowledge.evaluate(model, graph.valid, known)}"
        print(text, flush=True)


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    graph = knowledge.read_graph(args.data) if Path(args.data).exists() else knowledge.load_graph(args.data)
    options = {"reciprocal": args.reciprocal, "dropout": args.dropout}
    if args.std is not None:
        options["initializer"] = lambda t: nn.init.normal(t, 0.0, args.std)
    model = MODELS[args.model](len(graph.entities), len(graph.relations), args.features, **options)
    train(model, graph, args)
    print("test:", knowledge.evaluate(model, graph.test, graph.known), flush=True)


if __name__ == "__main__":
    main()
