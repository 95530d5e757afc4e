"""MPI when something is missing: a peer that never comes, a rank that is killed, a link that is cut.

These run by the mpiexec beside this Python or on the PATH; what needs Open MPI's fault tolerance is skipped elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minigrad import nn, parallel

ROOT = Path(__file__).resolve().parent.parent
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
pytestmark = pytest.mark.slow
needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")

LATE = """
import sys, time
import numpy as np
from minigrad import parallel
world = parallel.init(timeout=0.7)
how = sys.argv[1]
world.barrier()
if world.rank == 1:
    time.sleep(30 if how != "leaves" else 0)
    sys.exit(0)
begun = time.monotonic()
try:
    if how == "recv":
        world.recv(1)
    elif how == "sendrecv":
        world.sendrecv(np.ones(3), 1, 1)
    elif how == "broadcast":
        world.broadcast(np.ones(9), 1)
    elif how == "barrier":
        world.barrier()
    elif how == "all_gather":
        world.all_gather(np.ones(9))
    else:
        world.allreduce(np.ones(9))
except parallel.ParallelError:
    print(f"after {time.monotonic() - begun:.1f} s")
    if how == "broadcast":
        try:
            world.barrier()
        except parallel.ParallelError as error:
            print(error)
    if how == "all_gather":
        sys.exit(0)
    raise
"""

TRAIN = """
import os, signal, sys
import numpy as np
import minigrad as mg
from minigrad import nn, optim, parallel
when, folder = sys.argv[1:]
world = parallel.init(timeout=60)
mg.random.seed(3)
model = parallel.DataParallel(
    nn.Sequential(
        [nn.Dense(30, in_features=20), nn.BatchNorm1D(30), nn.Tanh(), nn.Dense(5, in_features=30)]
    ).to(mg.float64),
    sync_batch_norm=True, bucket_size=2000,
)
optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
x = np.random.default_rng(0).normal(size=(10, 12, 20))
y = np.random.default_rng(1).integers(5, size=(10, 12))
step = 0
def die(*_):
    if world.size > 1 and world.rank == 1 and step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
if when == "backward":
    list(model.parameters())[-1].register_post_accumulate_grad_hook(die)
