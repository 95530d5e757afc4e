"""The callback for TensorBoard: scalars, the graph of a model, samples, and runs that were killed."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from callback_functions import Kill, Killed, X, Y, fit, make, names, same, weights

import minigrad as mg
from minigrad import nn, optim, train
from minigrad.train import Trainer, latest


def records(folder):
    """The events in the files of a folder, in their order."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    parts = []
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            parts.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return parts


def events(folder):
    """What TensorBoard would show: tag -> {step: value}, a start of session making it forget later steps."""
    found = {}
    for event in records(folder):
        if event.session_log.status == 1:
            found = {tag: {s: v for s, v in seen.items() if s < event.step} for tag, seen in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value
    return found


def test_tensorboard_shows_the_run(tmp_path):
    pytest.importorskip("tensorboardX")
    pytest.importorskip("PIL")

    def samples(trainer):
        return {"text": f"step {trainer.step}", "gray": np.eye(4), "colors": mg.zeros((2, 3, 4, 5)), "one": X[None, :3]}

    norms, losses = [], []
    note = train.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            norms.append(optim.grad_norm(trainer.trained())),
            losses.append(trainer.loss(trainer.model.eval()(trainer.batch[0]), trainer.batch[1]).item()),
            trainer.model.train(),
        )
    )
    board = train.TensorBoard(tmp_path, samples=samples, histograms=2)
    trainer = make(board, note, metrics=["accuracy"], optimizer="sgd", lr=0.0)
    trainer.model[1].rate = 0.0
    history = fit(trainer, 2, validation=(X, Y))
    found = events(tmp_path)
    for k in range(6):
        assert found["step/loss"][k + 1].simple_value == pytest.approx(losses[k], rel=1e-5)
        assert found["step/grad_norm"][k + 1].simple_value == pytest.approx(norms[k], rel=1e-5)
        assert found["step/lr"][k + 1].simple_value == 0.0
    for name, values in history.items():
        assert [found[f"epoch/{name}"][step].simple_value for step in (3, 6)] == pytest.approx(values, rel=1e-5)
    weight = found["weights/0/weight"][6].histo
    assert list(found["weights/0/weight"]) == [6]
    assert (weight.num, weight.sum) == (24, pytest.approx(float(trainer.model[0].weight.sum()), rel=1e-5))
    assert found["gradients/2/bias"][6].histo.max == pytest.approx(float(trainer.model[2].bias.grad.max()), rel=1e-5)
    assert found["samples/text/text_summary"][6].tensor.string_val == [b"step 6"]
    image = found["samples/colors"][3].image
    assert (image.height, image.width) == (4, 10)
    assert found["samples/gray"][3].image.encoded_image_string.startswith(b"\x89PNG")
    assert b"Dense" in found["model/text_summary"][1].tensor.string_val[0]


def test_the_graph_of_the_model(tmp_path):
    pytest.importorskip("tensorboardX")
    graph_pb2 = pytest.importorskip("tensorboardX.proto.graph_pb2")

    class Net(nn.Module):
        def __init__(self):
            self.first = nn.Dense(6, in_features=4)
            self.norm = nn.BatchNorm(6)
            self.inner = nn.Sequential([nn.Dense(6, "relu", in_features=6), nn.Dropout(0.5)])
            self.last = nn.Dense(3, in_features=6)

        def forward(self, x):
            y = self.norm(self.first(x))
            return self.last(self.inner(y) + y + y)

    def run(folder, graph):
        mg.random.seed(1)
        trainer = Trainer(Net(), metrics=[], seed=0, callbacks=[train.TensorBoard(folder, graph=graph)])
        fit(trainer, 2)
        return trainer, [event for event in records(folder) if event.graph_def]

    trainer, found = run(tmp_path / "with", True)
    plain, none = run(tmp_path / "without", False)
    assert same(weights(trainer), weights(plain))  # random numbers and statistics of batches are left alone
    assert (len(found), none) == (1, [])
    nodes = {node.name: node for node in graph_pb2.GraphDef.FromString(found[0].graph_def).node}
    inputs = {name: list(node.input) for name, node in nodes.items() if node.op not in ("Parameter", "Input")}
    assert inputs == {
        "Net/first/linear": ["Net/input", "Net/first/weight", "Net/first/bias"],
        "Net/norm/batch_norm": ["Net/first/linear", "Net/norm/weight", "Net/norm/bias"],
        "Net/inner/0/linear_relu": ["Net/norm/batch_norm", "Net/inner/0/weight", "Net/inner/0/bias"],
        "Net/add": ["Net/inner/0/linear_relu", "Net/norm/batch_norm"],
        "Net/add_2": ["Net/add", "Net/norm/batch_norm"],
        "Net/last/linear": ["Net/add_2", "Net/last/weight", "Net/last/bias"],
    }
    sizes = [size.size for size in nodes["Net/last/linear"].attr["_output_shapes"].list.shape[0].dim]
    assert sizes == [4, 3]


