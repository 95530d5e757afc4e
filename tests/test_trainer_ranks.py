"""Trainer(parallel=): N ranks train as one process does, write once, and end together."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import parallel, train

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the ranks get this path
functions = importlib.import_module("rank_trainers")
BOUNDS = {"float64": 1e-12, "float32": 1e-6}


@pytest.fixture(scope="module")
def group() -> Iterator[parallel.Group]:
    with parallel.Group(3, threads_each=1, timeout=60.0) as made:
        yield made


def is_close(found: Any, wanted: Any, bound: float, name: str = "") -> None:
    """To `bound`, relative to the largest number of the array; all of a nest."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            is_close(found[key], wanted[key], bound, f"{name} {key}")
    else:
        wanted = np.asarray(wanted, np.float64)
        limit = bound * max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=0, atol=limit, err_msg=name)


def same(found: Any, first: Any) -> None:
    """Equal bits."""
    assert repr(found[:3]) == repr(first[:3])
    assert {name: w.tobytes() for name, w in found[3].items()} == {name: w.tobytes() for name, w in first[3].items()}


def compare(group: parallel.Group, size: int, options: dict[str, Any], bound: float) -> Any:
    found = group.run(functions.fit, size, options)[:size]
    wanted = functions.fit(1, options)
    for own in found:
        same(own, found[0])
        for part, want in zip(own[:1] + own[2:], wanted[:1] + wanted[2:], strict=True):
            is_close(part, want, bound)
        for step, want in zip(own[1], wanted[1], strict=True):
            is_close(step, want, bound)
    return found


@settings(max_examples=12)
@given(
    size=st.sampled_from([2, 3]),
    options=st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["float32", "float64"]),
            "n": st.integers(5, 24),
            "batch_size": st.integers(2, 14),
            "accumulate": st.integers(1, 3),
            "clip_norm": st.sampled_from([None, 0.3]),
            "scaled": st.booleans(),
            "data": st.sampled_from(["arrays", "loader", "batches"]),
            "ema": st.sampled_from([None, 0.8]),
            "schedule": st.sampled_from([None, "cosine"]),
            "seed": st.integers(0, 1000),
            "optimizer": st.sampled_from(["sgd", "sam", "sharded", "sharded gradients"]),
            "reduction": st.sampled_from(["mean", "mean", "sum"]),
            "unlike": st.just(True),
        }
    ),
)
def test_ranks_are_one_process(group: parallel.Group, size: int, options: dict[str, Any]) -> None:
    if options["data"] == "loader":
        options["unlike"] = False  # one process draws what rank 0 does, whose loader has its own seed
    compare(group, size, options, BOUNDS[options["dtype"]])


@settings(max_examples=8)
@given(
    size=st.sampled_from([2, 3]),
    options=st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["float32", "float64"]),
            "n": st.just(24),
            "batch_size": st.sampled_from([6, 12]),  # equal parts for every size, as equal masks need
            "dropout": st.sampled_from([0.2, 0.5]),
            "norm": st.sampled_from([None, "sync"]),
            "accumulate": st.integers(1, 2),
            "clip_norm": st.sampled_from([None, 0.3]),
            "scaled": st.booleans(),
            "seed": st.integers(0, 1000),
        }
    ),
)
def test_dropout_is_that_of_one_process(group: parallel.Group, size: int, options: dict[str, Any]) -> None:
    compare(group, size, options, BOUNDS[options["dtype"]])


def test_a_batch_of_fewer_examples_than_ranks(group: parallel.Group) -> None:
    """A rank without a part computes one example that counts nothing."""
    for kind in ("arrays", "batches"):
        for reduction in ("mean", "sum"):
            options = {"n": 7, "batch_size": 3, "data": kind, "dtype": "float64", "reduction": reduction}
            compare(group, 3, options | {"accumulate": 2}, 1e-12)
            compare(group, 3, options | {"batch_size": 2}, 1e-12)


def test_half_precision(group: parallel.Group) -> None:
    """Equal bits on all ranks, and about the run of one."""
    for precision in ("fp16", "bf16"):
        compare(group, 3, {"n": 24, "batch_size": 12, "precision": precision, "clip_norm": 1.0}, 3e-2)


