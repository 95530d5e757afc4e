"""Module: the base of layers and models, a tree of parameters, buffers and other modules."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from minigrad import dtypes, ops
from minigrad._core import tape
from minigrad.errors import DTypeError, layer_path, message
from minigrad.nn.checkpointing import run_checkpointed
from minigrad.nn.checks import check_hook, check_name, check_names, clear_gradients
from minigrad.nn.deferred import check_initialized
from minigrad.nn.extent_ties import Tie
from minigrad.nn.loading import misfits, values_of
from minigrad.nn.masks import packed_mask, read_masks, split_masks, write_masked
from minigrad.nn.mode import is_evaluation
from minigrad.nn.parameter import Parameter
from minigrad.nn.shared_parameters import by_first_name, first_names
from minigrad.nn.summary import Summary, summarize
from minigrad.tensor import Tensor

__all__ = ["LoadReport", "Module"]

# hook(module, args) -> None or other args; hook(module, args, output) -> None or another output
PreHook = Callable[["Module", tuple[Any, ...]], Any]
Hook = Callable[["Module", tuple[Any, ...], Any], Any]

_HOOKS = ("_pre_hooks", "_hooks")  # attributes that the walk over the tree leaves out
_SPECIAL = (*_HOOKS, "is_checkpointed")  # what makes a call more than forward


class LoadReport(NamedTuple):
    """What `Module.load_state_dict` left alone: names the state lacks, and names the module lacks."""

    missing: list[str]
    unexpected: list[str]


class Module:
    """Base of layers and models.

    Assign parameters, modules, and (nested) lists, tuples or dicts of them as attributes, and write `forward`. Call the
    module, not `forward`: the call runs the hooks and lets errors name the layer (``encoder.layers.0.query: ...``).

    Attributes
    ----------
    training : bool
        Whether layers such as `Dropout` behave as in training; `train` and `eval` set it.
    is_checkpointed : bool
        Whether backward computes again what is inside; see `minigrad.nn.checkpointed`.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn
    >>> class Residual(nn.Module):
    ...     def __init__(self, features):
    ...         self.inner = nn.Dense(features, in_features=features)
    ...     def forward(self, x):
    ...         return x + self.inner(x)
    >>> model = Residual(3)
    >>> [name for name, p in model.named_parameters()]
    ['inner.weight', 'inner.bias']
    >>> model(mg.ones((2, 3))).shape
    (2, 3)
    """

    is_checkpointed: bool = False
    _name: str = ""  # how the parent calls it
    _is_plain: bool = True  # whether a call is forward and nothing else: no hooks, no checkpoint
    _pre_hooks: tuple[tuple[PreHook], ...] = ()
    _hooks: tuple[tuple[Hook], ...] = ()
    _buffers: Mapping[str, bool] = MappingProxyType({})  # name -> whether it belongs to the state dict

    @property
    def training(self) -> bool:
        """Whether layers such as `Dropout` behave as in training: `train` and `eval` set it."""
        return self.__dict__.get("training", True) and not is_evaluation()

    @training.setter
    def training(self, mode: bool) -> None:
        self.__dict__["training"] = mode

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; subclasses write it."""
        raise NotImplementedError(f"{type(self).__name__}: needs a method forward(self, ...)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._name
        if not name:
            return self.forward(*args, **kwargs) if self._is_plain else self._run(args, kwargs)
        outer = layer_path.get()
        token = layer_path.set(f"{outer}.{name}" if outer else name)
        try:
            return self.forward(*args, **kwargs) if self._is_plain else self._run(args, kwargs)
        finally:
            layer_path.reset(token)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for (before,) in self._pre_hooks:
            changed = before(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = run_checkpointed(self, args, kwargs) if self.is_checkpointed else self.forward(*args, **kwargs)
        for (after,) in self._hooks:
            changed = after(self, args, output)
            if changed is not None:
                output = changed
        return output

    def register_forward_pre_hook(self, hook: PreHook) -> Callable[[], None]:
        """Call ``hook(module, args)`` before every forward; what it gives, unless None, becomes the arguments.

        Returns
        -------
        callable
            Removes the hook.
        """
        entry = (check_hook(hook, "register_forward_pre_hook"),)
        self._pre_hooks = (*self._pre_hooks, entry)

        def remove() -> None:
            self._pre_hooks = tuple(e for e in self._pre_hooks if e is not entry)

        return remove

    def register_forward_hook(self, hook: Hook) -> Callable[[], None]:
        """Call ``hook(module, args, output)`` after every forward; what it gives, unless None, becomes the output.

        Returns
        -------
        callable
            Removes the hook.

        Examples
        --------
        >>> import minigrad as mg
        >>> from minigrad import nn
        >>> layer = nn.ReLU()
        >>> remove = layer.register_forward_hook(lambda module, args, output: output * 10)
        >>> layer(mg.tensor([-1.0, 1.0]))
        tensor([ 0., 10.])
        >>> remove()
        >>> layer(mg.tensor([-1.0, 1.0]))
        tensor([0., 1.])
        """
        entry = (check_hook(hook, "register_forward_hook"),)
        self._hooks = (*self._hooks, entry)

        def remove() -> None:
            self._hooks = tuple(e for e in self._hooks if e is not entry)

        return remove

    # --- the tree ---------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SPECIAL:
            object.__setattr__(self, name, value)
            self.__dict__["_is_plain"] = not (self._hooks or self._pre_hooks or self.is_checkpointed)
            return
        parts = list(_parts(name, value))
        if not parts and value is not None and isinstance(self.__dict__.get(name), Parameter):
            hint = "Write into it under mg.no_grad() (p[...] = value), or assign nn.Parameter(value)"
            raise TypeError(message(type(self).__name__, name, value, "a Parameter, as it is one now", hint))
        if name in self._buffers and value is not None and not isinstance(value, Tensor):
            hint = "Assign mg.tensor(value)"
            raise TypeError(message(type(self).__name__, name, value, "a tensor, as it is a buffer", hint))
        for path, member in parts:
            # of several names in one module the first counts, as in named_modules
            if isinstance(member, Module) and all(member is not own for _, own in self._members()):
                object.__setattr__(member, "_name", path)
        object.__setattr__(self, name, value)

    def _members(self) -> Iterator[tuple[str, Any]]:
        """Parameters, buffers and modules among the attributes, by their names in the tree."""
        for name, value in vars(self).items():
            if name in self._buffers:
                yield name, value
            elif name not in _HOOKS:
                yield from _parts(name, value)

    def named_children(self) -> list[tuple[str, Module]]:
        """The modules right below this one, with their names."""
        return [(name, m) for name, m in self._members() if isinstance(m, Module)]

    def children(self) -> list[Module]:
        """The modules right below this one."""
        return [m for _, m in self.named_children()]

    def named_modules(self) -> list[tuple[str, Module]]:
        """All modules of the tree with their paths, itself first under ``""``; one that occurs twice is listed once."""
        found: list[tuple[str, Module]] = []
        seen: set[int] = set()
        rest: list[tuple[str, Module]] = [("", self)]
        while rest:  # no function that calls itself: trees may be deep, and an inner one would be a reference cycle
            path, module = rest.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            found.append((path, module))
            rest += [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()[::-1]]
        check_names(type(self).__name__, found)
        return found

    def modules(self) -> list[Module]:
        """All modules of the tree, itself first, each once."""
        return [m for _, m in self.named_modules()]

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """Every parameter of the tree with its path, a shared one once, under the first of its names.

        Examples
        --------
        >>> from minigrad import nn
        >>> model = nn.Sequential([nn.Dense(3, in_features=2), nn.ReLU()])
        >>> [(name, p.shape) for name, p in model.named_parameters()]
        [('0.weight', (2, 3)), ('0.bias', (3,))]
        """
        return [(name, t) for name, t, _ in self._tensors() if isinstance(t, Parameter)]

    def parameters(self) -> list[Parameter]:
        """Every parameter of the tree, a shared one once."""
        return [p for _, p in self.named_parameters()]

    def named_buffers(self) -> list[tuple[str, Tensor]]:
        """Every buffer of the tree with its path, a shared one once."""
        return [(name, t) for name, t, _ in self._tensors() if not isinstance(t, Parameter)]

    def buffers(self) -> list[Tensor]:
        """Every buffer of the tree, a shared one once."""
        return [t for _, t in self.named_buffers()]

    def _tensors(self) -> list[tuple[str, Tensor, bool]]:
        """Path, tensor, and whether it belongs to the state dict, for every parameter and buffer."""
        found = []
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, t in module._members():
                if isinstance(t, Tensor) and id(t) not in seen:
                    seen.add(id(t))
                    found.append((f"{path}.{name}" if path else name, t, module._buffers.get(name, True)))
        check_names(type(self).__name__, ((name, t) for name, t, _ in found))
        return found

    def _ties(self) -> list[Tie]:
        """The extents that belong together; layers whose tensors wait for the first batch write it."""
        return []

    def register_buffer(self, name: str, tensor: Any, *, persistent: bool = True) -> None:
        """Keep a tensor that belongs to the module and is not trained, such as a running mean.

        Parameters
        ----------
        name : str
            The attribute it becomes; what is assigned to it later stays a buffer.
        tensor : array_like or None
            The values; None leaves a place for later.
        persistent : bool
            Whether it belongs to the state dict.

        Examples
        --------
        >>> import minigrad as mg
        >>> from minigrad import nn
        >>> layer = nn.Identity()
        >>> layer.register_buffer("scale", mg.ones((2,)))
        >>> layer.state_dict()
        {'scale': tensor([1., 1.])}
        """
        check_name("register_buffer", name)
        if name not in self._buffers and hasattr(self, name):
            raise ValueError(message("register_buffer", "name", repr(name), "a name that is not an attribute yet"))
        if isinstance(tensor, Parameter):
            raise TypeError(
                message("register_buffer", "tensor", "a Parameter", "a tensor that is not trained", "Assign it instead")
            )
        self._buffers = {**self._buffers, name: persistent}
        setattr(self, name, None if tensor is None else ops.asarray(tensor))

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self, *, masks: bool = True) -> dict[str, Tensor]:
        """A snapshot of every parameter and persistent buffer: copies, which later training leaves alone.

        A parameter with a mask has it behind its values, packed into bits, under its name and ``".mask"``.

        Parameters
        ----------
        masks : bool
            Whether the masks are in it.

        Raises
        ------
        ShapeError
            If a parameter still waits for its first batch.
        """
        state = {}
        for name, t, persistent in self._tensors():
            if persistent:
                check_initialized("state_dict", name, t)
                state[name] = t.detach().clone()
                if masks:
                    state.update(packed_mask(name, t))
        return state

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> LoadReport:
        """Copy values into the parameters and buffers; all of them fit, or nothing is changed.

        Values are cast to the dtype of what they are copied into. A parameter that waits for its first batch takes its
        shape from the state. The state may have a shared one by any of its names, or with equal values by several.
        Masks of the state replace those there are; a parameter keeps its mask where the state has none for it, and
        either way it is 0 where its mask is False.

        Parameters
        ----------
        state : mapping of str to array_like
            What `state_dict` gave.
        strict : bool
            Raise where names are missing or unexpected too; otherwise they are reported and left alone.

        Returns
        -------
        LoadReport
            The missing and the unexpected names.

        Raises
        ------
        TypeError
            If the state is no mapping.
        ValueError
            One error that lists all that is missing, unexpected, contradictory, mis-shaped or of another kind of dtype.

        Examples
        --------
        >>> from minigrad import nn
        >>> nn.Dense(3, in_features=2).load_state_dict({"weight": [[1.0, 2.0]], "b": [0.0]})
        Traceback (most recent call last):
        ...
        ValueError: load_state_dict: the state does not fit Dense:
            missing: bias
            unexpected: b
            mis-shaped: weight is (1, 2), needs (2, 3)
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                message("load_state_dict", "state", state, "a mapping of names to values", "See state_dict")
            )
        own = {name: t for name, t, persistent in self._tensors() if persistent}
        given, masks, clashes = split_masks(self, own, values_of(state))
        given, contradictory = by_first_name(given, first_names(self, own, given))
        report = LoadReport([name for name in own if name not in given], [name for name in given if name not in own])
        shapes = {name: given.get(name, t).shape for name, t in own.items()}
        keeps, unfit = read_masks(masks, shapes)
        lists = [("contradictory", contradictory + clashes), *misfits(self, own, given), ("masks", unfit)]
        if strict:
            lists = [("missing", report.missing), ("unexpected", report.unexpected), *lists]
        if any(names for _, names in lists):
            text = "".join(f"\n    {what}: {', '.join(names)}" for what, names in lists if names)
            raise ValueError(f"load_state_dict: the state does not fit {type(self).__name__}:{text}")
        # copies, all of them before the first write: a cast may fail, and the state may be views of these very tensors
        values = {
            name: ops.tensor(given[name], dtype=t.dtype, device=t.device) for name, t in own.items() if name in given
        }
        write_masked(own, values, keeps)
        return report

    # --- what is done to the whole tree -----------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Put the tree into training mode, or with False into evaluation mode; returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Put the tree into evaluation mode: no dropout, fixed statistics; returns the module."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of every parameter, False to freeze them; returns the module."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradient of every parameter, or fill it with zeros."""
        clear_gradients(self.parameters(), set_to_none)

    def to(self, target: Any = None, *, dtype: Any = None, device: Any = None) -> Self:
        """Cast the floating parameters and buffers, or move all of them to a device; returns the module.

        They stay the same objects, so an optimizer goes on to hold them.

        Parameters
        ----------
        target : dtype or str, optional
            A dtype, or a device such as ``"cpu"``.
        dtype, device : optional
            The same by name.

        Raises
        ------
        DTypeError
            If the dtype is not floating.
        """
        if isinstance(target, str) and target.split(":")[0] in ("cpu", "cuda"):
            device = target
        elif target is not None:
            dtype = target
        kind = None if dtype is None else dtypes.as_dtype(dtype, "to")
        if kind is not None and kind not in dtypes.FLOATING:
            raise DTypeError(message("to", "dtype", str(kind), "a floating dtype"))
        for _, t, _ in self._tensors():
            wanted = kind if t.dtype in dtypes.FLOATING else None
            moved = t.detach().to(dtype=wanted, device=device)
            if moved._array is not t._array:
                t._array = moved._array
                tape.mark_changed(t)  # a graph that saved the old values raises in backward
                t._grad = None if t._grad is None else t._grad.detach().to(dtype=wanted, device=device)
        return self

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call a function with every module of the tree, children before parents; returns the module."""
        for module in reversed(self.modules()):
            function(module)
        return self

    # --- text -------------------------------------------------------------------------------------------------------

    def summary(self, *inputs: Any, input_shape: Any = None, dtype: Any = None) -> Summary:
        """A table of the layers: type, output shape, parameters, memory; it prints itself.

        With inputs one forward runs, in evaluation mode and without a graph. Afterwards parameters (deferred ones
        too), buffers, modes and random state are as before. A shared parameter is counted where it stands first, and
        memory in which several outputs lie once. What a layer needs inside is not seen.

        Parameters
        ----------
        *inputs
            What the module is called with. Without any, output shapes are ``?``.
        input_shape : tuple of int, or list of tuple, optional
            In place of inputs: the shape of a batch of zeros, or of several.
        dtype : dtype, optional
            Of these zeros, such as ``mg.int64`` for ids; by default that of the first parameter.

        Returns
        -------
        Summary

        Examples
        --------
        >>> from minigrad import nn
        >>> nn.Sequential([nn.Dense(16, activation="relu"), nn.Dense(3)]).summary(input_shape=(32, 4))
        Layer       Output shape  Parameters  Parameter memory  Activation memory
        -------------------------------------------------------------------------
        Sequential  (32, 3)                0               0 B                0 B
          0: Dense  (32, 16)              80             320 B            2.0 KiB
          1: Dense  (32, 3)               51             204 B              384 B
        -------------------------------------------------------------------------
        Parameters: 131 (trainable 131, frozen 0)
        Memory: parameters 524 B, buffers 0 B, activations 2.4 KiB
        """
        return summarize(self, inputs, input_shape, dtype)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the layer's repr; subclasses write it."""
        return ""

    @reprlib.recursive_repr()
    def __repr__(self) -> str:
        lines = []
        for name, child in self.named_children():
            lines.append(f"  ({name}): " + repr(child).replace("\n", "\n  "))
        head = f"{type(self).__name__}({self.extra_repr()}"
        return f"{head})" if not lines else head + "\n" + "\n".join(lines) + "\n)"


def _parts(name: str, value: Any, above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The parameters and modules in the value of an attribute: itself, or those in lists, tuples and dicts.

    `above` has the ids of the containers that are being walked, so that one that contains itself ends the walk.
    """
    if isinstance(value, (Parameter, Module)):
        yield name, value
    elif isinstance(value, (list, tuple, dict)) and id(value) not in above:
        for key, v in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(v, (Parameter, Module, list, tuple, dict)):
                yield from _parts(f"{name}.{key}", v, (*above, id(value)))
