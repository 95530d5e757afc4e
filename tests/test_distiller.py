"""Distiller: what it adds up, what of the teacher it leaves alone, and that it trains as any model does."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import amp, compress, data, io, nn, optim, parallel, train
from minigrad.compress.distillation import taps

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the ranks get this path
functions = importlib.import_module("distill_functions")
net, examples, make = functions.net, functions.examples, functions.make


def tensors(count: int = 24, seed: int = 0, dtype: Any = np.float32) -> tuple[mg.Tensor, mg.Tensor]:
    x, y = examples(count, seed, dtype)
    return mg.asarray(x), mg.asarray(y)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in model.state_dict().items()}


def gradients(model: nn.Module) -> dict[str, Any]:
    return {name: None if p.grad is None else p.grad.numpy() for name, p in model.named_parameters()}


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_parts_add_up(alpha: float) -> None:
    student, teacher = net(5, 3), net(8, 3, seed=1)
    terms = [compress.Hint("0", projection=True, weight=0.5), compress.RelationAngles(weight=2.0)]
    distiller = compress.Distiller(student, teacher, 3.0, alpha, terms=terms)
    x, y = tensors()
    outputs = distiller(x)
    assert outputs.detach().numpy().tobytes() == student(x).detach().numpy().tobytes()
    loss = distiller.loss(outputs, y)
    with mg.no_grad():
        wanted = teacher(x)
        projected = terms[0].projection(mg.tanh(student[0].weight.T @ x.T + student[0].bias[:, None]).T)
        hint = compress.hint_loss(projected, mg.tanh(x @ teacher[0].weight + teacher[0].bias))
        hard, soft = mg.cross_entropy(outputs, y), compress.soft_target_loss(outputs, wanted, 3.0)
        angles = compress.angle_loss(outputs, wanted)
    total = (1 - alpha) * hard.item() + alpha * soft.item() + 0.5 * hint.item() + 2.0 * angles.item()
    np.testing.assert_allclose(loss.item(), total, rtol=1e-5)
    assert ("hard" in distiller.parts) == (alpha < 1)
    assert ("soft" in distiller.parts) == (alpha > 0)
    np.testing.assert_allclose(distiller.parts["1: RelationAngles"].item(), angles.item(), rtol=1e-5)


def test_all_of_the_teacher_needs_no_labels() -> None:
    distiller = compress.Distiller(net(5, 3), net(8, 3, seed=1), alpha=1.0, loss=None)
    x, _ = tensors()
    distiller.loss(distiller(x)).backward()
    assert all(p.grad is not None for p in distiller.parameters())


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("cross_entropy", "classes"), ("focal", "classes"), ("bce_with_logits", "binary"), ("mse", "regression"),
        ("huber", "regression"), (nn.functional.cross_entropy, "classes"),
    ],
)  # fmt: skip
def test_the_loss_says_what_outputs_are(loss: Any, kind: str) -> None:
    assert compress.Distiller(net(3), net(3, seed=1), loss=loss).kind == kind


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_several_questions_and_numbers(kind: str) -> None:
    loss = {"binary": "bce_with_logits", "regression": "mse"}[kind]
    distiller = compress.Distiller(net(5, 3), net(8, 3, seed=1), 2.0, 0.4, loss=loss)
    x, y = tensors()
    targets = mg.one_hot(y, 3).astype(mg.float32)
    found = distiller.loss(distiller(x), targets)
    own, teacher = distiller.student(x), distiller.teacher(x)
    hard = mg.mse_loss(own, targets) if kind == "regression" else mg.binary_cross_entropy_with_logits(own, targets)
    soft = compress.soft_target_loss(own, teacher, 2.0, kind=kind)
    np.testing.assert_allclose(found.item(), 0.6 * hard.item() + 0.4 * soft.item(), rtol=1e-6)


# --- the teacher ------------------------------------------------------------------------------------------------------


class Stateful(nn.Module):
    """A teacher that changes a buffer at every call, whatever its mode."""

    def __init__(self) -> None:
        self.inner = net(8, 3, seed=1, dropout=0.9, norm=True)
        self.register_buffer("calls", mg.zeros((1,)))

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        with mg.no_grad():
            self.calls[...] = self.calls + 1
        assert not mg.is_grad_enabled()
        assert not self.training
        return self.inner(x)


def test_nothing_of_the_teacher_changes() -> None:
    teacher = Stateful().train()
    teacher.inner[1].eval()
    before, modes = bits(teacher), [m.training for m in teacher.modules()]
    distiller = compress.Distiller(net(5, 3), teacher, terms=[compress.Hint("0", "inner.0")])
    x, y = tensors()
    trainer = train.Trainer(distiller, distiller.loss, "sgd", lr=0.1)
    distiller(x)  # draws what fills the projection
    state = mg.random.get_state()
    distiller(x)
    assert mg.random.get_state() == state  # its dropout draws nothing
    trainer.fit((x, y), epochs=2, verbose=0)
    trainer.evaluate((x, y))
    assert bits(teacher) == before
    assert [m.training for m in teacher.modules()] == modes
    assert all(p.grad is None for p in teacher.parameters())
    assert all(m._is_plain for m in [*teacher.modules(), *distiller.student.modules()])


def test_the_teacher_is_in_no_list() -> None:
    distiller = make()
    names = [name for name, _ in distiller.named_parameters()]
    assert [name for name in names if not name.startswith("terms.")] == [
        f"student.{name}" for name in distiller.student.state_dict()
    ]
    held = {id(p) for p in distiller.parameters()}
    assert not any(id(p) in held for p in distiller.teacher.parameters())


def test_a_prediction_does_not_call_the_teacher() -> None:
    calls = []
    teacher = net(8, 3, seed=1)
    teacher.register_forward_hook(lambda module, args, output: calls.append(1))
    distiller = compress.Distiller(net(5, 3), teacher)
    trainer = train.Trainer(distiller, distiller.loss)
    x, y = tensors()
    found = trainer.predict(x)
    assert not calls
    np.testing.assert_array_equal(found.detach().numpy(), distiller.student(x).detach().numpy())
    loss = trainer.evaluate((x, y), batch_size=24)["loss"]
    assert calls == [1]
    distiller.eval()
    np.testing.assert_allclose(loss, distiller.loss(distiller(x), y).item(), rtol=1e-6)


def test_a_student_that_is_the_teacher_has_nothing_to_learn() -> None:
    student = net(5, 3, norm=False)
    terms = [compress.Hint("0", projection=False), compress.RelationDistances("0"), compress.RelationAngles()]
    distiller = compress.Distiller(student, copy.deepcopy(student), alpha=1.0, terms=terms)
    loss = distiller.loss(distiller(tensors()[0]))
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert max(np.abs(g).max() for g in gradients(student).values()) < 1e-6


def test_an_error_leaves_no_hooks() -> None:
    distiller = make()
    with pytest.raises(ValueError, match="features"):
        distiller(mg.ones((2, 7)))
    for model in (distiller.student, distiller.teacher):
        assert all(m._is_plain for m in model.modules())


# --- training ---------------------------------------------------------------------------------------------------------


@given(
    cut=st.lists(st.integers(1, 23), unique=True, max_size=3).map(sorted),
    alpha=st.sampled_from([0.0, 0.5, 1.0]),
    loss=st.sampled_from(["plain", "ignore", "weight", "both"]),
)
def test_parts_of_a_batch_make_the_step_of_the_whole(cut: list[int], alpha: float, loss: str) -> None:
    """However unequal they are, with targets that do not count and classes that count more."""
    x, y = examples(dtype=np.float64)
    options: dict[str, Any] = {}
    if loss in ("ignore", "both"):
        y = np.where(np.arange(24) % 5 == 0, -1, y)
        options["ignore_index"] = -1
    if loss in ("weight", "both"):
        options["weight"] = mg.tensor(np.array([0.5, 1.0, 3.0]))

    def weights(bounds: list[int]) -> dict[str, Any]:
        student, teacher = net(5, 3, dtype=mg.float64), net(5, 3, seed=1, dtype=mg.float64)
        terms = [compress.Hint("0", projection=False, weight=0.7)]
        hard = nn.CrossEntropyLoss(**options)
        distiller = compress.Distiller(student, teacher, 2.0, alpha, loss=hard, terms=terms)
        parts = [(mg.asarray(x[a:b]), mg.asarray(y[a:b])) for a, b in zip([0, *bounds], [*bounds, 24])]
        optimizer = optim.SGD(distiller.parameters(), lr=1.0)
        trainer = train.Trainer(distiller, distiller.loss, optimizer, accumulate=len(parts))
        trainer.fit(parts, verbose=0)
        assert trainer.step == 1
        return {name: p.detach().numpy() for name, p in distiller.named_parameters()}

    whole = weights([])
    for name, found in weights(cut).items():
        np.testing.assert_allclose(found, whole[name], rtol=0, atol=1e-12)


@given(cut=st.integers(1, 7), seed=st.integers(0, 50), short=st.integers(2, 5))
def test_texts_of_several_lengths_make_the_step_of_the_whole(cut: int, seed: int, short: int) -> None:
    """Targets of tokens, some ignored; the first part is padded less than the whole."""
    rng = np.random.default_rng(seed)
    lengths = np.r_[rng.integers(1, short + 1, cut), rng.integers(1, 7, 8 - cut)]
    ids, labels = rng.integers(1, 9, (8, 6)), rng.integers(0, 3, (8, 6))
    padding = np.arange(6) >= lengths[:, None]
    ids[padding], labels[padding] = 0, -1

    def reader(features: int, first: int) -> nn.Sequential:
        mg.random.seed(first)
        layers = [nn.Embedding(9, features, dtype=mg.float64), nn.Dense(3, in_features=features, dtype=mg.float64)]
        return nn.Sequential(layers)

    def weights(parts: list[tuple[Any, Any]]) -> list[Any]:
        terms = [compress.Hint("0", projection=False), compress.Hint("0", projection=False, distance="cosine")]
        hard = nn.CrossEntropyLoss(ignore_index=-1)
        distiller = compress.Distiller(reader(4, 0), reader(4, 1), 2.0, 0.5, loss=hard, terms=terms)
        optimizer = optim.SGD(distiller.parameters(), lr=1.0)
        train.Trainer(distiller, distiller.loss, optimizer, accumulate=2).fit(parts, verbose=0)
        return [p.detach().numpy() for p in distiller.parameters()]

    pieces = [(ids[:cut, :short], labels[:cut, :short]), (ids[cut:], labels[cut:])]
    whole, found = (
        weights([(mg.asarray(ids), mg.asarray(labels))]),
        weights([tuple(map(mg.asarray, p)) for p in pieces]),
    )
    for a, b in zip(whole, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_padding_does_not_count() -> None:
    """A mask, and lengths: what stands behind a text changes neither the loss nor the gradient."""
    sizes = {"features": 8, "norm": "post"}
    mg.random.seed(0)
    student, teacher = nn.TransformerEncoder(1, 2, 16, **sizes), nn.TransformerEncoder(2, 2, 16, **sizes)
    terms = compress.tinybert_terms(student, teacher)
    distiller = compress.Distiller(
        student, teacher, alpha=1.0, loss=None, kind="regression", terms=terms,
        output=lambda hidden: hidden[:, 0],
        mask=lambda x, key_lengths: mg.arange(x.shape[1]) < key_lengths[:, None],
    )  # fmt: skip
    x, lengths = mg.random.normal((3, 4, 8)), mg.tensor([4, 2, 3])
    found = []
    for extra in (0, 3):
        padded = mg.concat([x, mg.random.normal((3, extra, 8))], axis=1)
        distiller.zero_grad()
        loss = distiller.loss(distiller(padded, key_lengths=lengths))
        loss.backward()
        found.append((loss.item(), gradients(student)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    for name, grad in found[0][1].items():
        np.testing.assert_allclose(grad, found[1][1][name], atol=1e-5)


@pytest.mark.parametrize("precision", [None, "fp16", "bf16"])
def test_it_learns_in_a_trainer(precision: str | None) -> None:
    mg.random.seed(0)
    distiller = make()
    trainer = train.Trainer(
        distiller, distiller.loss, "adam", ["accuracy"], lr=0.02, precision=precision, accumulate=2, clip_norm=5.0,
        ema=0.9, schedule="cosine", seed=1,
    )  # fmt: skip
    x, y = tensors(64)
    history = trainer.fit((x, y), epochs=12, batch_size=16, validation=(x, y), verbose=0)
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert all(p.dtype == mg.float32 for p in distiller.parameters())


def test_a_nan_is_found_in_its_layer() -> None:
    distiller = make()
    with mg.no_grad():
        distiller.student[1].weight[0, 0] = float("nan")
    trainer = train.Trainer(distiller, distiller.loss)
    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 0, batch 0: .*student\.1"):
        trainer.fit(tensors(), verbose=0)


@pytest.mark.parametrize("kind", ["PGD", "SAM"])
def test_steps_of_several_passes(kind: str) -> None:
    distiller = make()
    mg.random.seed(0)
    distiller.terms[0].projection.complete(5, 8)
    optimizer: Any = optim.Adam(distiller.parameters(), lr=0.03)
    if kind == "SAM":
        optimizer = optim.SAM(optimizer)
    adversary = train.PGD(0.05, 0.02, 2) if kind == "PGD" else None
    trainer = train.Trainer(distiller, distiller.loss, optimizer, adversary=adversary, seed=0)
    history = trainer.fit(tensors(64), epochs=6, verbose=0)
    assert history["loss"][-1] < 0.9 * history["loss"][0]


def test_an_error_of_the_teacher_names_its_layer() -> None:
    teacher = nn.Sequential([nn.Dense(8, in_features=6), nn.Dense(3, in_features=9)])
    distiller = compress.Distiller(net(5, 3), teacher)
    with pytest.raises(ValueError, match=r"^teacher\.1.*9 features"):
        distiller(tensors()[0])


def test_a_loop_of_ones_own_makes_the_trainers_steps() -> None:
    x, y = tensors()
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    by_hand, by_trainer = make(), make()
    for distiller in (by_hand, by_trainer):
        mg.random.seed(4)
        distiller.terms[0].projection.complete(5, 8)
    optimizer = optim.Adam(by_hand.parameters(), lr=0.1)
    for images, labels in batches:
        optimizer.zero_grad()
        by_hand.loss(by_hand(images), labels).backward()
        optimizer.step()
    train.Trainer(by_trainer, by_trainer.loss, "adam", lr=0.1).fit(batches, verbose=0)
    assert bits(by_hand) == bits(by_trainer)


class Stop(train.Callback):
    """Save at a step, and end there."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        if self.trainer.step == self.step:
            self.trainer.save(self.path)
            self.trainer.stop_training = True


