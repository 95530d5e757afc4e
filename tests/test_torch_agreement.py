"""Values and derivatives of orders one and two agree with PyTorch on the samples of its own test suite, `op_db`.

A sample that cannot be compared is counted under its reason; the counts are printed at the end. MINIGRAD_OPDB_SAMPLES
caps the samples of an op and dtype (0 lifts the cap).
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg

torch = pytest.importorskip("torch", minversion="2.13")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    op_db = importlib.import_module("torch.testing._internal.common_methods_invocations").op_db

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package
adapters = importlib.import_module("torch_adapters")
mapping = importlib.import_module("torch_mapping")

CAP = int(os.environ.get("MINIGRAD_OPDB_SAMPLES", "40"))
SECOND_ORDER = 6
CANCELLED = 32  # roundings of numbers near 1 that may be left where a result is 0 by cancellation
SLACK = 4  # how many times PyTorch's own distance from float64 ours may be
TOLERANCE = {
    "float64": 1e-10,
    "float32": 1e-5,
    "float16": 2e-3,
    "bfloat16": 2e-2,
    "complex128": 1e-10,
    "complex64": 1e-5,
}
FLOATS = (torch.float64, torch.float32)
OTHERS = (torch.int64, torch.bool, torch.complex128)  # for ops that take no real floats
pytestmark = pytest.mark.slow


class Tally:
    """What was compared, and what was not for which reason."""

    def __init__(self) -> None:
        self.ops: set[str] = set()
        self.compared: Counter[str] = Counter()
        self.not_comparable: Counter[str] = Counter()
        self.values_only: Counter[str] = Counter()
        self.limited: list[str] = []
        self.disagreements: list[str] = []

    def lines(self) -> Iterator[str]:
        yield (
            f"PyTorch {torch.__version__}: {len(self.ops)} ops of op_db, of {len(op_db)} there; compared "
            + ", ".join(f"{n} {what}" for what, n in self.compared.items())
        )
        for title, reasons in (("not comparable", self.not_comparable), ("values only", self.values_only)):
            yield f"{title}: {sum(reasons.values())} samples"
            yield from (f"  {n:5d}  {reason}" for reason, n in reasons.most_common())
        yield from self.limited
        yield f"disagreements: {len(self.disagreements)}"


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    made = Tally()
    yield made
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("", *made.lines(), sep="\n")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two thread pools that take turns are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def title(info: Any) -> str:
    return f"{info.name}/{info.variant_test_name}" if info.variant_test_name else str(info.name)


def rebuild(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same nest of lists, tuples and dicts with every tensor and dtype replaced."""
    if isinstance(value, (torch.Tensor, torch.dtype)):
        return leaf(value)
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, (list, tuple)):
        return type(value)(rebuild(v, leaf) for v in value)
    if isinstance(value, dict):
        return {k: rebuild(v, leaf) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(rebuild(v, leaf) for v in (value.start, value.stop, value.step)))
    return value


def flat(value: Any) -> list[Any]:
    """Outputs as a list."""
    if isinstance(value, (list, tuple)):
        return [part for v in value for part in flat(v)]
    return [value]


def numpy_of(tensor: Any) -> np.ndarray[Any, Any]:
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.float().numpy(force=True).astype(mg.bfloat16))
    return np.asarray(tensor.numpy(force=True))  # PyTorch keeps zeros without memory


class Side:
    """One library with one sample: runs the op and differentiates what came out."""

    def __init__(self, sample: Any) -> None:
        self.leaves: list[Any] = []
        self.seen: dict[int, Any] = {}
        self.args, self.kwargs = rebuild(((sample.input, *sample.args), sample.kwargs), self.convert)

    def convert(self, value: Any) -> Any:
        """A tensor of this library with the values of one of PyTorch's, or a dtype."""
        if isinstance(value, torch.dtype):
            return self.dtype(value)
        if id(value) not in self.seen:
            self.seen[id(value)] = made = self.tensor(value)
            if value.requires_grad:
                self.leaves.append(made)
        return self.seen[id(value)]

    def stages(self, outputs: list[Any], order: int) -> Iterator[tuple[str, list[Any]]]:
        """The values, then the gradients of a random combination of them, then those of one of the gradients."""
        yield "value", outputs
        for n, kind in enumerate(("gradient", "second-order gradient")[:order]):
            outputs = self.grads([(o, seed(n, i, o)) for i, o in enumerate(outputs) if live(o)], again=n + 1 < order)
            yield kind, outputs


