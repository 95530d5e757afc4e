"""Trainer: the loop that trains a model, evaluates it, and can be taken up again where it was killed."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from minigrad import amp, dtypes, io, nn, optim, random
from minigrad.errors import message
from minigrad.nn.checks import extent, positive
from minigrad.nn.module import Module
from minigrad.tensor import Tensor
from minigrad.train import evaluation, run_state
from minigrad.train.adversaries import Free
from minigrad.train.callbacks import Callback, CallbackList, ProgressBar
from minigrad.train.callbacks.checkpoint import latest
from minigrad.train.interrupt import Interrupt
from minigrad.train.lookup import (
    check_ema,
    check_graph,
    check_optimizer,
    check_schedule,
    find_loss,
    find_metrics,
    find_optimizer,
    find_schedule,
)
from minigrad.train.loop import Loop
from minigrad.train.metrics import Metric
from minigrad.train.pipeline import Pipeline
from minigrad.train.ranks import Ranks
from minigrad.train.source import Source, make_source
from minigrad.train.sums import Sums

__all__ = ["Trainer"]

STYLES: dict[str | int, str] = {0: "", 1: "bar", 2: "lines", "auto": "auto"}
PRECISIONS = {None: None, "fp32": None, "fp16": dtypes.float16, "bf16": dtypes.bfloat16}


class Trainer:
    """Trains a model: Keras's `compile`, `fit`, `evaluate` and `predict`, and a run that a kill does not lose.

    One step is ``scaled backward -> unscale -> skip if not finite -> clip -> penalty -> update -> schedule -> average``
    (docs/training.md). A batch is a tuple ``(inputs, ..., targets)``, for which the model is called as
    ``model(*inputs)``, or a dict whose ``"targets"`` are the targets and whose other entries are the model's keyword
    arguments. The loss is called as ``loss(outputs, targets)``.

    Parameters
    ----------
    model : Module
        What to train.
    loss : str or callable
        ``"cross_entropy"``, ``"mse"``, ``"bce_with_logits"``, ...; a module of `nn`; or a function of outputs and
        targets, a mean over examples. One that divides by another number tells it in ``denominator(targets)``.
    optimizer : str, Optimizer or callable
        A name in small letters, an optimizer, or what makes one of ``model.named_parameters()``: a class or function.
    metrics : iterable of str, Metric or callable, optional
        What to measure, in training and in evaluation. By default the accuracy of a loss of classes, else nothing.
    lr : float, optional
        The learning rate of an optimizer that is made here.
    precision : str, optional
        ``"fp16"`` (autocast and loss scaling), ``"bf16"`` (autocast), ``"fp32"`` or None (as the weights are).
    accumulate : int
        How many batches of the data make one step; equal to one batch of all of them, however unequal they are.
    clip_norm, clip_value : float, optional
        The largest norm of the whole gradient, and the largest absolute value of an element.
    regularizer : optional
        Such as ``nn.L2(1e-4)``, for every weight of two or more axes that has none of its own.
    adversary : callable, optional
        Adversarial training, such as ``train.PGD(...)``.
    schedule : str, schedule or callable, optional
        ``"cosine"``, ``"linear"``, ``"warmup_cosine"`` or ``"one_cycle"`` over all steps of `fit`; a schedule of
        `optim`; or a function that makes one of the optimizer.
    schedule_per : str
        ``"step"`` or ``"epoch"``: when the schedule moves on. ReduceLROnPlateau goes by epochs and sees the validation
        loss, or the training loss where there is none.
    ema : float or object, optional
        The decay of an average of the weights, or `optim.EMA` or `optim.SWA` itself. Evaluation and prediction use it.
    callbacks : iterable of Callback
        What is called while it trains.
    seed : int, optional
        Seeds `minigrad.random`, and the order of the data where `fit` makes the loader.
    device : str, optional
        Where to compute; the model and every batch are moved there.
    nan : str
        ``"raise"``: a loss that is not finite stops the run before the weights take harm, with an error that names the
        layer and op it came from, and so does a gradient that is not. ``"ignore"``: it goes on. With fp16 such a step
        is skipped, and 25 in a row stop.
    parallel : bool or Communicator, optional
        True: train with all ranks of `parallel.init()`, or with those of a communicator, each on its part of every
        batch (docs/parallel.md). The model may be a `parallel.DataParallel` instead, for its options.
    graph : bool
        On a GPU: let it run forward and backward passes as CUDA graphs, see `GraphedStep`. Batches of a shape that has
        come three times go by a graph, others as usual; the numbers are the same.

    Attributes
    ----------
    epoch, step, skipped : int
        The epoch, from 0; the steps of the optimizer so far; the steps that an overflow skipped.
    epochs, steps_per_epoch : int
        Of the run; `steps_per_epoch` is None where the data do not tell.
    logs : dict
        The means of the epoch so far: ``"loss"``, ``"lr"``, the metrics, ``"grad_norm"`` where it is clipped,
        ``"skipped"`` with fp16, and after the validation the same with ``"val_"``.
    history : dict of list
        The logs at the end of every epoch.
    stop_training : bool
        Set it, and training ends after this step's callbacks.
    batch : nest
        The batch at hand.
    scaler, ema, adversary, schedule, optimizer, model, loss, metrics, callbacks, ranks
        The parts. ``ranks.rank`` and ``ranks.size`` are 0 and 1 without others.

    Examples
    --------
    >>> import minigrad as mg
    >>> from minigrad import nn, train
    >>> mg.random.seed(0)
    >>> x = mg.random.normal((64, 2))
    >>> y = (x[:, 0] > x[:, 1]).astype(mg.int64)
    >>> model = nn.Sequential([nn.Dense(16, activation="relu"), nn.Dense(2)])
    >>> trainer = train.Trainer(model, "cross_entropy", "adam", metrics=[], lr=0.02, seed=1)
    >>> history = trainer.fit((x, y), epochs=10, batch_size=16, verbose=0)
    >>> history["loss"][-1] < history["loss"][0] / 2, trainer.predict(x).shape
    (True, (64, 2))
    """

    def __init__(
        self,
        model: Module,
        loss: str | Callable[..., Any] = "cross_entropy",
        optimizer: Any = "adam",
        metrics: Iterable[Any] | None = None,
        *,
        lr: float | None = None,
        precision: str | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        regularizer: Any = None,
        adversary: Any = None,
        schedule: Any = None,
        schedule_per: str = "step",
        ema: Any = None,
        callbacks: Iterable[Callback] = (),
        seed: int | None = None,
        device: str | None = None,
        nan: str = "raise",
        parallel: Any = None,
        graph: bool = False,
    ) -> None:
        if not isinstance(model, Module):
            raise TypeError(message("Trainer", "model", model, "an nn.Module"))
        _one_of("precision", precision, PRECISIONS)
        _one_of("schedule_per", schedule_per, ("step", "epoch"))
        _one_of("nan", nan, ("raise", "ignore"))
        if seed is not None:
            random.seed(seed)
        if device is not None:
            model.to(device=device)
        self.ranks = Ranks(model, parallel)
        self.model = model = self.ranks.model
        self.device, self.seed, self.nan = device, seed, nan
        self.loss = find_loss(loss)
        if isinstance(self.loss, Module) and device is not None:
            self.loss.to(device=device)
        self.optimizer = find_optimizer(optimizer, model, lr)
        self.metrics: list[Metric] = find_metrics(metrics, self.loss)
        self.test_metrics = copy.deepcopy(self.metrics)
        self.autocast_dtype = PRECISIONS[precision]
        self.scaler: Any = amp.GradScaler() if precision == "fp16" else None
        self.accumulate = extent("Trainer", "accumulate", accumulate)
        self.clip_norm = None if clip_norm is None else positive("Trainer", "clip_norm", clip_norm)
        self.clip_value = None if clip_value is None else positive("Trainer", "clip_value", clip_value)
        if regularizer is not None:
            nn.regularize(model, regularizer)
        if not (adversary is None or callable(adversary)):
            raise TypeError(
                message("Trainer", "adversary", adversary, "an adversary, such as train.FGSM(0.1), or None")
            )
        self.adversary = adversary
        if isinstance(adversary, Free) and (self.accumulate > 1 or isinstance(self.optimizer, optim.SAM)):
            need = "a step of the optimizer for each batch, without accumulate and SAM"
            raise ValueError(message("Trainer", "adversary", "Free", need))
        if isinstance(adversary, Free) and self.ranks.size > 1:
            need = "an adversary without a state, which would be another one on each rank"
            raise ValueError(message("Trainer", "adversary", "Free", need))
        self.schedule_name = schedule if isinstance(schedule, str) else None
        if self.schedule_name is not None:
            check_schedule(self.schedule_name)
        self.schedule: Any = None
        if schedule is not None and self.schedule_name is None:
            self.schedule = find_schedule(schedule, self.optimizer, None)
        self.schedule_per = "epoch" if isinstance(self.schedule, optim.schedules.ReduceLROnPlateau) else schedule_per
        self._first_lrs = self._lrs()
        self.ema: Any = optim.EMA(model, ema) if isinstance(ema, (int, float)) else ema
        if ema is not None:
            check_ema(self.ema, model)
        self.graph = bool(graph)
        if self.graph:
            check_graph(self)
        self.sums = Sums()
        self.callbacks = CallbackList(callbacks)
        self.callbacks.set_trainer(self)
        self.pipeline = Pipeline(self)

        self.epoch = self.step = self.skipped = self.epochs = 0
        self.steps_per_epoch: int | None = None
        self.batch_index = 0  # the step in this epoch
        self.batch: Any = None
        self.logs: dict[str, Any] = {}
        self.history: dict[str, list[Any]] = {}
        self.stop_training = False
        self.first_epoch = 0  # of this call of fit
        self.epoch_trained = False  # whether the epoch has no steps left, and only its validation may be missing
        self.epoch_ended = False  # whether the epoch is done and its number not yet counted up
        self.source: Source | None = None
        self.held_out: Source | None = None
        self._made, self._saved = time.time(), set[Any]()
        self.resumed: Mapping[str, Any] | None = None  # a state whose loader and callbacks wait for fit

    # --- training ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Any,
        *,
        epochs: int = 1,
        validation: Any = None,
        batch_size: int = 32,
        shuffle: bool = True,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        verbose: str | int = "auto",
        resume: str | os.PathLike[str] | None = None,
    ) -> dict[str, list[Any]]:
        """Train.

        Parameters
        ----------
        train : arrays, Dataset or iterable of batches
            A tuple of arrays ``(x, y)``, a dataset, or a DataLoader or any other iterable of batches, iterated once an
            epoch.
        epochs : int
            How many; of a run that was resumed, how many in all.
        validation : optional
            As `train`; evaluated after every epoch.
        batch_size, shuffle
            Of the loader that is made of arrays or a dataset; of several ranks together.
        steps_per_epoch : int, optional
            Steps of the optimizer that make an epoch, for data without an end; the next epoch goes on in the data.
        validation_steps : int, optional
            Batches of a validation, from the begin of its data on; all of them by default.
        verbose : str or int
            0: print nothing; 2: a line an epoch; 1: a progress bar too, with tqdm; ``"auto"``: a bar in a terminal. A
            `ProgressBar` among the callbacks takes the place of this one.
        resume : path, optional
            Go on from this checkpoint, or the newest one of a folder of `Checkpoint`; where there is none, a new run
            begins.

        Returns
        -------
        dict of list
            The history.

        Raises
        ------
        ValueError
            If there are no data, or a one-shot iterator is used up in the second epoch.
        FloatingPointError
            If the loss is NaN or infinite; see `nan`.
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, when the step is done and `Checkpoint` has saved it.
        """
        epochs = extent("Trainer.fit", "epochs", epochs)
        batch_size = extent("Trainer.fit", "batch_size", batch_size)
        check_optimizer(self.optimizer, self.model)
        if steps_per_epoch is not None:
            steps_per_epoch = extent("Trainer.fit", "steps_per_epoch", steps_per_epoch)
        if validation_steps is not None:
            validation_steps = extent("Trainer.fit", "validation_steps", validation_steps)
        self._resume_newest(resume)
        state, self.logs = self.resumed, {}
        if state is None:
            self.first_epoch, self.batch_index, self.epoch_trained = self.epoch, 0, False
            self.stop_training = False
        options: dict[str, Any] = {"batch_size": batch_size, "dtype": self.dtype, "device": self.device}
        options["ranks"] = self.ranks
        seed = None if self.seed is None else self.seed + self.first_epoch  # a second fit has another order
        source = make_source(train, "train", shuffle=shuffle, seed=seed, **options)
        held_out = None if validation is None else make_source(validation, "validation", **options)
        self.epochs = self.first_epoch + epochs
        self.steps_per_epoch = steps_per_epoch
        if steps_per_epoch is None and source.steps is not None:
            self.steps_per_epoch = -(-source.steps // self.accumulate)
        self._build_schedule(state)
        callbacks = self._called(verbose)
        self.model.train()
        with Interrupt() as interrupt:
            loop = Loop(self, source, held_out, steps_per_epoch, validation_steps, callbacks, interrupt)
            callbacks.on_train_begin(self.logs)
            if state is not None and state["batch"]:
                callbacks.on_epoch_begin(self.epoch, self.logs)
            self.source, self.held_out = source, held_out
            if state is not None:
                run_state.take_up(self, state)
            try:
                loop.run()
            finally:
                for part in (source, held_out):
                    if part is not None:
                        part.settle()
            callbacks.on_train_end(self.logs)
            loop.agree()
        if interrupt.received:  # after the last step, so that nothing is left to save, but who called has to stop
            raise KeyboardInterrupt(interrupt.received)
        return self.history

    def _build_schedule(self, state: Mapping[str, Any] | None) -> None:
        """Make the schedule that has a name: it goes over all steps of this fit."""
        if self.schedule_name is None:
            return
        now = self._lrs()
        self._set_lrs(self._first_lrs)
        steps = None if self.steps_per_epoch is None else self.steps_per_epoch * (self.epochs - self.first_epoch)
        if self.schedule_per == "epoch":
            steps = self.epochs - self.first_epoch
        self.schedule = find_schedule(self.schedule_name, self.optimizer, steps)
        if state is not None and state["schedule"] is not None:
            self.schedule.load_state_dict(state["schedule"])
            self._set_lrs(now)

    def _lrs(self) -> list[Any]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _set_lrs(self, lrs: list[Any]) -> None:
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr

    def _called(self, verbose: str | int) -> CallbackList:
        """The callbacks, and what prints."""
        _one_of("verbose", verbose, STYLES)
        if not verbose or self.ranks.rank or any(isinstance(callback, ProgressBar) for callback in self.callbacks):
            return self.callbacks
        called = CallbackList([ProgressBar(STYLES[verbose], sys.stdout), *self.callbacks])
        called.set_trainer(self)
        return called

    def trained(self) -> list[Tensor]:
        """The parameters that the optimizer holds."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def dtype(self) -> Any:
        """The dtype of the model's first parameter."""
        return next((p.dtype for p in self.model.parameters()), None)

    # --- without training -------------------------------------------------------------------------------------------

    def evaluate(self, data: Any, *, batch_size: int = 32, steps: int | None = None) -> dict[str, Any]:
        """Loss and metrics, in evaluation mode and without a graph.

        A last, smaller batch weighs what it holds: the loss is the mean over all targets that count. Of several ranks
        all have to call it; each computes its part, and all get the same.

        Parameters
        ----------
        data : arrays, Dataset or iterable of batches
            As for `fit`.
        batch_size : int
            Of the loader that is made of arrays or a dataset.
        steps : int, optional
            How many batches; all by default.
        """
        batch_size = extent("Trainer", "batch_size", batch_size)
        steps = None if steps is None else extent("Trainer", "steps", steps)
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device, "ranks": self.ranks}
        source = make_source(data, "data", batch_size=batch_size, **options)
        logs: dict[str, Any] = {}
        self.callbacks.on_test_begin(logs)
        logs.update(evaluation.evaluate(self, source, steps=steps))
        self.callbacks.on_test_end(logs)
        return logs

    def predict(self, x: Any, *, batch_size: int = 32) -> Any:
        """The model's output for all examples, in their order, in evaluation mode and without a graph.

        Parameters
        ----------
        x : array, tuple or dict of arrays, Dataset or iterable of batches
            One input, several, or what `fit` takes, whose targets are left out.
        batch_size : int
            How many examples go through the model at a time.

        Returns
        -------
        Tensor or nest of Tensor
            Of the form of the model's output, the batches joined along axis 0.
        """
        return evaluation.predict(self, x, extent("Trainer", "batch_size", batch_size))

    def diagnose(self) -> str:
        """Run the batch at hand again with the same random numbers, and say where the first NaN or inf comes from."""
        if self.batch is None:
            raise ValueError(message("Trainer.diagnose", "batch", None, "a batch, so call it while fit runs"))
        return self.pipeline.diagnose()

    # --- state ------------------------------------------------------------------------------------------------------

    def _resume_newest(self, path: str | os.PathLike[str] | None) -> None:
        """Go on from a file, or the newest of a folder, if there is one; rank 0 looks."""
        if path is None:
            return
        if self.ranks.rank == 0 and os.path.isdir(path):
            path = latest(path)
        found = os.fspath(path) if path is not None and os.path.exists(path) else None
        found = self.ranks.gather(found)[0]
        if found is not None:
            self.resume(found)

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on bit for bit: `io.save_checkpoint` can write it.

        It is whole between two steps of the optimizer: in the callbacks, and outside of `fit`.
        """
        return run_state.collect(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; the next `fit` does so in the midst of its epoch.

        The trainer has to be made as the one that was saved.
        """
        run_state.restore(self, state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state into one file, which is there whole or not at all; of several ranks the first one does."""
        rule = self.optimizer.optimizer if isinstance(self.optimizer, optim.SAM) else self.optimizer
        if self.ranks.rank and not hasattr(rule, "communicator"):  # its state would lie on all ranks
            return
        state = self.state_dict()
        if self.ranks.rank:
            return
        io.save_checkpoint(path, state)
        if path not in self._saved:
            self._saved.add(path)
            run_state.remove_leftovers(path, self._made)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on from a file that `save` has written.

        Raises
        ------
        CheckpointError
            If there is none, or it is damaged.
        """
        self.load_state_dict(io.load_checkpoint(path))


def _one_of(name: str, value: Any, known: Iterable[Any]) -> None:
    if value not in list(known):
        raise ValueError(message("Trainer", name, f"{value!r}", f"one of {', '.join(map(repr, known))}"))
