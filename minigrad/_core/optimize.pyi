from typing import Any

def mark_updated(parameters: list[Any], site: str) -> None: ...
def sgd(
    x: Any,
    g: Any,
    momentum_buffer: Any,
    lr: float,
    momentum: float,
    fresh: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> bool: ...
def adam(
    x: Any,
    g: Any,
    m: Any,
    v: Any,
    v_max: Any,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    step: int,
) -> bool: ...