class Theirs(Side):
    """PyTorch; `wide` computes in float64 what is float32."""

    def __init__(self, sample: Any, wide: bool = False) -> None:
        self.wide = wide
        super().__init__(sample)

    def dtype(self, dtype: Any) -> Any:
        return torch.float64 if self.wide and dtype == torch.float32 else dtype

    def tensor(self, value: Any) -> Any:
        return value.detach().to(self.dtype(value.dtype), copy=True).requires_grad_(value.requires_grad)

    def grads(self, pairs: list[tuple[Any, Any]], again: bool) -> list[Any]:
        if not pairs:
            return [torch.zeros_like(t) for t in self.leaves]
        outputs, seeds = [o for o, _ in pairs], [torch.as_tensor(s, dtype=o.dtype) for o, s in pairs]
        found = torch.autograd.grad(outputs, self.leaves, seeds, create_graph=again, allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for g, t in zip(found, self.leaves, strict=True)]


class Ours(Side):
    """minigrad."""

    def dtype(self, dtype: Any) -> Any:
        return getattr(mg, str(dtype).removeprefix("torch."))

    def tensor(self, value: Any) -> Any:
        return mg.tensor(numpy_of(value), requires_grad=value.requires_grad)

    def grads(self, pairs: list[tuple[Any, Any]], again: bool) -> list[Any]:
        if not pairs:
            return [mg.zeros_like(t) for t in self.leaves]
        outputs, seeds = [o for o, _ in pairs], [mg.tensor(s, dtype=o.dtype) for o, s in pairs]
        found = mg.grad(outputs, self.leaves, seeds, create_graph=again, allow_unused=True)
        return [mg.zeros_like(t) if g is None else g for g, t in zip(found, self.leaves, strict=True)]


def live(output: Any) -> bool:
    return bool(getattr(output, "requires_grad", False))


def seed(stage: int, place: int, output: Any) -> np.ndarray[Any, Any]:
    """A random cotangent, never all ones, that float32 holds exactly: the same in every dtype and library."""
    return np.asarray(np.random.default_rng([stage, place]).standard_normal(tuple(output.shape)), np.float32)


def array(value: Any) -> np.ndarray[Any, Any]:
    """A result of either side."""
    if isinstance(value, torch.Tensor):
        return numpy_of(value)
    return np.asarray(value.detach().numpy() if isinstance(value, mg.Tensor) else value)


def gap(actual: Any, expected: Any, tolerance: float, truth: Any = None) -> str | None:
    """What is different between two results, or None.

    `truth` is the result in a wider dtype: where the problem itself magnifies rounding, PyTorch's distance from it
    shows how much.
    """
    a, e = array(actual), array(expected)
    if a.shape != e.shape or a.dtype != e.dtype:
        return f"{a.dtype} {a.shape}, PyTorch {e.dtype} {e.shape}"
    same = (a == e) | ((a != a) & (e != e))
    if str(e.dtype) in TOLERANCE and a.size:
        tolerance = max(tolerance, TOLERANCE[str(e.dtype)])
        wide = np.complex128 if e.dtype.kind == "c" else np.float64
        a, e = a.astype(wide), e.astype(wide)
        size = np.abs(e[np.isfinite(e)]).max(initial=0.0)
        with np.errstate(invalid="ignore"):
            allowed = tolerance * (np.abs(e) + min(1.0, float(size))) + CANCELLED * float(
                mg.finfo(array(expected).dtype).eps
            )
            if truth is not None:
                t = array(truth).astype(wide)
                rounding = np.abs(e - t)
                allowed = allowed + SLACK * rounding[np.isfinite(rounding)].max(initial=0.0)
                e = np.where(np.isfinite(e), t, e)
            same |= np.abs(a - e) <= allowed
    if np.all(same):
        return None
    worst = tuple(int(i) for i in np.argwhere(~np.asarray(same))[0])
    wrong = np.size(same) - np.count_nonzero(same)
    return f"{wrong} of {np.size(same)} elements, at {worst}: {a[worst]!r}, PyTorch {e[worst]!r}"


