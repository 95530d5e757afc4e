"""Constructors: an argument that is nonsense is refused in the words of this library, not by what it runs into."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from minigrad import amp, data, nn, optim, train
from minigrad.data import transforms
from minigrad.optim import schedules

NONSENSE = [
    "x",
    b"x",
    None,
    object(),
    1.5,
    -1,
    float("nan"),
    float("inf"),
    [1],
    ["x"],
    {"a": "b"},
    int,
    np.float32(0.5),
]


def dataset() -> Any:
    return data.TensorDataset(np.ones((8, 3), np.float32), np.arange(8))


def optimizer() -> Any:
    return optim.SGD([nn.Parameter([1.0])], lr=0.1)


# for arguments that have no default; functions make a value for each call
REQUIRED: dict[str, Any] = {
    "T_0": 3, "T_max": 5, "alpha": 0.2, "data": [1.0], "dataset": dataset, "datasets": lambda: [dataset()], "degrees":
    10.0, "embedding": lambda: nn.Embedding(5, 3), "epsilon": 0.1, "features": 4, "filters": 3, "function": lambda:
    abs, "gamma": 0.5, "indices": lambda: [0, 1], "kernel_size": 3, "l1": 0.1, "l2": 0.1, "lengths": lambda: [1, 2, 3,
    4], "lr_lambda": lambda: lambda t: 1.0, "max_length": 8, "max_lr": 0.1, "mean": 0.5, "milestones": lambda: [2, 3],
    "model": lambda: nn.Dense(3, in_features=4), "module": lambda: nn.Dense(3, in_features=4), "n": 4,
    "num_embeddings": 5, "num_groups": 2, "num_heads": 2, "optimizer": optimizer, "output_size": 2, "params": lambda:
    [nn.Parameter(np.ones((3, 4), np.float32))], "rate": 0.5, "scale": (0.5, 2.0), "sequences": lambda: [[1], [2]],
    "shape": (2, 2), "size": 4, "std": 0.5, "step_size": 2, "steps": 2, "total_iters": 4, "total_steps": 10,
    "transforms": list, "units": 3, "warmup_steps": 2, "weights": lambda: [1.0, 2.0], "window": 2, "batch_size": 2,
    "replays": 2, "layers": list, "hidden_features": 8, "num_layers": 1,
}  # fmt: skip
NAMESPACES = (nn, optim, schedules, amp, data, transforms, train)
# plain records, bases without a meaning of their own, and names that take what follows as it is
LEFT_OUT = {"Optimizer", "LRScheduler", "Average", "Table", "Digits", "LoadReport", "LayerCache"}


def constructors() -> Iterator[Any]:
    seen = set()
    for namespace in NAMESPACES:
        for name in namespace.__all__:
            kind = getattr(namespace, name)
            if (
                isinstance(kind, type)
                and not issubclass(kind, BaseException)
                and name not in LEFT_OUT
                and kind not in seen
            ):
                seen.add(kind)
                yield pytest.param(kind, id=f"{namespace.__name__.rpartition('.')[2]}.{name}")


def refusal(call: Callable[[], Any]) -> str:
    """What the error says, or nothing."""
    try:
        call()
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError, LookupError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", list(constructors()))
def test_nonsense_is_refused_in_words(kind: Any) -> None:
    parameters = [
        p for p in inspect.signature(kind).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    needed = [p.name for p in parameters if p.default is p.empty]
    if not set(needed) <= set(REQUIRED):
        pytest.skip(f"no values for {sorted(set(needed) - set(REQUIRED))}")
    wrong = []
    for p in parameters:
        for value in NONSENSE:
            given = {name: REQUIRED[name]() if callable(REQUIRED[name]) else REQUIRED[name] for name in needed}
            text = refusal(lambda given=given, name=p.name, value=value: kind(**{**given, name: value}))
            if text and not re.match(r"[\w.]+: ", text):
                wrong.append(f"{p.name}={value!r}: {text}")
    assert not wrong, "\n".join(wrong)
