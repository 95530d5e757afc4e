"""What the ranks of the tests of distillation call, and the models of these tests."""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import compress, data, nn, parallel, train

Array = np.ndarray[Any, Any]


def net(*units: int, seed: int = 0, dropout: float = 0.0, norm: bool = False, dtype: Any = None) -> nn.Sequential:
    """A classifier of 6 features, its layers named 0, 1, ..."""
    mg.random.seed(seed)
    model, width = nn.Sequential([]), 6
    for count in units[:-1]:
        model.add(nn.Dense(count, activation="tanh", in_features=width, dtype=dtype))
        if norm:
            model.add(nn.BatchNorm1D(count, dtype=dtype))
        if dropout:
            model.add(nn.Dropout(dropout))
        width = count
    return model.add(nn.Dense(units[-1], in_features=width, dtype=dtype))


def examples(count: int = 24, seed: int = 0, dtype: Any = np.float32) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6)).astype(dtype), rng.integers(0, 3, count)


def make(dtype: Any = None, **options: Any) -> compress.Distiller:
    """A distiller with a hint whose projection waits for its first batch."""
    student, teacher = net(5, 3, dtype=dtype), net(8, 3, seed=1, dropout=0.5, dtype=dtype)
    terms = [compress.Hint("0", weight=0.3), compress.RelationDistances("0", weight=0.0)]
    return compress.Distiller(student, teacher, 2.0, 0.7, terms=terms, **options)


def train_part(size: int, steps: int = 3) -> tuple[list[Array], Array]:
    """Train with the first `size` ranks as one: this rank's weights, and its teacher's."""
    world = parallel.init()
    team = world if size == world.size else world.split(0 if world.rank < size else None)
    if team is None:
        return [], np.empty(0)
    mg.random.seed(3)
    distiller = make(mg.float64)
    hint = distiller.terms[0].projection  # with values that do not hang on the batch
    hint.complete(5, 8)
    hint.to(dtype=mg.float64)
    model = parallel.DataParallel(distiller, team)
    x, y = examples(dtype=np.float64)
    trainer = train.Trainer(model, distiller.loss, "adam", ["accuracy"], lr=0.05)
    trainer.fit([(mg.asarray(x), mg.asarray(y))] * steps, verbose=0)
    weights = [p.detach().numpy().copy() for p in distiller.parameters()]
    return weights, distiller.teacher.state_dict()["0.weight"].numpy()


def loader(seed: int = 5, batch_size: int = 8) -> data.DataLoader:
    return data.DataLoader(data.TensorDataset(*examples()), batch_size, shuffle=True, seed=seed)
