"""The loader's worker processes: the same batches for any number of them, errors told, and nothing left behind."""

from __future__ import annotations

import copy
import importlib
import multiprocessing.resource_tracker
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import data
from minigrad.data import WorkerError
from minigrad.data.memory import Memory, Packed, dump, load

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package, and the workers get this path
datasets = importlib.import_module("loader_datasets")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def plain(batch: Any) -> Any:
    """A batch as bytes, to compare bit for bit."""
    if isinstance(batch, mg.Tensor):
        return str(batch.dtype), batch.shape, batch.numpy().tobytes()
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    return type(batch)(map(plain, batch)) if isinstance(batch, (tuple, list)) else batch


# --- shared memory ---------------------------------------------------------------------------------------------------

arrays = hnp.arrays(st.sampled_from(["f4", "i8", "u1", "?", "f2", "U3"]), hnp.array_shapes(min_dims=0, min_side=0))
objects = st.recursive(arrays | st.none() | st.text() | st.integers(), lambda inner: st.lists(inner, max_size=3))


def same(a: Any, b: Any) -> None:
    if isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    else:
        assert a == b


@given(objects, objects)
def test_objects_come_out_of_shared_memory_as_they_went_in(first: Any, second: Any) -> None:
    memory = Memory()
    for value in (first, second):
        size = dump(value, memory)
        copied = load(memory.bytes(size), copy=True)
        same(value, copied)
        same(value, load(memory.private(size), copy=False))
        memory.bytes(size)[:] = 255
        same(value, copied)


def test_layouts_of_arrays() -> None:
    memory, x = Memory(), np.arange(12.0).reshape(3, 4)
    for value in (x.T, x[:, ::2], x[::-1], x[:0], np.broadcast_to(x, (2, 3, 4)), x.astype(mg.bfloat16).T):
        same(value, load(memory.bytes(dump(value, memory)), copy=True))
    out = load(memory.bytes(dump(x, memory)), copy=True)
    out += 1  # a copy is the reader's own


def test_memory_grows_and_is_freed() -> None:
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    memory = Memory()
    small = memory.bytes(10)
    small[:] = 7
    large = memory.bytes(100_000)
    assert large[:10].tolist() == [7] * 10
    large[0] = 1
    assert small[0] == 1  # one file, two mappings
    del memory, small, large
    if before:
        assert set(os.listdir("/proc/self/fd")) == before


def test_mapped_files_are_named_and_not_read(tmp_path: Path) -> None:
    file, x = tmp_path / "x.npy", np.arange(100_000.0).reshape(1000, 100)
    np.save(file, x)
    mapped = np.load(file, mmap_mode="r")
    memory = Memory()
    for value in (mapped, mapped[7:], mapped[3]):
        size = dump(value, memory, maps=True)
        assert size < 1000
        there = load(memory.bytes(size), copy=False)
        assert isinstance(there, np.memmap)
        np.testing.assert_array_equal(there, value, strict=True)
    assert Packed(mapped[:, ::2], maps=True).size > 400_000  # not as it lies in the file
    private = np.load(file, mmap_mode="c")
    private[0, 0] = 5
    np.testing.assert_array_equal(load(memory.bytes(dump(private, memory, maps=True)), copy=False), private)


# --- the same batches for any number of workers ----------------------------------------------------------------------


def make(kind: str, workers: int, seed: int = 3) -> data.DataLoader:
    options: dict[str, Any] = {"num_workers": workers, "seed": seed}
    if kind == "items":
        return data.DataLoader(datasets.Draws(23), 4, True, **options)
    if kind == "arrays":
        whole = data.TensorDataset(np.arange(120.0).reshape(30, 2, 2), np.arange(30))
        return data.DataLoader(whole, 4, True, transform=datasets.noise, drop_last=True, **options)
    if kind == "bucket":
        ragged = data.RaggedDataset([np.arange(k % 9) for k in range(40)], np.arange(40))
        batches = data.BucketSampler(ragged.lengths, 4, pool=3)
        return data.DataLoader(ragged, batch_sampler=batches, collate=data.pad_collate(-1), **options)
    return data.DataLoader(datasets.Stream(23), 4, rank=1, world_size=2, **options)


def open_files() -> set[str]:
    """The open files of this process (Linux), the resource tracker's pipe among them."""
    multiprocessing.resource_tracker.ensure_running()
    return set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()


