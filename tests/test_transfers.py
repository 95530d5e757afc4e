"""Transfers: batches that reach a GPU while the step before runs; streams and events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from graph_functions import nothing_races, stand_in  # noqa: F401

import minigrad as mg
from minigrad import data, nn, train
from minigrad.errors import DeviceError

pytestmark = pytest.mark.usefixtures("gpu")


def batches(loader: Any) -> list[Any]:
    """All batches as NumPy's arrays."""
    return [[t.to("cpu").numpy().copy() for t in batch] for batch in loader]


def items(n: int = 11) -> data.TensorDataset:
    rng = np.random.default_rng(n)
    return data.TensorDataset(rng.normal(size=(n, 3)).astype(np.float32), np.arange(n))


def equal(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_cpu(workers: int) -> None:
    options: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 3, "num_workers": workers}
    there, here = (data.DataLoader(items(), device=device, **options) for device in ("cuda", None))
    for _ in range(2):
        found = list(there)
        assert {t.device for batch in found for t in batch} == {"cuda:0"}
        equal([[t.to("cpu").numpy() for t in batch] for batch in found], batches(here))
    there.close()
    here.close()


def test_a_stream_of_items_ends_once() -> None:
    class Numbers(data.IterableDataset):
        reads = 0

        def __iter__(self) -> Iterator[Any]:
            for i in range(5):
                Numbers.reads += 1
                yield np.float32(i)

    loader = data.DataLoader(Numbers(), 2, device="cuda")
    assert [batch.tolist() for batch in loader] == [[0.0, 1.0], [2.0, 3.0], [4.0]]
    assert Numbers.reads == 5


def test_what_is_no_tensor_stays_what_it_is() -> None:
    found = next(
        iter(data.DataLoader([{"x": mg.ones(2), "name": "a"}, {"x": mg.zeros(2), "name": "b"}], 2, device="cuda"))
    )
    assert found["x"].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert (found["x"].device, found["name"]) == ("cuda:0", ["a", "b"])
    tensors = data.DataLoader([1, 2], 2, collate=lambda pair: (mg.tensor(pair), np.array(["a"])), device="cuda")
    number, text = next(iter(tensors))
    assert (number.device, number.tolist(), text.tolist()) == ("cuda:0", [1, 2], ["a"])
    empty = data.DataLoader([np.zeros((0, 2), np.float32)] * 2, 2, device="cuda")
    assert next(iter(empty)).shape == (2, 0, 2)


def test_the_place_counts_what_was_given_alone() -> None:
    options: dict[str, Any] = {"batch_size": 3, "shuffle": True, "seed": 5}
    loader, plain = data.DataLoader(items(), device="cuda", **options), data.DataLoader(items(), **options)
    running, also = iter(loader), iter(plain)
    next(running), next(also)
    assert loader.state_dict() == plain.state_dict()
    other = data.DataLoader(items(), device="cuda", **options)
    other.load_state_dict(loader.state_dict())
    equal(batches(other), batches(also))
    assert (len(list(running)), loader.epoch) == (3, 1)


def test_an_error_comes_with_its_own_batch() -> None:
    class Broken(data.Dataset):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, i: int) -> Any:
            if i == 4:
                raise KeyError("the fifth")
            return np.float32(i)

    running = iter(data.DataLoader(Broken(), 2, device="cuda"))
    assert [next(running).tolist() for _ in range(2)] == [[0.0, 1.0], [2.0, 3.0]]
    with pytest.raises(KeyError, match="the fifth"):
        next(running)
    with pytest.raises(StopIteration):
        next(running)


def test_a_loop_that_is_left_early() -> None:
    loader = data.DataLoader(items(), 2, device="cuda")
    for batch in loader:
        kept = batch
        break
    x = mg.ones((2, 3), device="cuda")  # memory that the batch in flight may have given back
    assert kept[1].tolist() == [0, 1]
    assert float((x + 1).sum()) == 12.0


def test_unknown_devices() -> None:
    with pytest.raises(DeviceError, match="DataLoader: device is 'gpu'"):
        data.DataLoader(items(), device="gpu")
    assert data.DataLoader(items(), device="cpu").device is None


def test_a_trainer_has_its_batches_sent() -> None:
    def fit(device: str | None) -> list[float]:
        mg.random.seed(1)
        model = nn.Sequential([nn.Dense(4, activation="relu", in_features=3), nn.Dense(11)])
        trainer = train.Trainer(model, "cross_entropy", "sgd", metrics=[], lr=0.1, seed=2, device=device)
        rng = np.random.default_rng(0)
        return trainer.fit((rng.normal(size=(11, 3)), np.arange(11)), epochs=2, batch_size=4, verbose=0)["loss"]

    np.testing.assert_allclose(fit("cuda"), fit(None), rtol=1e-6)


