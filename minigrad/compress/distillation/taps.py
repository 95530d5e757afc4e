"""Taps: what modules inside a model compute, taken while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from minigrad.errors import describe, message
from minigrad.nn.attention import MultiHeadAttention
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

__all__ = ["capture", "check_tap", "pick"]

WEIGHTS = "weights"  # of a MultiHeadAttention, which it gives only where it is asked for them


@contextmanager
def capture(model: Module, taps: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Take the outputs of modules inside a model while it runs in the block.

    A tap is the path of a module, as `named_modules` has it. Where a module gives several tensors a colon and a key
    follow, a number for tuples and lists, a name for dicts, dataclasses and named tuples: ``"encoder:0"``,
    ``"decoder:hidden"``. ``"...self_attention:weights"`` asks a `MultiHeadAttention` for its weights, (batch,
    heads, queries, keys), before dropout. The path ``""`` is the model itself.

    Nothing of it is left in the model afterwards. While it lasts, the model is for one thread alone.

    Parameters
    ----------
    model : Module
        What is called in the block.
    taps : iterable of str
        What to take.

    Yields
    ------
    dict of str to Tensor
        By tap; it fills while the model runs. Of a module that runs several times it has the last.

    Raises
    ------
    ValueError
        If there is no such module, or it gives no such tensor.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> from minigrad.compress import capture
    >>> model = nn.TransformerEncoder(2, 4, 32, features=16)
    >>> with capture(model, ["layers.0", "layers.1.self_attention:weights"]) as found:
    ...     y = model(mg.ones((2, 5, 16)))
    >>> {tap: x.shape for tap, x in found.items()}
    {'layers.0': (2, 5, 16), 'layers.1.self_attention:weights': (2, 4, 5, 5)}
    """
    given: Any = taps
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(message("capture", "taps", describe(given), "a list of them"))
    found: dict[str, Tensor] = {}
    wanted = dict.fromkeys(taps)
    modules = dict(model.named_modules()) if wanted else {}
    with ExitStack() as stack:
        for tap in wanted:
            path, key = split_tap(model, tap, modules)
            module = modules[path]
            if isinstance(module, MultiHeadAttention) and key == WEIGHTS:
                stack.enter_context(_weights(module, tap, found))
            else:
                stack.callback(module.register_forward_hook(_Recorder(tap, key, found)))
        yield found


def check_tap(who: str, model: Module, tap: str, *, recorded: bool = False) -> None:
    """Raise where a model has no such tap, or, if a graph of it is needed, one that checkpointing leaves without."""
    modules = dict(model.named_modules())
    path, key = split_tap(model, tap, modules)
    above = [name for name in modules if path and name != path and (not name or path.startswith(f"{name}."))]
    inside = [path] if isinstance(modules[path], MultiHeadAttention) and key == WEIGHTS else []
    for name in [*above, *inside] * recorded:
        if modules[name].is_checkpointed:
            got = f"inside of {name or 'the model'}, which is checkpointed and keeps no graph"
            raise ValueError(message(who, repr(tap), got, "a module outside of those that are checkpointed"))


def split_tap(model: Module, tap: Any, modules: Mapping[str, Module]) -> tuple[str, str | None]:
    """Path and key of a tap."""
    if not isinstance(tap, str):
        raise TypeError(message("capture", "tap", describe(tap), "the path of a module, a str"))
    path, colon, key = tap.partition(":")
    if path not in modules:
        last = path.rpartition(".")[2]
        close = [name for name in modules if name and (name.startswith(path[:3]) or name.endswith(last))][:6]
        need = f"a path of {type(model).__name__}.named_modules()"
        raise ValueError(message("capture", "tap", repr(tap), need, f"Such as {', '.join(close)}" if close else ""))
    return path, key if colon else None


def pick(who: str, output: Any, key: Any = None) -> Tensor:
    """The tensor that a key names in what a module gave: a number, a name, or a function of it.

    Without a key the output is the tensor, or holds a single one.
    """
    if callable(key):
        chosen = key(output)
    elif key is None:
        held = [output] if isinstance(output, Tensor) else [x for x in _parts(output).values() if isinstance(x, Tensor)]
        chosen = held[0] if len(held) == 1 else None
    else:
        parts = _parts(output)
        chosen = parts.get(str(key))
        if chosen is None and str(key).lstrip("-").isdecimal() and isinstance(output, (tuple, list)):
            number = int(key)
            chosen = output[number] if -len(output) <= number < len(output) else None
    if not isinstance(chosen, Tensor):
        names = ", ".join(_parts(output)) or "nothing by name"
        key_text = "" if key is None else f" with {key!r}" if isinstance(key, (str, int)) else " with the function"
        got = f"{describe(output)}{key_text}"
        raise ValueError(message(who, "the output", got, "one tensor", f"It has {names}; a key says which"))
    return chosen


def _parts(output: Any) -> dict[str, Any]:
    """What an output holds, by name or number."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output))
    if isinstance(output, (tuple, list)):
        return {str(i): value for i, value in enumerate(output)}
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {}


class _Recorder:
    """A forward hook that takes one tensor and leaves the output alone."""

    def __init__(self, tap: str, key: str | None, found: dict[str, Tensor]) -> None:
        self.tap, self.key, self.found = tap, key, found

    def __call__(self, module: Module, args: tuple[Any, ...], output: Any) -> None:
        self.found[self.tap] = pick(f"tap {self.tap!r}", output, self.key)


@contextmanager
def _weights(module: MultiHeadAttention, tap: str, found: dict[str, Tensor]) -> Iterator[None]:
    """Let an attention layer compute its weights too; a hook sees no keyword arguments, so its forward is wrapped."""
    original, own = module.forward, module.__dict__.get("forward")

    def forward(*args: Any, need_weights: bool = False, **kwargs: Any) -> Any:
        result, weights = original(*args, need_weights=True, **kwargs)
        found[tap] = weights
        return (result, weights) if need_weights else result

    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if own is not None:
            module.__dict__["forward"] = own