def compare(info: Any, match: Any, sample: Any, order: int, tally: Tally) -> Iterator[tuple[str, str | None]]:
    """What was compared on a sample, and what is different."""

    def outputs(side: Side, call: Callable[..., Any]) -> tuple[list[Any], str]:
        first, *rest = side.args
        out = call(match.prepare(first) if match.prepare else first, *rest, **side.kwargs)
        out, reason = out if isinstance(out, adapters.ValuesOnly) else (out, "")
        return flat(match.gauge(*out) if match.gauge else out), reason

    def reference(wide: bool) -> list[tuple[str, list[Any]]]:
        theirs = Theirs(sample, wide)
        return list(theirs.stages(outputs(theirs, info.op)[0], order))

    try:
        expected = reference(False)
    except Exception as error:
        raise adapters.NotComparable("PyTorch raises") from error
    ours = Ours(sample)
    ours.kwargs.pop("device", None)
    values, reason = outputs(ours, match.call)
    if order and reason:
        tally.values_only[reason] += 1
        order = 0
    truth: list[tuple[str, list[Any]]] = []
    for n, (kind, got) in enumerate(ours.stages(values, order)):
        want = expected[n][1]
        if len(got) != len(want):
            yield kind, f"{len(got)} outputs, PyTorch {len(want)}"
            return
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            found = gap(g, w, match.tolerance if n else 0.0)
            if found and array(w).dtype == np.float32:
                truth = truth or reference(True)
                found = gap(g, w, match.tolerance if n else 0.0, truth[n][1][i])
                tally.compared["results in float32 judged by float64"] += found is None
            if found:
                yield kind, f"{'output' if n == 0 else 'by input'} {i}: {found}"
                return
        yield kind, None


def describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(describe, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}={describe(v)}" for k, v in value.items()) + "}"
    return repr(value)


def samples(info: Any, dtype: Any) -> list[Any]:
    """Samples spread over all that there are."""
    grad = dtype.is_floating_point and info.supports_autograd and dtype in info.supported_backward_dtypes("cpu")
    torch.manual_seed(0)
    found = list(info.sample_inputs("cpu", dtype, requires_grad=grad))
    return found[:: math.ceil(len(found) / CAP)] if CAP and found else found


@pytest.mark.parametrize("info", [info for info in op_db if title(info) in mapping.MATCHES], ids=title)
def test_agrees_with_torch(info: Any, tally: Tally) -> None:
    match = mapping.MATCHES[title(info)]
    found: list[str] = []
    supported = info.supported_dtypes("cpu")
    dtypes = [d for d in FLOATS if d in supported] or [d for d in OTHERS if d in supported][:1]
    compared = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        for dtype in dtypes:
            seconds = SECOND_ORDER if dtype == torch.float64 and info.supports_gradgrad else 0
            for sample in samples(info, dtype):
                order = min(match.order, 1 + (seconds > 0)) if Theirs(sample).leaves else 0
                name = f"{title(info)} {describe((sample.input, *sample.args))} {describe(sample.kwargs)}"
                try:
                    for kind, difference in compare(info, match, sample, order, tally):
                        compared = True
                        tally.compared[f"{str(dtype).removeprefix('torch.')} {kind}s"] += 1
                        seconds -= kind == "second-order gradient"
                        if difference:
                            found.append(f"{name}: {kind}, {difference}")
                except adapters.NotComparable as reason:
                    tally.not_comparable[str(reason)] += 1
                except Exception as error:
                    found.append(f"{name}: {type(error).__name__}: {error}")
    tally.disagreements += found
    if match.because:
        tally.limited.append(f"{title(info)}: {match.because}")
    if compared:
        tally.ops.add(title(info))
    assert not found, "\n".join(found)
    if not compared:
        pytest.skip("no sample is comparable")


def test_every_op_that_both_have_is_compared() -> None:
    """A name that minigrad gets, and `op_db` has, must enter the table."""
    homes = (mg, mg.linalg, importlib.import_module("minigrad.nn.functional"))
    known = {*mapping.MATCHES, *mapping.ABSENT}
    shared = {
        title(info)
        for info in op_db
        if not info.name.startswith(("masked.", "special.", "sparse."))
        and any(callable(getattr(home, info.name.rpartition(".")[2], None)) for home in homes)
    }
    assert not shared - known
    assert not known - {title(info) for info in op_db}
