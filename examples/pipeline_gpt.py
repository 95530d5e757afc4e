"""Train a GPT on the characters of Python's library, its layers on several processes: stages, replicas, split layers.

python examples/pipeline_gpt.py
python -m minigrad.launch -n 2 examples/pipeline_gpt.py --pipeline 2
python -m minigrad.launch -n 4 examples/pipeline_gpt.py --pipeline 2 --tensor 2
mpiexec -n 8 python examples/pipeline_gpt.py --pipeline 4        # and two replicas
"""

import argparse
import math
import sysconfig
import time
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad import nn, optim, parallel


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--pipeline", type=positive, default=1, help="stages that the layers are shared out to")
    add("--tensor", type=positive, default=1, help="ranks that each layer is split over; what is left are replicas")
    add("--micro-batches", type=positive, default=4, help="parts of a batch that are under way at the same time")
    add("--checkpoint", action="store_true", help="compute stages again in backward, for less memory")
    add("--steps", type=positive, default=200, help="steps of training")
    add("--batch-size", type=positive, default=16, help="pieces of text in one step, of all replicas")
    add("--block", type=positive, default=64, help="characters of a piece")
    add("--layers", type=positive, default=4, help="layers of the decoder")
    add("--heads", type=positive, default=4, help="heads of attention")
    add("--features", type=positive, default=64, help="features of a character")
    add("--lr", type=float, default=3e-3, help="learning rate")
    add("--clip", type=float, default=1.0, help="longest gradient, all parameters together")
    add("--seed", type=int, default=0, help="of the weights and the pieces")
    return parser.parse_args()


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def load() -> tuple[np.ndarray, int]:
    """The characters of some modules of the standard library as numbers, and how many different ones there are."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = "".join(path.read_text(encoding="utf-8", errors="ignore") for path in sorted(folder.glob("[a-d]*.py")))
    alphabet, ids = np.unique(np.frombuffer(text.encode("ascii", "ignore"), np.uint8), return_inverse=True)
    return ids.astype(np.int64), len(alphabet)


class Decoder(nn.TransformerDecoderLayer):
    """A causal layer of a language model."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args.heads, 4 * args.features, features=args.features, cross_attention=False, rotary=True)


def loss_of(logits: mg.Tensor, targets: mg.Tensor) -> mg.Tensor:
    """The mean cross-entropy of a character."""
    return nn.functional.cross_entropy(logits, targets)


def main() -> None:
    args = parse_args()
    world = parallel.init()
    ranks = args.pipeline * args.tensor
    if world.size % ranks or args.batch_size % max(world.size // ranks, 1):
        raise SystemExit(
            f"{args.pipeline} stages x {args.tensor} need a multiple of {ranks} ranks, which divides --batch-size; "
            f"there are {world.size}"
        )
    mesh = parallel.Mesh(tensor=args.tensor, pipeline=args.pipeline)
    own = args.batch_size // mesh.data.size
    if own < args.micro_batches or args.layers + 3 < args.pipeline or args.heads % args.tensor:
        raise SystemExit(
            f"{own} pieces a replica, {args.layers} layers and {args.heads} heads are too few or do not divide: "
            f"--micro-batches is {args.micro_batches}, --pipeline {args.pipeline}, --tensor {args.tensor}"
        )
    mg.random.seed(args.seed)
    ids, vocabulary = load()
    size = args.features
    model = nn.Sequential(
        [
            nn.Embedding(vocabulary, size, embeddings_initializer="glorot_uniform"),
            *(Decoder(args) for _ in range(args.layers)),
            nn.LayerNorm(size),
            nn.Dense(vocabulary, in_features=size),
        ]
    )
    count = sum(p.size for p in model.parameters())
    if args.tensor > 1:
        parallel.tensor_parallel(model, mesh.tensor)
    data = mesh.data if mesh.data.size > 1 else None
    pipeline = parallel.Pipeline(
        model, mesh.pipeline, micro_batches=args.micro_batches, checkpoint=args.checkpoint, data=data
    )
    del model  # each rank keeps its stage
    optimizer = optim.AdamW(pipeline.named_parameters(), lr=args.lr, betas=(0.9, 0.95))
    held = sum(p.size for p in pipeline.parameters())
    most = int(world.allreduce(np.int64(held), "max"))
    if world.rank == 0:
        print(f"{mesh}: {count:,} parameters, at most {most:,} on a rank; an alphabet of {vocabulary}")

    rng = np.random.default_rng(args.seed)
    windows = np.lib.stride_tricks.sliding_window_view(ids, args.block + 1)
    mine = slice(mesh.data.rank * own, (mesh.data.rank + 1) * own)
    every, total, begin = max(args.steps // 10, 1), 0.0, time.perf_counter()
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(step / 20, 0.55 + 0.45 * math.cos(math.pi * step / args.steps))
        pieces = mg.asarray(windows[rng.integers(0, len(windows), args.batch_size)][mine].copy())
        optimizer.zero_grad()
        total += pipeline.train_step(pieces[:, :-1], pieces[:, 1:], loss_of)
        pipeline.clip_grad_norm_(args.clip)
        optimizer.step()
        if step % every == 0:
            if world.rank == 0:
                print(f"step {step:5}   loss {total / every:.6f}   {time.perf_counter() - begin:.1f} s", flush=True)
            total = 0.0


if __name__ == "__main__":
    main()