def test_buffers_that_ranks_do_not_share(group: parallel.Group) -> None:
    """Without sync_batch_norm ranks normalize by their parts, and agree on the running statistics all the same."""
    found = group.run(functions.fit, 3, {"n": 24, "batch_size": 12, "norm": "apart", "ema": 0.5})
    for own in found:
        same(own, found[0])
    assert any(name.startswith("ema ") for name in found[0][3])
    assert found[0][0]["loss"] != functions.fit(1, {"n": 24, "batch_size": 12, "norm": "apart"})[0]["loss"]


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "stop"])
def test_what_one_rank_wants_all_do(group: parallel.Group, how: str, tmp_path: Path) -> None:
    """A signal to one rank, or stop_training, ends all after the same step, saved once."""
    options = {"n": 20, "batch_size": 5}
    found = group.run(functions.stopped, 3, options, how, str(tmp_path))
    end = "returned" if how == "stop" else f"interrupted by {how}"
    names = ["best.ckpt", "log", "step-00000003.ckpt"] if how == "stop" else ["step-00000003.ckpt"]
    assert found == [(end, 3, 3, names)] * 3


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [("arrays", "sgd"), ("batches", "sgd"), ("loader", "sgd"), ("arrays", "sharded"), ("arrays", "sharded gradients")],
)
def test_a_checkpoint_goes_on_under_another_number_of_ranks(
    group: parallel.Group, size: int, kind: str, optimizer: str, tmp_path: Path
) -> None:
    """Saved in the midst of an epoch by two ranks; taken up by some, whose run ends as that of one process."""
    options = {"n": 18, "batch_size": 6, "data": kind, "optimizer": optimizer, "dropout": 0.3, "dtype": "float64"}
    path = str(tmp_path / "run.ckpt")
    group.run(functions.resumed, 2, options, path, 3, path)
    wanted = functions.resumed(1, options, "none", 3)
    if size == 1:
        found = [functions.resumed(1, options, path, 3)]
    else:
        found = group.run(functions.resumed, size, options, path, 3)
    for own in found[:size]:
        assert own[2] == wanted[2] == 9
        is_close(own[0], wanted[0], 1e-12)
        is_close(own[1], wanted[1], 1e-12)
        assert repr(own[:1]) == repr(found[0][:1])


@pytest.mark.parametrize("size", [2, 3])
def test_a_run_of_ranks_goes_on_bit_for_bit(group: parallel.Group, size: int, tmp_path: Path) -> None:
    options = {"n": 20, "batch_size": 6, "dropout": 0.3, "accumulate": 2, "ema": 0.5, "scaled": True}
    path = str(tmp_path / "run.ckpt")
    group.run(functions.resumed, size, options, path, 3, path)
    found = group.run(functions.resumed, size, options, path, 3)[:size]
    whole = group.run(functions.resumed, size, options, "none", 3)[:size]
    assert repr(found) == repr(whole)


@pytest.mark.parametrize("how", ["raises", "ends", "fp16"])
def test_a_nan_of_one_rank_stops_all_and_is_named_by_all(group: parallel.Group, how: str) -> None:
    options = {"precision": "fp16", "scaled": True} if how == "fp16" else {"norm": "sync"} if how == "ends" else {}
    found = group.run(functions.not_finite, 3, options, how)
    text, step, skipped, scale, _, history = found[0]
    assert repr(found[1:]) == repr(found[:1] * 2)
    if how == "fp16":
        assert (text, step, skipped, scale) == ("returned", 6, 3, 128.0)
        assert np.isfinite(history["loss"]).all()
    else:
        assert step == 1
        assert "the loss is nan in epoch 0, batch 1: the inputs of the batch hold a NaN" in text
        assert text.startswith("returned") == (how == "ends")