while step < 10:
    try:
        c = model.communicator
        mine = slice(12 * c.rank // c.size, 12 * (c.rank + 1) // c.size)
        loss = nn.functional.cross_entropy(model(mg.asarray(x[step][mine])), mg.asarray(y[step][mine]))
        if when == "forward":
            die()
        loss.backward()
        if when == "step":
            die()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if when == "after":
            die()
    except parallel.RankLost:
        step = model.recover(step, optimizer)
assert parallel.init() is model.communicator
np.savez(f"{folder}/{when}-{world.size}-{world.rank}.npz", *[p.detach().numpy() for p in model.parameters()],
         size=model.communicator.size)
"""

BEHIND = """
import numpy as np
import minigrad as mg
from minigrad import nn, optim, parallel
world = parallel.init(timeout=60)
mg.random.seed(0)
model = parallel.DataParallel(nn.Sequential([nn.Dense(3, in_features=4), nn.BatchNorm1D(3)]), sync_batch_norm=True)
optimizer = optim.Adam(model.parameters(), lr=0.1)
def train():
    out = model(mg.random.normal((8, 4)))
    (out * out * out).mean().backward()
    optimizer.step()
train()
step = 1
if world.rank == 1:  # it has made a step that the others have not
    for p in model.parameters():
        p.grad = mg.ones_like(p)
    optimizer.step()
    step = 2
    mg.random.seed(7)
assert model.recover(step, optimizer) == 2
after = model.communicator
assert after is not world and parallel.init() is after and (after.size, after.rank) == (world.size, world.rank)
assert all(p.grad is None for p in model.parameters())
train()
held = np.concatenate([np.ravel(t.detach().numpy()) for t in [*model.parameters(), mg.random.normal(3)]])
table = after.all_gather(held[None])
assert (table == table[0]).all(), table
print(f"rank {after.rank} is alike")
"""


def mpi(size: int, program: Path, *words: object, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a program as ranks."""
    pytest.importorskip("mpi4py")
    assert MPIEXEC is not None
    names = {"OMP_NUM_THREADS": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [MPIEXEC, *options, "-n", str(size), sys.executable, str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, **names, **allow})


@needs_mpi
@pytest.mark.parametrize("how", ["leaves", "broadcast", "all_gather", "sendrecv"])
def test_a_peer_that_never_comes_ends_in_an_error(how: str, tmp_path: Path) -> None:
    program = tmp_path / "late.py"
    program.write_text(LATE)
    begun = time.monotonic()
    done = mpi(2, program, how)
    took = time.monotonic() - begun
    assert done.returncode != 0, done.stdout + done.stderr
    whom = "rank 1" if "recv" in how else "the other ranks"
    if how == "broadcast":
        assert "barrier: an earlier call did not come to its end" in done.stdout
    if how == "all_gather":  # the program catches it and says that all is well, which the others are not
        assert "Traceback" not in done.stderr
    else:
        assert f"ParallelError: {how.replace('leaves', 'allreduce')}: rank 0 has waited for {whom} 0.7 s" in done.stderr
    assert "after 0." in done.stdout
    assert took < 25.0  # rank 1 would sleep longer


@needs_mpi
def test_recover_takes_the_state_of_the_furthest(tmp_path: Path) -> None:
    program = tmp_path / "behind.py"
    program.write_text(BEHIND)
    done = mpi(3, program)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {rank} is alike" for rank in range(3)]


def fault_tolerant() -> bool:
    """Whether mpiexec is one that lets the others live."""
    if MPIEXEC is None:
        return False
    version = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True).stdout
    return "Open MPI" in version and " 4." not in version


@pytest.mark.skipif(not fault_tolerant(), reason="needs mpiexec --with-ft ulfm, of Open MPI 5")
@pytest.mark.parametrize("when", ["forward", "backward", "step", "after"])
def test_survivors_go_on(when: str, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(TRAIN)
    subprocess.run([sys.executable, str(program), when, str(tmp_path)], check=True, timeout=60)
    done = mpi(3, program, when, tmp_path, options=("--with-ft", "ulfm"))
    assert done.returncode == 0, done.stderr
    alone, first, last = (np.load(tmp_path / f"{when}-{name}.npz") for name in ("1-0", "3-0", "3-2"))
    assert not (tmp_path / f"{when}-3-1.npz").exists()
    assert (int(alone["size"]), int(first["size"]), int(last["size"])) == (1, 2, 2)
    for name in sorted(set(alone.files) - {"size"}):
        np.testing.assert_array_equal(first[name], last[name])
        np.testing.assert_allclose(first[name], alone[name], rtol=1e-12, atol=1e-13)


def test_other_engines_say_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"shrink: engine is 'single'.* needs MPI.*minigrad\.launch --max-restarts"):
        parallel.init().shrink()
    with parallel.Group(2, threads_each=1) as group, pytest.raises(RuntimeError, match="engine is 'processes'"):
        group.run(shrink)


def test_recover_refuses_a_sharded_optimizer() -> None:
    model = parallel.DataParallel(nn.Dense(2, in_features=2))
    model.share_gradients(lambda bucket: bucket)
    with pytest.raises(RuntimeError, match=r"DataParallel\.recover: the optimizer is a ShardedOptimizer"):
        model.recover(0)


def shrink() -> None:
    parallel.init().shrink()


def test_a_cut_link_ends_in_an_error() -> None:
    """The tool; it says itself what it needs."""
    tool = ROOT / "tools" / "cut_link.py"
    done = subprocess.run([sys.executable, str(tool), "--timeout", "2"], capture_output=True, text=True, timeout=200)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 faults" in done.stdout
    assert done.stdout.count("ParallelError: ") == 2
