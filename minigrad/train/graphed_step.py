"""GraphedStep: a training step that a GPU runs as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from minigrad import draws, random
from minigrad._core import tape
from minigrad.amp import GradScaler
from minigrad.backend import devices
from minigrad.errors import DeviceError, DTypeError, GradError, ShapeError, describe, message
from minigrad.nn.checks import extent
from minigrad.nn.module import Module
from minigrad.optim.optimizer import Optimizer
from minigrad.tensor import Tensor
from minigrad.train.batch import map_leaves
from minigrad.train.host_state import AGAIN, HostState, Stale

__all__ = ["GraphedStep"]

WHO = "GraphedStep"
WORD = 1 << 64


class GraphedStep:
    """A training step, forward, backward and update, that the GPU runs as one CUDA graph.

    A small operation takes the GPU less time than the host needs to launch it. So the first `warmup` calls run the
    step as it is; the next one captures what it launches, and from then on each call copies its batch to where the
    captured one lay, and launches all of it at once. Every call is a step, with the numbers that the step itself would
    have given: random ones too, of the default generator, which moves on as if the step had drawn.

    What is captured is what was launched: the Python code of the step does not run again. Numbers from the host are
    those of the capture, but for the hyperparameters of optimizers, which may change between steps: let schedules, logs
    and averages move on outside. Shapes, dtypes, memory and modes have to stay.

    Parameters
    ----------
    step : callable
        Takes a batch, tensors or nests of them, and trains; what it returns is a tensor, None, or a nest of these.
    models : Module or sequence of Module
        The models that it trains, on a GPU.
    optimizers : Optimizer or sequence of Optimizer
        The optimizers that it calls, if any.
    scaler : GradScaler, optional
        The loss scaling of the step, if any: all its calls have to be in the step, `update` too.
    warmup : int
        How many calls come before the capture, at least 1: states are made there, and kernels compiled.
    copy : bool
        Whether outputs are copies; else the next call overwrites them.

    Attributes
    ----------
    captured : bool
        Whether a graph is there.

    Raises
    ------
    TypeError
        If an argument is something else.
    DeviceError
        When called, if a parameter or an input is on the CPU, or the step does what cannot be captured: it reads values
        on the host, copies from there, or waits. Nothing has changed then, and `step` itself works on.
    ShapeError, DTypeError
        When called with a batch that is not like the captured one.
    GradError
        When called, if something that is frozen has changed: memory of a parameter, a mode, a state; or if a gradient
        is row-sparse.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, optim, train
    >>> model = nn.Dense(1, in_features=2)
    >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
    >>> def step(x, y):
    ...     optimizer.zero_grad()
    ...     loss = ((model(x) - y) ** 2).mean()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> if mg.cuda.is_available():
    ...     model.to("cuda")
    ...     graphed = train.GraphedStep(step, model, optimizer)
    ...     for _ in range(10):
    ...         loss = graphed(mg.ones((4, 2), device="cuda"), mg.ones((4, 1), device="cuda"))
    """

    def __init__(
        self,
        step: Callable[..., Any],
        models: Module | Sequence[Module],
        optimizers: Optimizer | Sequence[Optimizer] = (),
        *,
        scaler: GradScaler | None = None,
        warmup: int = 3,
        copy: bool = True,
    ) -> None:
        if not callable(step):
            raise TypeError(message(WHO, "step", step, "a function of a batch"))
        self.step = step
        self.models: list[Module] = _listed("models", models, Module)
        self.optimizers: list[Optimizer] = _listed("optimizers", optimizers, Optimizer)
        if not isinstance(scaler, (GradScaler, type(None))):
            raise TypeError(message(WHO, "scaler", describe(scaler), "an amp.GradScaler, or None"))
        self.scaler = scaler
        self.warmup, self.copy = extent(WHO, "warmup", warmup), bool(copy)
        self._stream: Any = None
        self.reset()

    @property
    def captured(self) -> bool:
        """Whether a graph is there."""
        return self._graph is not None

    def reset(self) -> None:
        """Forget the graph, and with it its memory: the next calls warm up and capture anew."""
        self._left = self.warmup
        self._graph: Captured | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Train one step."""
        if self._graph is not None:
            return self._graph.replay(args, kwargs, self.copy)
        backend, device = self._device()
        places = list(_leaves((args, kwargs)))
        for place, leaf in places:
            _check_input(place, leaf, device)
        with backend.at(device):
            if self._stream is None:
                self._stream = backend.stream(device)
            if self._left:
                with backend.aside(self._stream):
                    found = map_leaves(_bare, self.step(*args, **kwargs))
                self._left -= 1
                HostState(WHO, self.models, self.optimizers).refuse()
                return found
            graph = Captured(self, backend, device, (args, kwargs))
        found = graph.replay(args, kwargs, self.copy)
        self._graph = graph
        return found

    def fits(self, *args: Any, **kwargs: Any) -> bool:
        """Whether a batch is like the captured one."""
        return self._graph is not None and self._graph.differs(args, kwargs) is None

    def _device(self) -> tuple[Any, str]:
        """The GPU of all parameters."""
        found = [(name, t) for model in self.models for name, t, _ in model._tensors()]
        if not found:
            raise ValueError(message(WHO, "models", "without parameters", "some to train"))
        device = found[0][1].device
        for name, t in found:
            if t.device != device or device == "cpu":
                need = f"{device} as {found[0][0]!r}" if device != "cpu" else "a GPU"
                hint = "Call model.to('cuda'); on the CPU call the step itself"
                raise DeviceError(message(WHO, f"the device of {name!r}", f"{t.device!r}", need, hint))
        return devices.backend_of(device, WHO)