def test_tensorboard_with_clipping_and_rows(tmp_path):
    pytest.importorskip("tensorboardX")
    model = nn.Sequential([nn.Embedding(9, 4, sparse=True), nn.Dense(3, in_features=4)])
    board = train.TensorBoard(tmp_path, every=2)
    seen = []
    note = train.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["grad_norm"]))
    trainer = Trainer(model, optimizer="sgd", lr=0.1, metrics=[], callbacks=[board, note], clip_norm=1e-3)
    ids, y = np.array([1, 2, 1, 5]), np.array([0, 1, 2, 0])
    trainer.fit((ids, y), epochs=4, batch_size=4, verbose=0)
    found = events(tmp_path)
    assert list(found["step/grad_norm"]) == [2, 4]
    assert [value.simple_value for value in found["step/grad_norm"].values()] == pytest.approx(seen[1::2], rel=1e-5)
    assert found["gradients/0/weight"][4].histo.num == 3 * 4  # the rows that were used


def test_tensorboard_of_a_run_that_was_killed(tmp_path):
    pytest.importorskip("tensorboardX")

    def run(folder, step, resume):
        board, checkpoint = (
            train.TensorBoard(folder / "board"),
            train.Checkpoint(folder / "states", every=2, per="step"),
        )
        trainer = make(board, checkpoint, Kill(step), seed=1)
        fit(trainer, 4, resume=resume)

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    run(tmp_path / "whole", -1, None)
    with pytest.raises(Killed):
        run(tmp_path / "killed", 7, None)
    run(tmp_path / "killed", -1, latest(tmp_path / "killed" / "states"))
    whole, killed = (events(tmp_path / name / "board") for name in ("whole", "killed"))
    assert len(names(tmp_path / "killed" / "board")) == 2
    for tag in ("step/loss", "step/lr", "step/grad_norm", "epoch/loss"):
        wanted = {step: value.simple_value for step, value in whole[tag].items()}
        assert {step: value.simple_value for step, value in killed[tag].items()} == wanted
        assert len(wanted) == (4 if tag == "epoch/loss" else 12)


def test_tensorboard_has_written_what_a_checkpoint_has_seen(tmp_path):
    pytest.importorskip("tensorboardX")
    seen = []
    look = train.LambdaCallback(
        last=True,
        on_train_batch_end=lambda batch, logs: seen.append(list(events(tmp_path / "board")["step/loss"])),
    )
    fit(make(train.TensorBoard(tmp_path / "board"), train.Checkpoint(tmp_path / "run", per="step"), look), 1)
    assert seen == [[1], [1, 2], [1, 2, 3]]


def test_samples_that_do_not_fit(tmp_path):
    pytest.importorskip("tensorboardX")
    with pytest.raises(ValueError, match=r"the sample 'x' is float64 \(3,\), needs a text, or an image"):
        fit(make(train.TensorBoard(tmp_path, samples=lambda trainer: {"x": np.zeros(3)})))
    with pytest.raises(TypeError, match="what samples gives is None, needs a dict"):
        fit(make(train.TensorBoard(tmp_path, samples=lambda trainer: None)))
    with pytest.raises(TypeError, match="samples is 3, needs a function"):
        train.TensorBoard(tmp_path, samples=3)


@pytest.mark.parametrize(
    ("module", "make_one", "text"),
    [
        (
            "tensorboardX",
            lambda: train.TensorBoard("runs"),
            r"TensorBoard needs tensorboardX: pip install 'minigrad\[log\]'",
        ),
        ("matplotlib", lambda: train.Plot("a.png"), r"Plot needs matplotlib: pip install 'minigrad\[plot\]'"),
        ("tqdm", lambda: train.ProgressBar("bar"), r"ProgressBar needs tqdm: pip install 'minigrad\[train\]'"),
    ],
)
def test_packages_that_are_missing(module, make_one, text, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=text):
        make_one()