# --- what would race ------------------------------------------------------------------------------------------------


def planted(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, body: Any) -> None:
    if stand_in() is None:
        pytest.skip("a GPU does not tell of races")
    from minigrad.backend.cuda import transfers

    monkeypatch.setattr(getattr(transfers, kind), name, body)


def test_reading_too_early_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, "Sent", "arrive", lambda self: self.arrays)
    with pytest.raises(AssertionError, match="stream 0 reads memory of stream 1 without having waited for it"):
        [x + 1 for x, _ in data.DataLoader(items(), 2, device="cuda")]
    stand_in().world.freed_too_soon.clear()


def test_copying_too_early_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    if stand_in() is None:
        pytest.skip("a GPU does not tell of races")
    wait = stand_in().Stream.wait_event
    monkeypatch.setattr(stand_in().Stream, "wait_event", lambda self, event: self.ptr or wait(self, event))
    with pytest.raises(AssertionError, match="writes to memory of stream 0 without having waited for it"):
        list(data.DataLoader(items(), 2, device="cuda"))
    stand_in().world.freed_too_soon.clear()


def test_pinned_memory_written_too_early_shows() -> None:
    if stand_in() is None:
        pytest.skip("a GPU does not tell of races")
    import cupy
    import cupyx

    x, source, side = cupy.zeros(3, np.float32), cupyx.empty_pinned(3, np.float32), cupy.cuda.Stream(non_blocking=True)
    source[...] = 1
    side.wait_event(cupy.cuda.get_current_stream().record())
    with side:
        x.set(source)
    with pytest.raises(AssertionError, match="pinned memory is written while a copy"):
        source[...] = 2
    side.synchronize()
    source[...] = 3
    assert x.tolist() == [1.0, 1.0, 1.0]


# --- streams and events ---------------------------------------------------------------------------------------------


def test_work_on_a_stream() -> None:
    side, main = mg.cuda.Stream(), mg.cuda.current_stream()
    x = mg.ones(4, device="cuda")
    side.wait_stream(main)
    with side:
        y = x * 3
        done = side.record_event()
    done.wait()
    assert (y + 1).tolist() == [4.0] * 4
    done.synchronize()
    assert done.query()
    assert side.query()
    side.synchronize()
    assert repr(side) == "Stream(device='cuda:0')"
    with mg.cuda.Stream("cuda:1") if mg.cuda.device_count() > 1 else mg.cuda.Stream() as other:
        assert mg.cuda.current_device() == other.device
    assert mg.cuda.current_device() == "cuda:0"


def test_a_missing_wait_shows() -> None:
    if stand_in() is None:
        pytest.skip("a GPU does not tell of races")
    x, side = mg.ones(4, device="cuda"), mg.cuda.Stream()
    with side, pytest.raises(AssertionError, match="without having waited"):
        x * 3
    side.wait_stream(mg.cuda.current_stream())
    with side:
        y = x * 3
    with pytest.raises(AssertionError, match="without having waited"):
        y + 1
    mg.cuda.current_stream().wait_stream(side)
    assert (y + 1).tolist() == [4.0] * 4


def test_events_measure_time() -> None:
    start, end = mg.cuda.Event(enable_timing=True), mg.cuda.Event(enable_timing=True)
    with pytest.raises(ValueError, match=r"Event.elapsed_time: the event is never recorded"):
        start.elapsed_time(end)
    assert start.query()
    start.synchronize()
    start.record()
    mg.ones(1000, device="cuda") * 2
    end.record(mg.cuda.current_stream())
    end.synchronize()
    assert start.elapsed_time(end) > 0
    plain = mg.cuda.Event()
    plain.record()
    with pytest.raises(
        ValueError, match="end is one without a clock, needs a recorded one, made with enable_timing=True"
    ):
        start.elapsed_time(plain)


def test_streams_are_a_gpus() -> None:
    with pytest.raises(DeviceError, match="Stream: device is 'cpu', needs a GPU"):
        mg.cuda.Stream("cpu")
    with pytest.raises(DeviceError, match="current_stream: device is 'cpu', needs a GPU"):
        mg.cuda.current_stream("cpu")


def test_a_copy_is_waited_for_on_the_gpu_it_goes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream that waits is that of the GPU, whichever is the current one."""
    if mg.cuda.device_count() < 2:
        pytest.skip("two GPUs are needed")
    import cupy

    asked: list[int] = []
    current = cupy.cuda.get_current_stream

    def noted() -> Any:
        asked.append(cupy.cuda.runtime.getDevice())
        return current()

    batch = iter(data.DataLoader(items(), device="cuda:1", batch_size=4))
    monkeypatch.setattr(cupy.cuda, "get_current_stream", noted)
    x, _ = next(batch)
    assert x.device == "cuda:1"
    assert asked
    assert set(asked) == {1}
