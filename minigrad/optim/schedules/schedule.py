"""LRScheduler: the base of the schedules, each of which is a function of the number of steps."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from minigrad.errors import message
from minigrad.optim.schedules.checks import compare_keys, integer

__all__ = ["LRScheduler", "groups_of"]

# the schedule that was made last for each optimizer: the one that sets its rates
_current: weakref.WeakKeyDictionary[Any, weakref.ref[LRScheduler]] = weakref.WeakKeyDictionary()


def groups_of(who: str, optimizer: Any) -> list[dict[str, Any]]:
    """The groups of an optimizer."""
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list):
        raise TypeError(message(who, "optimizer", optimizer, "an optimizer"))
    return groups


class LRScheduler:
    """Base of the schedules: a learning rate for each group of an optimizer, as a function of the number of steps.

    A subclass writes `rate`. Step t sets ``lr = rate(t, base_lr, i)`` in group i, from t and the rate that the group
    started from alone: nothing is accumulated, so to go on from a state is exact. When a schedule is made, it sets the
    rates of t = 0; call `step` after each step of the optimizer (or after each epoch, if its arguments count epochs).

    A rate that was changed by hand between two steps, ``group["lr"] *= 0.5``, scales what the group started from by as
    much. An optimizer follows the schedule that was made for it last, and an older one raises; `SequentialLR` and
    `ChainedScheduler` put several together.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups keep the rate they have now under ``"initial_lr"``, from which later schedules start too.
    last_epoch : int
        The step to go on from; -1 for a start.

    Attributes
    ----------
    last_epoch : int
        The number of steps so far.
    base_lrs : list of float
        What each group starts from.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If the optimizer is none.

    Examples
    --------
    >>> from minigrad import nn, optim
    >>> class Halves(optim.schedules.LRScheduler):
    ...     def rate(self, step, base, group):
    ...         return base / 2**step
    >>> optimizer = optim.SGD([nn.Parameter([1.0])], lr=1.0)
    >>> schedule = Halves(optimizer)
    >>> schedule.step()
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    def __init__(self, optimizer: Any, last_epoch: int = -1) -> None:
        groups = groups_of(self._who, optimizer)
        self.last_epoch = integer(self._who, "last_epoch", last_epoch, -1) + 1
        self.optimizer = optimizer
        for i, group in enumerate(groups):
            if last_epoch != -1 and "initial_lr" not in group:
                hint = "Make the schedule before, and load its state"
                raise ValueError(
                    message(self._who, f"'initial_lr' of group {i}", "missing", "the rate at the start", hint)
                )
            group.setdefault("initial_lr", float(group["lr"]))
        self.base_lrs = [float(group["initial_lr"]) for group in groups]
        _current[optimizer] = weakref.ref(self)
        self._write()

    @property
    def _who(self) -> str:
        return type(self).__name__

    # --- what a subclass writes -------------------------------------------------------------------------------------

    def rate(self, step: int, base: float, group: int) -> float:
        """The learning rate after so many steps of a group that started from `base`."""
        raise NotImplementedError(f"{self._who}: needs a method rate(self, step, base, group)")

    def values(self, step: int, base: float, group: int) -> dict[str, Any]:
        """The hyperparameters after so many steps: ``"lr"``, and what else a schedule moves."""
        return {"lr": self.rate(step, base, group)}

    # --- what a training loop calls ---------------------------------------------------------------------------------

    def step(self) -> None:
        """Go one step on, and set the rates.

        Raises
        ------
        ValueError
            If another schedule was made for the optimizer since, or a group added.
        """
        current = _current.get(self.optimizer)
        latest = None if current is None else current()
        if latest is not None and latest is not self:
            got = f"made before the {type(latest).__name__} of the same optimizer"
            hint = "Put several into SequentialLR or ChainedScheduler"
            raise ValueError(message(f"{self._who}.step", "the schedule", got, "to be the last", hint))
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            need = f"{len(self.base_lrs)}, as when the schedule was made"
            raise ValueError(message(f"{self._who}.step", "number of groups", f"{len(groups)}", need))
        for i, (group, last) in enumerate(zip(groups, self._last_lr, strict=True)):
            if last and group["lr"] != last:  # changed by hand
                self.base_lrs[i] *= group["lr"] / last
        self.last_epoch += 1
        self._write()

    def get_last_lr(self) -> list[float]:
        """The rate of each group that was set last."""
        return list(self._last_lr)

    def _write(self) -> None:
        """Set what follows from the number of steps."""
        found = [self.values(self.last_epoch, base, i) for i, base in enumerate(self.base_lrs)]
        for group, values in zip(self.optimizer.param_groups, found, strict=True):
            group.update(values)
        self._last_lr = [float(values["lr"]) for values in found]

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A snapshot, as JSON takes it: the number of steps and the rates. The arguments are not in it."""
        return {
            "schedule": self._who,
            "last_epoch": self.last_epoch,
            "base_lrs": list(self.base_lrs),
            "last_lrs": self.get_last_lr(),
            "lrs": [float(group["lr"]) for group in self.optimizer.param_groups],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; the rates of the optimizer are those of then.

        Parameters
        ----------
        state : mapping
            Of a schedule made with the same arguments.

        Raises
        ------
        TypeError
            If it is no mapping.
        ValueError
            If it is of another schedule or number of groups.
        """
        compare_keys(self._who, state, ("schedule", "last_epoch", "base_lrs", "last_lrs", "lrs"))
        groups = self.optimizer.param_groups
        self._compare("schedule", state["schedule"], self._who)
        for name in ("base_lrs", "last_lrs", "lrs"):
            self._compare(f"number of {name}", len(state[name]), len(groups))
        self.last_epoch = integer(self._who, "last_epoch", state["last_epoch"], 0)
        self.base_lrs = list(state["base_lrs"])
        self._write()  # what else it moves than the rates
        self._last_lr = list(state["last_lrs"])
        for group, lr in zip(groups, state["lrs"], strict=True):
            group["lr"] = lr

    def _compare(self, what: str, given: Any, own: Any) -> None:
        if given != own:
            raise ValueError(message(f"{self._who}.load_state_dict", what, f"{given!r}", f"{own!r}"))

    def _listed(self, name: str, value: Any) -> list[Any]:
        """One value for each group, of a list or of one for all."""
        groups = len(groups_of(self._who, self.optimizer))
        if not isinstance(value, Sequence) or isinstance(value, str):
            return [value] * groups
        if len(value) != groups:
            raise ValueError(message(self._who, f"number of {name}", f"{len(value)}", f"{groups}, one for each group"))
        return list(value)