@pytest.mark.parametrize("kind", ["plain", "ema teacher", "fp16"])
@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_goes_on_bit_for_bit(kind: str, step: int, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")

    def run(*callbacks: Any, resume: Path | None = None) -> tuple[Any, Any, list[float]]:
        student = net(5, 3, dropout=0.2)
        mean = compress.EMATeacher(student, 0.5)
        teacher: Any = mean if kind == "ema teacher" else net(5, 3, seed=1, dropout=0.5)
        distiller = compress.Distiller(student, teacher, terms=[compress.Hint("0")])
        trainer = train.Trainer(
            distiller, distiller.loss, "adam", lr=0.05, seed=2, precision="fp16" if kind == "fp16" else None,
            callbacks=[*[mean] * (kind == "ema teacher"), *callbacks],
        )  # fmt: skip
        trainer.fit(functions.loader(), epochs=2, verbose=0, resume=resume)
        return bits(distiller), bits(distiller.teacher), trainer.history["loss"]

    whole = run()
    path = tmp_path / "run.safetensors"
    run(Stop(step, path))
    assert run(resume=path) == whole


def test_ranks_make_the_step_of_one_process() -> None:
    with parallel.Group(2, threads_each=1, timeout=60.0) as group:
        both = group.run(functions.train_part, 2)
    alone, teacher = functions.train_part(1)
    for own, (weights, theirs) in zip((alone, alone), both, strict=True):
        assert len(own) == len(weights) == 6
        for found, wanted, first in zip(weights, own, both[0][0], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
            assert found.tobytes() == first.tobytes()
        assert theirs.tobytes() == teacher.tobytes()


# --- teachers ---------------------------------------------------------------------------------------------------------


def test_several_teachers_are_averaged_at_the_temperature() -> None:
    teachers = [net(8, 3, seed=k) for k in (1, 2)]
    distiller = compress.Distiller(net(5, 3), teachers, 3.0, 1.0)
    x, _ = tensors()
    found = distiller.loss(distiller(x)).item()
    own = mg.log_softmax(distiller.student(x) / 3.0)
    mean = sum(mg.softmax(teacher(x) / 3.0) for teacher in teachers) / 2
    wanted = 9.0 * mg.kl_div(own, mean, reduction="batchmean").item()
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_mean_teacher_follows() -> None:
    student = net(5, 3, norm=True)
    mean = compress.EMATeacher(student, decay=0.9)
    distiller = compress.Distiller(student, mean, alpha=0.5)
    assert mean.model is distiller.teacher
    optimizer = optim.SGD(distiller.parameters(), lr=0.5)
    x, y = tensors()
    wanted = None
    for _ in range(4):
        optimizer.zero_grad()
        distiller.loss(distiller(x), y).backward()
        optimizer.step()
        mean.update()
        now = student[0].weight.detach().numpy().astype(np.float64)
        wanted = now if wanted is None else 0.9 * wanted + 0.1 * now
    np.testing.assert_allclose(mean.model[0].weight.detach().numpy(), wanted, rtol=1e-5)
    assert mean.model[1].running_mean.detach().numpy().tobytes() == student[1].running_mean.detach().numpy().tobytes()
    assert not any(p.requires_grad for p in mean.model.parameters())


def test_a_mean_teacher_has_the_masks_of_its_student_and_none_of_its_own() -> None:
    student = net(5, 3)
    compress.prune(student, 0.5)
    teacher = compress.EMATeacher(student, 0.5)
    teacher.update()
    assert compress.sparsity(teacher.model).zeros >= compress.sparsity(student).zeros
    compress.remove_masks(student)
    with mg.no_grad():
        for p in student.parameters():
            p[...] = 1.0
    for _ in range(40):
        teacher.update()
    for p in teacher.model.parameters():
        np.testing.assert_allclose(p.numpy(), 1.0, rtol=1e-6)


def test_a_mean_teacher_does_not_count_steps_that_an_overflow_skips() -> None:
    student = net(5, 3)
    mean = compress.EMATeacher(student, 0.5)
    distiller = compress.Distiller(student, mean)
    trainer = train.Trainer(distiller, distiller.loss, "sgd", lr=0.1, precision="fp16", callbacks=[mean])
    trainer.scaler = amp.GradScaler(init_scale=2.0**40)
    trainer.fit(tensors(), epochs=40, batch_size=24, verbose=0)
    assert trainer.skipped > 0
    assert mean.average.updates == trainer.step == 40 - trainer.skipped


def test_generations_learn_from_each_other() -> None:
    x, y = tensors()
    losses = []

    def fit(student: nn.Module, teacher: nn.Module | None) -> None:
        model: Any = student if teacher is None else compress.Distiller(student, teacher, 2.0, 0.5)
        loss = "cross_entropy" if teacher is None else model.loss
        losses.append(train.Trainer(model, loss, "adam", lr=0.05).fit((x, y), epochs=5, verbose=0)["loss"])

    made = compress.born_again(lambda: net(5, 3), fit, 3)
    assert len({id(m) for m in made}) == 3
    assert all(history[-1] < history[0] for history in losses)
    assert not any(m.training for m in made)


# --- taps and layer maps ----------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """Outputs by name."""

    logits: mg.Tensor
    hidden: mg.Tensor


@dataclasses.dataclass
class Result:
    """Outputs of a dataclass."""

    logits: mg.Tensor
    hidden: mg.Tensor
    note: str = ""


class Several(nn.Module):
    """A model that gives its hidden features too."""

    def __init__(self, form: Any, units: int, seed: int = 0) -> None:
        mg.random.seed(seed)
        self.form, self.first = form, nn.Dense(units, in_features=6)
        self.inner = nn.Lambda(lambda x: form(x, -x))
        self.last = nn.Dense(3, in_features=units)

    def forward(self, x: mg.Tensor) -> Any:
        hidden = self.first(x)
        self.inner(hidden)
        return self.form(self.last(hidden), hidden)


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        (Pair, ("logits", "hidden")),
        (Result, ("logits", "hidden")),
        (lambda a, b: {"logits": a, "hidden": b}, ("logits", "hidden")),
        (lambda a, b: (a, b), (0, 1)),
        (lambda a, b: [a, b], (0, -1)),
    ],
)
def test_outputs_of_any_form(form: Any, keys: Any) -> None:
    student, teacher = Several(form, 4), Several(form, 4, seed=1)
    terms = [compress.Hint(f"inner:{keys[1]}", projection=False)]
    distiller = compress.Distiller(student, teacher, output=keys[0], terms=terms)
    x, y = tensors()
    outputs = distiller(x)
    distiller.loss(outputs, y).backward()
    wanted = compress.hint_loss(-student.first(x), -teacher.first(x))
    np.testing.assert_allclose(distiller.parts["0: Hint"].item(), wanted.item(), rtol=1e-6)
    by_function = compress.Distiller(student, teacher, output=lambda out: taps.pick("", out, keys[0]))
    by_function.loss(by_function(x), y)
    assert by_function.parts["soft"].item() == distiller.parts["soft"].item()
    without = compress.Distiller(student, teacher)
    with pytest.raises(ValueError, match=r"needs one tensor\. It has (logits, hidden|0, 1)(, note)?; a key"):
        without(x)