class Input(NamedTuple):
    """What a captured step was given in one place: a tensor of its own, or a constant."""

    place: str
    value: Any


class Captured:
    """A step as a graph, with the memory of its inputs and outputs."""

    def __init__(self, owner: GraphedStep, backend: Any, device: str, batch: Any) -> None:
        self.backend, self.device, self.optimizers = backend, device, owner.optimizers
        self.inputs = [Input(place, _own(backend, leaf)) for place, leaf in _leaves(batch)]
        given = iter([entry.value for entry in self.inputs])
        args, kwargs = map_leaves(lambda leaf: next(given), batch)
        self.state = HostState(WHO, owner.models, owner.optimizers, owner.scaler)
        self.state.refuse()
        self.frozen: list[Optimizer] = []
        drawn = draws.Draws()

        def step() -> Any:
            with drawn.record(), draws.keys_alone(), self._watched():
                return map_leaves(_output, owner.step(*args, **kwargs))

        try:
            self.graph = backend.graph(step, WHO, owner._stream)
            self.counts = self.state.changed()
            self._check_draws(drawn.keys)
            self._check_frozen()
        finally:
            grads = [t._grad for t in self.state.tensors]
            self.state.put_back()
        self.draws = len(drawn.keys)
        self.grads = [None if grad is None else tape.new_tensor(grad._array) for grad in grads]
        self.written = [*self.state.tensors, *(grad for grad in self.grads if grad is not None)]
        # gradients that the step adds to, or leaves alone
        before = zip(self.state.tensors, self.state.grad_arrays, self.grads, strict=True)
        self.added = [(t, b) for t, b, after in before if b is not None and after is not None and after._array is b]
        self.state.forget_gradients()
        self.first = True

    # --- the capture ------------------------------------------------------------------------------------------------

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Note the optimizers that ask for nothing before a replay: their hyperparameters are frozen."""

        def watch(optimizer: Optimizer, *args: Any) -> Any:
            asked = self.backend.asked()
            found = type(optimizer).step(optimizer, *args)
            if self.backend.asked() == asked and optimizer not in self.frozen:
                self.frozen.append(optimizer)
            return found

        for optimizer in self.optimizers:
            vars(optimizer)["step"] = partial(watch, optimizer)
        try:
            yield
        finally:
            for optimizer in self.optimizers:
                del vars(optimizer)["step"]

    def _check_draws(self, keys: list[tuple[int, int]]) -> None:
        seed, counter = self.state.random["seed"], self.state.random["counter"]
        if keys != [(seed, (int(counter) + i) % WORD) for i in range(len(keys))]:
            need = "those of the default generator, in the order in which they are drawn"
            raise GradError(message(WHO, "the random numbers of the step", "of another generator", need))

    def _check_frozen(self) -> None:
        """Raise where a rule counts its steps on the host, in numbers that its kernels have frozen."""
        for optimizer in self.frozen:
            states = [id(state) for state in optimizer.state.values()]
            counted = next((name for state, name, _ in self.counts if id(state) in states), None)
            if counted is not None:
                need = "a kernel that reads it on the GPU, as those of SGD, Adam and AdamW"
                hint = f"Call the step of {type(optimizer).__name__} outside of what is captured"
                what = f"the state {counted!r} of {type(optimizer).__name__}"
                raise GradError(message(WHO, what, "counted on the host", need, hint))

    # --- a replay ---------------------------------------------------------------------------------------------------

    def differs(self, args: Any, kwargs: Any) -> str | None:
        """How a batch is not like the captured one, as (argument, got, need); None where it is."""
        found = _difference(self.inputs, list(_leaves((args, kwargs))), self.device)
        return None if found is None else found[1]

    def replay(self, args: Any, kwargs: Any, copy: bool) -> Any:
        """Run the step on a batch."""
        given = list(_leaves((args, kwargs)))
        found = _difference(self.inputs, given, self.device)
        if found is not None:
            raise found[0](found[1])
        state = random.get_state()
        self.state.check()
        self._check_host(state["seed"])
        counter = int(state["counter"])
        with self.backend.at(self.device):
            self.graph.prepare((counter - int(self.state.random["counter"])) % WORD)
            if self.first:
                self._check_counts()
            for (_, own), (_, leaf) in zip(self.inputs, given, strict=True):
                if isinstance(own, Tensor) and own._array is not leaf._array:
                    own._array[...] = leaf._array
            self.graph.launch()
            random.set_state(state | {"counter": (counter + self.draws) % WORD})
            for t, grad in zip(self.state.tensors, self.grads, strict=True):
                t._grad = grad
            tape.mark_updated(self.written, "a replay of GraphedStep")
            return map_leaves(partial(self._given, copy), self.graph.outputs)

    def _given(self, copy: bool, leaf: Any) -> Any:
        if leaf is None:
            return None
        return tape.new_tensor(self.backend.copy(leaf._array) if copy else leaf._array)

    def _check_host(self, seed: Any) -> None:
        """Raise where numbers that are frozen, or gradients that the step adds to, are others."""
        if seed != self.state.random["seed"]:
            got = "one with another seed of the default generator"
            raise Stale(message(WHO, "the step", got, "what it was captured with", AGAIN))
        for optimizer, groups in zip(self.optimizers, self.state.groups, strict=True):
            for group, noted in zip(optimizer.param_groups, groups, strict=True):
                for key, value in noted.items():
                    if group[key] != value and (optimizer in self.frozen or isinstance(value, (bool, str, type(None)))):
                        got = f"{group[key]!r}, {value!r} when the step was captured"
                        who = f"{key!r} of {type(optimizer).__name__}"
                        raise Stale(message(WHO, who, got, "the same, as its kernels have it frozen", AGAIN))
        for t, array in self.added:
            if t._grad is None or t._grad._array is not array:
                name = next(n for n, other in zip(self.state.names, self.state.tensors, strict=True) if other is t)
                hint = "Zero gradients in the step, or by zero_grad(set_to_none=False)"
                need = "in the memory that the step adds to"
                raise Stale(message(WHO, f"the gradient of {name!r}", "dropped or replaced", need, hint))

    def _check_counts(self) -> None:
        """Raise where something that the capture counted has not moved in the first replay."""
        self.first = False
        for state, name, before in self.counts:
            if state[name] == before:
                need = "counted before each replay, by a kernel that reads it on the GPU"
                raise GradError(message(WHO, f"the state {name!r} of an optimizer", "frozen by the capture", need))


def _listed(name: str, value: Any, kind: type[Any]) -> list[Any]:
    found = [value] if isinstance(value, kind) or not isinstance(value, Iterable) else list(value)
    for entry in found:
        if not isinstance(entry, kind):
            raise TypeError(message(WHO, name, describe(entry), f"one {kind.__name__}, or several"))
    return found


def _leaves(nest: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What a batch holds, in order, and where: args[0], kwargs['x'][1]."""
    if not place:
        args, kwargs = nest
        for i, value in enumerate(args):
            yield from _leaves(value, f"argument {i}")
        for key, value in kwargs.items():
            yield from _leaves(value, f"argument {key!r}")
    elif isinstance(nest, Mapping):
        for key, value in nest.items():
            yield from _leaves(value, f"{place}[{key!r}]")
    elif isinstance(nest, (tuple, list)):
        for i, value in enumerate(nest):
            yield from _leaves(value, f"{place}[{i}]")
    else:
        yield place, nest


