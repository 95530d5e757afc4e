"""Summary: a table of a model's layers, their output shapes, parameters and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from minigrad import dtypes, ops, random
from minigrad.autograd import no_grad
from minigrad.errors import message
from minigrad.nn.deferred import Deferred
from minigrad.nn.mode import evaluation
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.nn.module import Module

__all__ = ["Row", "Summary", "summarize"]

HEADINGS = ("Layer", "Output shape", "Parameters", "Parameter memory", "Activation memory")


class Row(NamedTuple):
    """One module; None stands for what is not known."""

    path: str
    layer: str  # its type
    depth: int
    shapes: list[Any]  # of the output, for each call
    parameters: int | None  # its own, without those of its children and those that stand above
    memory: int | None  # of its own parameters and buffers, in bytes
    activations: int | None  # of the outputs that it made, in bytes


class Summary(NamedTuple):
    """What `Module.summary` gives: printed, a table."""

    rows: list[Row]
    trainable: int
    frozen: int
    uninitialized: int  # how many parameters have no shape yet
    parameter_memory: int  # in bytes
    buffer_memory: int
    activation_memory: int | None

    @property
    def parameters(self) -> int:
        """The number of all parameters."""
        return self.trainable + self.frozen

    def __repr__(self) -> str:
        table = [HEADINGS]
        for row in self.rows:
            name = row.path.rpartition(".")[2]
            label = "  " * row.depth + (f"{name}: {row.layer}" if name else row.layer)
            count = "?" if row.parameters is None else f"{row.parameters:,}"
            table.append((label, _calls(row.shapes), count, _size(row.memory), _size(row.activations)))
        widths = [max(len(line[i]) for line in table) for i in range(len(HEADINGS))]
        lines = []
        for line in table:
            cells = [line[i].ljust(widths[i]) if i < 2 else line[i].rjust(widths[i]) for i in range(len(line))]
            lines.append("  ".join(cells).rstrip())
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        more = f", and those of {self.uninitialized} uninitialized ones" if self.uninitialized else ""
        lines[1:1] = [rule]
        lines += [
            rule,
            f"Parameters: {self.parameters:,}{more} (trainable {self.trainable:,}, frozen {self.frozen:,})",
            f"Memory: parameters {_size(self.parameter_memory)}, buffers {_size(self.buffer_memory)}, "
            f"activations {_size(self.activation_memory)}",
        ]
        return "\n".join(lines)


def summarize(module: Module, inputs: tuple[Any, ...], input_shape: Any = None, dtype: Any = None) -> Summary:
    """Make the table of `Module.summary`."""
    if input_shape is not None:
        if inputs:
            raise ValueError(message("summary", "input_shape", f"{input_shape}", "no inputs beside it"))
        inputs = tuple(_example(module, shape, dtype) for shape in _shapes(input_shape))
    if not inputs:
        return _table(module, None, {})
    modules = module.modules()
    tensors = [(t, t._array, t._fill if isinstance(t, Deferred) else None) for _, t, _ in module._tensors()]
    # an initialized parameter is not written to by a forward; buffers are, by layers that forget about eval mode
    kept = [(t, array.copy()) for t, array, _ in tensors if not isinstance(t, Parameter)]
    state = random.get_state()
    calls = _Calls()
    remove = [m.register_forward_hook(calls.note) for m in modules]
    try:
        calls.know(inputs)
        with no_grad(), evaluation():
            module(*inputs)
        return _table(module, calls.shapes, calls.memory)
    finally:
        for undo in remove:
            undo()
        random.set_state(state)
        for t, array, fill in tensors:
            if fill is not None:
                t._array, t._fill = array, fill  # type: ignore[attr-defined]
        for t, values in kept:
            if t._array.shape == values.shape:
                t._array[...] = values


class _Calls:
    """Notes, as a forward hook, what each module gives and which memory it made."""

    def __init__(self) -> None:
        self.shapes: dict[int, list[Any]] = {}
        self.memory: dict[int, int] = {}
        self.known: dict[int, Any] = {}  # memory that has been counted, kept alive so that no id is used twice

    def know(self, value: Any) -> int:
        """Take the memory of all tensors in a value for known; returns the bytes of what was not."""
        if isinstance(value, Tensor):
            owner = value._array
            while getattr(owner, "base", None) is not None:
                owner = owner.base
            new = id(owner) not in self.known
            self.known[id(owner)] = owner
            return value._array.nbytes if new else 0
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, (list, tuple)):
            return 0
        return sum(self.know(v) for v in value)

    def note(self, module: Module, args: tuple[Any, ...], output: Any) -> None:
        """The hook."""
        self.shapes.setdefault(id(module), []).append(_shape(output))
        self.memory[id(module)] = self.memory.get(id(module), 0) + self.know(output)


def _table(module: Module, shapes: dict[int, list[Any]] | None, memory: dict[int, int]) -> Summary:
    rows: list[Row] = []
    seen: set[int] = set()
    trainable = frozen = waiting = parameter_memory = buffer_memory = 0
    for path, m in module.named_modules():
        count, size, unknown = 0, 0, False
        for _, t in m._members():
            if not isinstance(t, Tensor) or id(t) in seen:
                continue
            seen.add(id(t))
            size += t._array.nbytes
            unknown |= isinstance(t, Deferred) and not t.is_initialized
            if not isinstance(t, Parameter):
                buffer_memory += t._array.nbytes
                continue
            count += t.size
            parameter_memory += t._array.nbytes
            waiting += not t.is_initialized
            trainable += t.size if t.requires_grad else 0
            frozen += 0 if t.requires_grad else t.size
        rows.append(
            Row(
                path,
                type(m).__name__,
                path.count(".") + 1 if path else 0,
                [None] if shapes is None else shapes.get(id(m), []),
                None if unknown else count,
                None if unknown else size,
                None if shapes is None else memory.get(id(m), 0),
            )
        )
    total = None if shapes is None else sum(memory.values())
    return Summary(rows, trainable, frozen, waiting, parameter_memory, buffer_memory, total)


def _shapes(given: Any) -> Sequence[Any]:
    """The shapes of the inputs: one, or a list of several."""
    if isinstance(given, int):
        return [(given,)]
    if isinstance(given, Sequence) and all(isinstance(n, int) for n in given):
        return [tuple(given)]
    if isinstance(given, Sequence) and all(isinstance(shape, (tuple, list)) for shape in given):
        return given
    raise TypeError(message("summary", "input_shape", given, "a shape, batch included, or a list of several"))


def _example(module: Module, shape: Any, dtype: Any) -> Tensor:
    """An input of a shape, in the dtype of the model's parameters, where they are."""
    first = next(iter(module.parameters()), None)
    own, device = (dtypes.float32, None) if first is None else (first.dtype, first.device)
    return ops.zeros(tuple(shape), dtype=own if dtype is None else dtype, device=device)


def _shape(value: Any) -> Any:
    """The shape of an output; of several, theirs."""
    if isinstance(value, (list, tuple)):
        return [_shape(v) for v in value]
    if isinstance(value, dict):
        return {key: _shape(v) for key, v in value.items()}
    return tuple(value.shape) if hasattr(value, "shape") else type(value).__name__


def _calls(shapes: list[Any]) -> str:
    """The output shape of a module in words."""
    if not shapes:
        return "not called"
    text = "?" if shapes[0] is None else str(shapes[0])
    return text if len(shapes) == 1 else f"{text} x{len(shapes)}"


def _size(count: int | None) -> str:
    """A number of bytes in words."""
    if count is None:
        return "?"
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