def test_the_whole_model_is_a_tap_beside_its_output() -> None:
    student, teacher = Several(Pair, 4), Several(Pair, 4, seed=1)
    terms = [compress.Hint(":hidden", projection=False), compress.Hint(projection=False)]
    distiller = compress.Distiller(student, teacher, output="logits", terms=terms)
    x, y = tensors()
    distiller.loss(distiller(x), y)
    for i, name in enumerate(("hidden", "logits")):
        wanted = compress.hint_loss(getattr(student(x), name), getattr(teacher(x), name)).item()
        np.testing.assert_allclose(distiller.parts[f"{i}: Hint"].item(), wanted, rtol=1e-6)
    terms[0].student_tap = terms[0].teacher_tap = ""
    with pytest.raises(ValueError, match="a key says which"):
        distiller(x)


def test_attention_weights_are_those_of_the_layer() -> None:
    mg.random.seed(0)
    layer = nn.TransformerEncoderLayer(2, 16, features=8, dropout=0.3).eval()
    x, lengths = mg.random.normal((2, 5, 8)), mg.tensor([5, 3])
    plain = layer(x, key_lengths=lengths)
    with compress.capture(layer, ["self_attention:weights"]) as found:
        same = layer(x, key_lengths=lengths)
    _, weights = layer.self_attention(layer.self_attention_norm(x), key_lengths=lengths, need_weights=True)
    np.testing.assert_array_equal(same.detach().numpy(), plain.detach().numpy())
    np.testing.assert_array_equal(found["self_attention:weights"].detach().numpy(), weights.detach().numpy())
    assert "forward" not in vars(layer.self_attention)