def _check_input(place: str, leaf: Any, device: str) -> None:
    """Raise where a tensor cannot be an input."""
    if isinstance(leaf, Tensor):
        if leaf.device != device:
            raise DeviceError(message(WHO, place, f"a tensor on {leaf.device}", f"one on {device}, as the model is"))
        if leaf.requires_grad:
            raise GradError(message(WHO, place, "a tensor that requires grad", "one that does not", "Call t.detach()"))
    elif not isinstance(leaf, (bool, int, float, str, type(None))):
        raise TypeError(message(WHO, place, describe(leaf), f"a tensor on {device}, or a constant"))


def _own(backend: Any, leaf: Any) -> Any:
    """A tensor in memory of its own for an input; a constant is itself."""
    return tape.new_tensor(backend.copy(leaf._array)) if isinstance(leaf, Tensor) else leaf


def _difference(inputs: list[Input], given: list[tuple[str, Any]], device: str) -> tuple[type[Exception], str] | None:
    """The error for a batch that is not like the captured one, and its text."""
    if [place for place, _ in given] != [place for place, _ in inputs]:
        places = [", ".join(p for p, _ in entries) or "none" for entries in (given, inputs)]
        return ValueError, message(WHO, "the batch", places[0], f"{places[1]}, as captured")
    for (place, own), (_, leaf) in zip(inputs, given, strict=True):
        if not isinstance(own, Tensor):
            if isinstance(leaf, Tensor) or type(leaf) is not type(own) or leaf != own:
                return ValueError, message(WHO, place, describe(leaf), f"{own!r}, as captured: it is frozen", AGAIN)
            continue
        if not isinstance(leaf, Tensor):
            return TypeError, message(WHO, place, describe(leaf), f"{describe(own)}, as captured")
        if leaf.shape != own.shape:
            hint = "Make all batches equal (drop_last=True, padding), or call the step itself for this one"
            return ShapeError, message(WHO, place, leaf, f"{describe(own)}, as captured", hint)
        if leaf.dtype != own.dtype:
            return DTypeError, message(WHO, place, leaf, f"{describe(own)}, as captured")
        if leaf.device != device:
            return DeviceError, message(WHO, place, f"a tensor on {leaf.device}", f"one on {device}, as captured")
    return None


def _bare(leaf: Any) -> Any:
    """An output without its graph."""
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _output(leaf: Any) -> Any:
    """An output of the captured step; numbers would be those of the capture for ever."""
    if isinstance(leaf, Tensor) and leaf.device != "cpu":
        return leaf.detach()
    if leaf is None:
        return None
    got = "a tensor on the CPU" if isinstance(leaf, Tensor) else describe(leaf)
    raise DeviceError(message(WHO, "what the step returns", got, "a tensor on the GPU, None, or a nest of these"))