def test_the_first_rank_alone_writes(group: parallel.Group, tmp_path: Path) -> None:
    found = group.run(functions.files, str(tmp_path))
    assert train.TensorBoard.rank_0
    assert train.Plot.rank_0
    told = ["LambdaCallback"]
    assert found[0][0] == ["CSVLogger", "ProgressBar", "CSVLogger", *told * 2, "Checkpoint"]
    assert found[1][0] == found[2][0] == [*told, "Checkpoint"]
    assert [name.partition(".")[0] for name in found[0][1]] == [
        "later", "lines 0", "log", "run/best", "run/step-00000002", "run/step-00000004",
    ]  # fmt: skip


@given(
    st.integers(2, 4),
    st.sampled_from(["accuracy", "top_2", "f1", "auc", "perplexity", "mse", "mae", "rmse", "r2", "pearson"]),
    st.integers(0, 10**6),
)
def test_metrics_of_parts_are_those_of_the_whole(size: int, name: str, seed: int) -> None:
    np.testing.assert_allclose(functions.merged(size, name, seed), functions.merged(1, name, seed), rtol=1e-9)


def test_what_is_no_communicator_is_refused() -> None:
    from minigrad import nn

    with pytest.raises(TypeError, match="parallel is 2, needs True, a communicator, or None"):
        train.Trainer(nn.Dense(1, in_features=1), parallel=2)
    model = parallel.DataParallel(nn.Dense(1, in_features=1))
    with pytest.raises(ValueError, match="needs that of the DataParallel that is the model"):
        train.Trainer(model, parallel=parallel.init().duplicate())
    assert train.Trainer(model).model is model.module


def test_a_count_that_cannot_be_added_is_refused() -> None:
    class Last(train.Metric):
        def reset(self) -> None:
            self.seen = "nothing"

        def update(self, outputs: Any, targets: Any, weight: Any = None) -> None:
            self.seen = "something"

        def result(self) -> Any:
            return self.seen

    with pytest.raises(TypeError, match="metric last: seen is"):
        Last().merge({"seen": "more"})


@pytest.mark.parametrize("name", ["FGSM", "PGD"])
def test_an_adversary_sees_the_part_of_its_rank(group: parallel.Group, name: str) -> None:
    """Where it draws nothing, its inputs are those of one process; else they are of equal bits."""
    adversary = train.FGSM(0.1) if name == "FGSM" else train.PGD(0.1, 0.05, 2)
    options = {"n": 20, "batch_size": 7, "adversary": adversary, "dtype": "float64", "accumulate": 2}
    found = group.run(functions.fit, 3, options)
    for own in found:
        same(own, found[0])
    if name == "FGSM":
        compare(group, 2, options, 1e-12)


def test_free_training_is_for_one_rank(group: parallel.Group) -> None:
    found = group.run(functions.refusal, {"n": 6, "batch_size": 3, "adversary": train.Free(0.1, 2)})
    need = "an adversary without a state, which would be another one on each rank"
    assert found == [f"Trainer: adversary is Free, needs {need}"] * 3


def test_a_loader_that_is_dealt_out_goes_on_under_as_many_ranks(group: parallel.Group, tmp_path: Path) -> None:
    options = {"n": 20, "batch_size": 2, "data": "dealt"}
    path = str(tmp_path / "run.ckpt")
    group.run(functions.resumed, 3, options, path, 3, path)
    whole = group.run(functions.resumed, 3, options, "none", 3)
    assert repr(group.run(functions.resumed, 3, options, path, 3)) == repr(whole)
    with pytest.raises(ValueError, match=r"world_size is 3, needs 1\. The batches would be others"):
        functions.resumed(1, options, path, 3)


def test_a_stream_is_read_by_all(group: parallel.Group) -> None:
    options = {"n": 24, "batch_size": 6, "data": "stream", "dtype": "float64"}
    compare(group, 3, options, 1e-12)
    compare(group, 2, {**options, "batch_size": 5}, 1e-12)


def test_what_ranks_gather_is_what_each_has(group: parallel.Group) -> None:
    """Every kind of value of a state, of other shapes on each rank."""
    found = group.run(functions.gathered)
    wanted = [repr(functions.state_of(rank)) for rank in range(3)]
    assert found == [wanted] * 3