@pytest.mark.parametrize(("kind", "workers"), [("items", 1), ("items", 3), ("arrays", 2), ("bucket", 2), ("stream", 2)])
def test_batches_do_not_depend_on_the_number_of_workers(kind: str, workers: int) -> None:
    before = open_files()
    alone, loader = make(kind, 0), make(kind, workers)
    want = [[plain(batch) for batch in alone] for _ in range(3)]
    assert [[plain(batch) for batch in loader] for _ in range(2)] == want[:2]
    # in the middle of an epoch: the state of this loader leads another one on, with another number of workers
    batches = iter(loader)
    assert [plain(next(batches)) for _ in range(2)] == want[2][:2]
    alone.load_state_dict(loader.state_dict())
    assert [plain(batch) for batch in alone] == want[2][2:]
    assert [plain(batch) for batch in batches] == want[2][2:]
    alone.epoch = 1
    batches = iter(alone)
    next(batches)
    loader.load_state_dict(alone.state_dict())
    assert [plain(batch) for batch in loader] == want[1][1:]
    pids = loader.worker_pids
    assert len(pids) == workers
    loader.close()
    assert not any(map(alive, pids))
    del alone, loader, batches
    assert open_files() == before


def test_workers_and_their_memory_are_kept() -> None:
    loader = make("items", 2)
    pools = []

    def sizes() -> list[int]:
        return [os.fstat(memory.fd).st_size for slots in loader._idle.slots for memory in slots]

    list(loader)
    known = sizes()
    for _ in range(5):
        list(loader)
        for batch in loader:  # left early
            assert batch["index"].shape == (4,)
            break
        pools.append(loader._idle)
    assert set(pools) == {pools[0]}
    assert sizes() == known
    assert len(known) == 2 * loader.prefetch
    # two at once: the second has workers of its own, which end with it
    first, second = [], []
    loader.epoch = 0
    for a, b in zip(loader, loader):
        first.append(plain(a))
        second.append(plain(b))
    assert loader._idle is pools[0]
    loader.epoch = 0
    assert [first, second] == [[plain(batch) for batch in loader] for _ in range(2)]
    loader.close()