def test_a_tap_inside_of_a_checkpointed_layer_is_refused() -> None:
    student = nn.checkpointed(nn.TransformerEncoder(2, 2, 16, features=8), nn.TransformerEncoderLayer)
    teacher = nn.TransformerEncoder(2, 2, 16, features=8)
    compress.Distiller(student, teacher, terms=[compress.Hint("layers.0")])  # its output has a graph
    for tap in ("layers.0.feed_forward", "layers.1.self_attention:weights"):
        with pytest.raises(ValueError, match=r"inside of layers\.\d, which is checkpointed"):
            compress.Distiller(student, teacher, terms=[compress.Hint(tap)])
    compress.Distiller(teacher, student, terms=[compress.Hint("layers.0.feed_forward")])  # a teacher needs none


@given(own=st.integers(1, 8), more=st.integers(0, 8), mapping=st.sampled_from(["uniform", "first", "last"]))
def test_layer_maps_rise(own: int, more: int, mapping: str) -> None:
    found = compress.layer_map(own, own + more, mapping)
    assert found == sorted(set(found))
    assert len(found) == own
    assert set(found) <= set(range(own + more))
    if mapping != "first":
        assert found[-1] == own + more - 1
    if (own + more) % own == 0 and mapping == "uniform":
        steps = np.diff([-1, *found])
        assert (steps == (own + more) // own).all()


def test_layer_maps_round_up() -> None:
    assert compress.layer_map(2, 3) == [1, 2]
    assert compress.layer_map(3, 4) == [1, 2, 3]
    assert compress.layer_map(2, 5) == [2, 4]


def test_layer_maps_that_do_not_fit() -> None:
    assert compress.layer_map(2, 3, [2, 0]) == [2, 0]
    with pytest.raises(ValueError, match="needs 2 layers of the teacher, from 0 to 2"):
        compress.layer_map(2, 3, [0, 3])
    with pytest.raises(ValueError, match="at most as many"):
        compress.layer_map(4, 3)
    with pytest.raises(ValueError, match="'uniform', 'first', 'last'"):
        compress.layer_map(1, 3, "middle")


def test_tinybert_takes_layers_embeddings_and_maps() -> None:
    mg.random.seed(0)
    student = nn.Sequential([nn.Embedding(9, 4), nn.TransformerEncoder(2, 2, 8, features=4)])
    teacher = nn.Sequential([nn.Embedding(9, 8), nn.TransformerEncoder(4, 2, 16, features=8)])
    terms = compress.tinybert_terms(student, teacher, embeddings="0")
    assert [t.teacher_tap for t in terms if isinstance(t, compress.Hint)] == ["0", "1.layers.1", "1.layers.3"]
    hints = [t.projection for t in terms if isinstance(t, compress.Hint)]
    assert hints[1] is hints[2] is not hints[0]
    distiller = compress.Distiller(student, teacher, alpha=1.0, loss=None, kind="regression", terms=terms,
                                   output=lambda x: x.mean(axis=-1))  # fmt: skip
    ids = mg.tensor([[1, 2, 3], [4, 5, 6]])
    optimizer = optim.Adam(distiller.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = distiller.loss(distiller(ids))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is not None for p in distiller.parameters())


def test_copied_layers_start_as_the_teachers() -> None:
    mg.random.seed(0)
    teacher = nn.TransformerEncoder(3, 2, 16, features=8)
    student = nn.TransformerEncoder(3, 2, 16, features=8)
    assert compress.copy_layers(student, teacher, [0, 1, 2]) == [0, 1, 2]
    assert bits(student) == bits(teacher)
    small = nn.TransformerEncoder(1, 2, 16, features=8)
    compress.copy_layers(small, teacher)
    assert bits(small.layers[0]) == bits(teacher.layers[2])
    assert bits(small.norm) == bits(teacher.norm)


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_a_distilled_student_is_saved_smaller_and_loaded_the_same(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    teacher = net(64, 64, 3, seed=1)
    distiller = compress.Distiller(net(8, 3), teacher, terms=[compress.Hint("0")])
    x, y = tensors()
    train.Trainer(distiller, distiller.loss, "adam").fit((x, y), verbose=0)
    paths = [tmp_path / f"{name}.safetensors" for name in ("student", "teacher")]
    for path, model in zip(paths, (distiller.student, teacher), strict=True):
        io.save_weights(path, model.state_dict())
    small, large = (path.stat().st_size for path in paths)
    count = sum(p.size for p in distiller.student.parameters())
    assert count * 4 < small < count * 4 + 1000
    assert small < large / 10
    loaded = net(8, 3, seed=9)
    loaded.load_state_dict(io.load_weights(paths[0]))
    np.testing.assert_array_equal(loaded(x).detach().numpy(), distiller.student(x).detach().numpy())


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 1.5}, "alpha is 1.5, needs a number from 0 to 1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"loss": None}, "loss is None, needs a loss of the labels. alpha=1 does without"),
        ({"loss": nn.MSELoss(reduction="sum")}, "loss is a sum, needs a mean"),
        ({"loss": "bce"}, "loss is BCELoss, needs one .* Say kind="),
        ({"kind": "class"}, "kind is 'class'"),
        ({"terms": [compress.Hint("7")]}, "tap is '7', needs a path of Sequential.named_modules"),
        ({"terms": [compress.Hint("0", "last")]}, "tap is 'last'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        compress.Distiller(net(5, 3), net(8, 3, seed=1), **options)


def test_models_that_are_refused() -> None:
    student = net(5, 3)
    with pytest.raises(ValueError, match="4 parameters of the student too, needs parameters of its own"):
        compress.Distiller(student, nn.Sequential([student]))
    with pytest.raises(ValueError, match=r"0\.weight waits for its first batch, needs a trained model"):
        compress.Distiller(student, nn.Sequential([nn.Dense(3)]))
    with pytest.raises(TypeError, match=r"teacher is .* needs a Module, several, or an EMATeacher"):
        compress.Distiller(student, 3)
    with pytest.raises(TypeError, match=r"terms is .* needs objects such as Hint"):
        compress.Distiller(student, net(3, seed=1), terms=["0"])
    with pytest.raises(ValueError, match="teachers is empty, needs at least one"):
        compress.Ensemble([])
    with pytest.raises(ValueError, match="2 numbers of at least 0"):
        compress.Ensemble([net(3), net(3)], [1.0])


def test_a_loss_without_its_call_is_refused() -> None:
    distiller = make()
    x, y = tensors()
    first = distiller(x)
    second = distiller(x)
    with pytest.raises(ValueError, match="needs what the distiller gave just before"):
        distiller.loss(first, y)
    distiller(x)
    with pytest.raises(ValueError, match="needs what the distiller gave just before"):
        distiller.loss(second, y)


def test_features_of_other_sizes_need_a_projection() -> None:
    distiller = compress.Distiller(net(5, 3), net(8, 3, seed=1), terms=[compress.Hint("0", projection=False)])
    x, y = tensors()
    with pytest.raises(ValueError, match="projection=True"):
        distiller.loss(distiller(x), y)


def test_images_go_through_a_projection_of_channels() -> None:
    mg.random.seed(0)
    student = nn.Sequential([nn.Conv2D(2, 3, in_channels=1), nn.GlobalAvgPool2D(), nn.Dense(3, in_features=2)])
    teacher = nn.Sequential([nn.Conv2D(5, 3, in_channels=1), nn.GlobalAvgPool2D(), nn.Dense(3, in_features=5)])
    terms = [compress.Hint("0", axis=1), compress.AttentionTransfer("0")]
    distiller = compress.Distiller(student, teacher, terms=terms)
    images, labels = mg.random.normal((4, 1, 6, 6)), mg.tensor([0, 1, 2, 0])
    distiller.loss(distiller(images), labels).backward()
    assert terms[0].projection.weight.shape == (2, 5)
    assert np.isfinite(student[0].weight.grad.detach().numpy()).all()
    assert distiller.parts["1: AttentionTransfer"].item() > 0


def test_a_dataset_goes_through_the_loader() -> None:
    distiller = make()
    trainer = train.Trainer(distiller, distiller.loss, lr=0.01)
    history = trainer.fit(data.TensorDataset(*examples()), epochs=2, verbose=0)
    assert len(history["loss"]) == 2


@pytest.mark.parametrize("way", ["copy", "pickle"])
def test_copies_after_a_call_go_on_without_its_graph(way: str) -> None:
    distiller = make()
    x, y = (mg.asarray(part) for part in examples())
    output = distiller(x)
    other = copy.deepcopy(distiller) if way == "copy" else pickle.loads(pickle.dumps(distiller))
    with pytest.raises(ValueError, match="outputs is no outputs of the last call"):
        other.loss(output, y)
    assert other.loss(other(x), y).item() == distiller.loss(output, y).item()
    assert other.teacher is not distiller.teacher


def test_terms_and_masks_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match="terms is a Hint, needs a list of terms"):
        compress.Distiller(net(5, 3), net(8, 3), terms=compress.Hint("0"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="mask is 3, needs a function of the model's inputs"):
        compress.Distiller(net(5, 3), net(8, 3), mask=3)  # type: ignore[arg-type]


def test_what_is_no_list_is_refused() -> None:
    model = net(5, 3)
    with pytest.raises(TypeError, match="Ensemble: teachers is a Sequential, needs several modules, in a list"):
        compress.Ensemble(model)
    with pytest.raises(TypeError, match="Ensemble: teachers is None, needs several modules"):
        compress.Ensemble(None)  # type: ignore[arg-type]
    assert len(compress.Ensemble(nn.ModuleList([model])).teachers) == 1
    for wrong in ("0", None):
        with pytest.raises(TypeError, match=r"capture: taps is .*, needs a list of them"):
            compress.capture(model, wrong).__enter__()  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="layer_map: mapping is 3, needs a name, or the layers themselves"):
        compress.layer_map(1, 2, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="copy_layers: layers of the student is Sequential without any"):
        compress.copy_layers(model, model)
