"""A model and what structured pruning makes of it: a forward of a BERT in the shape of MiniLM, and of an MLP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Point, Task, Workload


@dataclass(frozen=True)
class Shape:
    """A BERT, and the batch that it reads."""

    layers: int = 6
    features: int = 384
    heads: int = 12
    vocabulary: int = 30522
    batch: int = 8
    length: int = 64


def removed(model: Any, what: str) -> None:
    """Take the half of something out of a model."""
    from minigrad import compress

    functions = {
        "heads": compress.remove_heads, "neurons": compress.remove_neurons, "layers": compress.remove_layers
    }  # fmt: skip
    for name, function in functions.items():
        if what in (name, "all three"):
            function(model, 0.5)


def encoder(shape: Shape, what: str) -> Task:
    import minigrad as mg
    from minigrad.models import Bert, BertConfig

    sizes = {"num_layers": shape.layers, "features": shape.features, "num_heads": shape.heads}
    config = BertConfig(vocab_size=shape.vocabulary, hidden_features=4 * shape.features, **sizes)
    model = Bert(config, pooler=False).eval()
    removed(model, what)
    draw = np.random.default_rng(0)
    ids = mg.asarray(draw.integers(0, shape.vocabulary, (shape.batch, shape.length)))

    def run() -> Any:
        with mg.no_grad():
            return model(ids).numpy()

    return Task(run)


def network(units: int, batch: int, what: str) -> Task:
    import minigrad as mg
    from minigrad import nn

    layers = [nn.Dense(units, activation="relu", in_features=n) for n in (784, units)]
    model = nn.Sequential([*layers, nn.Dense(10, in_features=units)]).eval()
    removed(model, what)
    x = mg.asarray(np.random.default_rng(0).random((batch, 784), np.float32))

    def run() -> Any:
        with mg.no_grad():
            return model(x).numpy()

    return Task(run)


def encoder_flops(shape: Shape, what: str) -> float:
    """Of the products: four maps of attention, scores and sums, two maps of the network."""
    layers, inner, hidden = shape.layers, shape.features, 4 * shape.features
    inner //= 2 if what in ("heads", "all three") else 1
    hidden //= 2 if what in ("neurons", "all three") else 1
    layers //= 2 if what in ("layers", "all three") else 1
    each = 4 * shape.features * inner + 2 * shape.length * inner + 2 * shape.features * hidden
    return 2.0 * shape.batch * shape.length * layers * each


def encoder_workload(shape: Shape, what: str) -> Workload:
    name = f"BERT {shape.layers} layers d{shape.features}, {shape.batch} x {shape.length} tokens, {_name(what)}"
    return Workload(
        name,
        {"minigrad": partial(encoder, shape, what)},
        flops=encoder_flops(shape, what),
        point=Point(_name(what), shape.length, "tokens"),
    )


def network_workload(units: int, batch: int, what: str) -> Workload:
    left = units // 2 if what == "neurons" else units
    flops = 2.0 * batch * (784 * left + left * left + left * 10)
    name = f"MLP 784-{units}-{units}-10 forward, batch {batch}, {_name(what)}"
    return Workload(name, {"minigrad": partial(network, units, batch, what)}, flops=flops)


def _name(what: str) -> str:
    return {"": "whole", "all three": "half of all three"}.get(what, f"half of the {what}")


PARTS = ("", "heads", "neurons", "layers", "all three")
WORKLOADS = [
    *(encoder_workload(Shape(), what) for what in PARTS),
    *(network_workload(512, 128, what) for what in ("", "neurons")),
]
SWEEP = [encoder_workload(Shape(length=length), what) for length in (32, 128, 512) for what in PARTS]
QUICK = [
    encoder_workload(Shape(layers=2, features=16, heads=2, vocabulary=20, batch=2, length=4), "all three"),
    network_workload(8, 2, "neurons"),
]