@linux
def test_a_large_array_is_not_copied_for_each_worker() -> None:
    most = []
    for array in (np.ones(2**24), np.ones(2**15)):  # 128 MiB, and what the processes have in any case
        loader = data.DataLoader(datasets.Large(array), num_workers=2)
        own = [(int(own), float(total)) for own, total in loader]
        assert {total for _, total in own} == {array.size / 512}
        most.append(max(size for size, _ in own))
        loader.close()
    assert most[0] - most[1] < 2**26


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [("Process-1", RuntimeError, "must stand behind `if __name__"), ("minigrad-data-1", SystemExit, "77")],
)
def test_a_process_that_imports_a_script_starts_no_workers(
    name: str, error: type[BaseException], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = SimpleNamespace(name=name, daemon=False, _inheriting=True)
    monkeypatch.setattr("multiprocessing.process.current_process", lambda: process)
    with pytest.raises(error, match=text):
        iter(data.DataLoader([1], num_workers=1))
    process._inheriting, process.daemon = False, True
    with pytest.raises(RuntimeError, match="num_workers is more than 0, needs 0 in a daemonic process"):
        iter(data.DataLoader([1], num_workers=1))


def test_errors_come_with_item_and_traceback() -> None:
    loader = data.DataLoader(datasets.Broken(KeyError), 2, num_workers=2)
    for _ in range(2):
        batches = iter(loader)
        assert [next(batches).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
        with pytest.raises(KeyError, match="no such thing") as raised:
            next(batches)
        assert raised.value.__notes__ == ["DataLoader: raised by item 5 of the Broken", "DataLoader: in worker 0"]
        assert 'raise self.error(1, 2) if self.error is Refuses else self.error("no such thing")' in str(
            raised.value.__cause__
        )
        assert list(batches) == []
        loader.epoch = 0
    loader.close()


def test_errors_that_cannot_be_sent_come_as_text() -> None:
    loader = data.DataLoader(datasets.Broken(datasets.Refuses), num_workers=1)
    with pytest.raises(WorkerError, match=r"(?s)in worker 0.*Refuses: 1 and 2\nDataLoader: raised by item 5"):
        list(loader)
    loader.close()


def test_what_cannot_be_sent_or_read_is_said() -> None:
    with pytest.raises(
        TypeError, match=r"num_workers is more than 0 .*, needs a dataset, collate and transform that pickle"
    ):
        iter(data.DataLoader([1, 2], collate=lambda items: items, num_workers=1))
    loader = data.DataLoader(datasets.Unreadable(), num_workers=1)
    with pytest.raises(WorkerError, match=r"(?s)worker 0 could not read the dataset.*RuntimeError: no way back"):
        next(iter(loader))


def test_a_killed_worker_is_one_error_and_no_wait() -> None:
    loader = data.DataLoader(datasets.Slow(0.05), num_workers=2)
    batches = iter(loader)
    pids = {next(batches).item() for _ in range(4)}
    assert len(pids) == 2
    victim = max(pids)
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(
        WorkerError, match=r"worker \d was killed by SIGKILL; the system does that when memory runs out"
    ):
        list(batches)
    assert time.monotonic() - start < 5  # a machine may be busy; without the watch it would be forever
    assert list(batches) == []
    wait_for_end(pids)
    loader.close()


def wait_for_end(pids: Any, seconds: float = 5.0) -> None:
    """Fail where a process is still there after a time."""
    end = time.monotonic() + seconds
    left = set(pids)
    while left:
        left = {pid for pid in left if alive(pid)}
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:  # whose parent was killed may stay a zombie where nobody reaps
        return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
    except OSError:
        return False


# --- whole programs --------------------------------------------------------------------------------------------------

HEAD = """
import os, sys, time
sys.path.insert(0, {tests!r})
import numpy as np
from loader_datasets import Slow
from minigrad import data
"""


def start(folder: Path, body: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(HEAD.format(tests=str(Path(__file__).parent)) + textwrap.dedent(body))
    command = [sys.executable, "-W", "error", str(script)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True
    )


def shared() -> set[str]:
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def test_a_script_without_a_guard_gets_one_clear_error(tmp_path: Path) -> None:
    process = start(tmp_path, "print(list(data.DataLoader(Slow(0.0, 4), num_workers=2)))")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert err.count("Traceback") == 1
    assert "WorkerError: DataLoader: worker 0 found that the script starts workers while it is imported" in err
    assert 'must stand behind `if __name__ == "__main__":`' in err


@pytest.mark.parametrize("end", ["", "del batches, loader"])
def test_nothing_is_left_of_a_program_that_ends_in_the_middle(end: str, tmp_path: Path) -> None:
    before = shared()
    body = f"""
    if __name__ == "__main__":
        loader = data.DataLoader(Slow(0.01), num_workers=2, prefetch=3)
        batches = iter(loader)
        print(*{{next(batches).item() for _ in range(6)}})
        {end}
    """
    process = start(tmp_path, body)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")  # the resource tracker too has nothing to say
    assert len(out.split()) == 2
    wait_for_end(map(int, out.split()), 0.5)
    assert shared() <= before


WAITS = """
if __name__ == "__main__":
    loader = data.DataLoader(Slow(0.01, 10**6), num_workers=2)
    batches = iter(loader)
    print(*{next(batches).item() for _ in range(6)}, flush=True)
    for batch in batches:
        pass
"""


def test_ctrl_c(tmp_path: Path) -> None:
    process = start(tmp_path, WAITS)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers too
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1
    assert err.endswith("KeyboardInterrupt\n")
    wait_for_end(pids)


def test_workers_end_when_the_program_is_killed(tmp_path: Path) -> None:
    before = shared()
    process = start(tmp_path, WAITS)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.communicate(timeout=60)
    wait_for_end(pids)
    assert shared() <= before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))])
def test_a_copy_goes_on_where_a_loader_with_workers_stands(copied):
    loader = data.DataLoader(list(range(12)), batch_size=2, shuffle=True, num_workers=1, seed=3)
    batches = iter(loader)
    next(batches)
    other = copied(loader)
    try:
        rest = [batch.tolist() for batch in batches]
        again = copied(loader)  # its workers wait
        assert again.epoch == 1
        assert not again.worker_pids
        assert [batch.tolist() for batch in other] == rest
    finally:
        loader.close()
        other.close()
