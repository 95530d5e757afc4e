"""A fully connected layer without gradients: in float32, with an int8 weight and input, and with an int8 weight alone.

PyTorch's side of int8 is `torch.ao.quantization.quantize_dynamic`, with a scale for each output feature as ours has.
There a batch shares one scale and a zero point; here each row has a scale. So results agree up to the rounding.
"""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

from numpy.typing import NDArray

from benchmarks.passes import normal
from benchmarks.workload import Point, Task, Workload

ROUNDING = 0.02  # of the norm: what int8 may change


def arrays(batch: int, inner: int, columns: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """x, weight (in, out) and bias."""
    return normal(batch, inner), normal(inner, columns, seed=1) / math.sqrt(inner), normal(columns, seed=2)


def minigrad_task(form: str, shape: tuple[int, int, int]) -> Task:
    import minigrad as mg
    from minigrad import compress, nn

    x, weight, bias = arrays(*shape)
    layer = nn.Dense(shape[2], in_features=shape[1])
    layer.load_state_dict({"weight": weight, "bias": bias})
    layer.eval()
    if form != "float32":
        compress.quantize(layer, dynamic=form == "int8")
    given = mg.asarray(x)

    def run() -> NDArray[Any]:
        with mg.no_grad():
            return layer(given).numpy()  # type: ignore[no-any-return]

    return Task(run)


def torch_task(form: str, shape: tuple[int, int, int]) -> Task:
    import torch

    x, weight, bias = arrays(*shape)
    layer: Any = torch.nn.Sequential(torch.nn.Linear(shape[1], shape[2]))
    with torch.no_grad():
        layer[0].weight.copy_(torch.from_numpy(weight.T.copy()))
        layer[0].bias.copy_(torch.from_numpy(bias))
    if form == "int8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, in favour of a package of its own
            kinds = {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
            layer = torch.ao.quantization.quantize_dynamic(layer, kinds)
    given = torch.from_numpy(x)

    def run() -> NDArray[Any]:
        with torch.inference_mode():
            return layer(given).numpy()  # type: ignore[no-any-return]

    return Task(run)


def workload(form: str, inner: int, columns: int, batch: int) -> Workload:
    sides = {"minigrad": partial(minigrad_task, form, (batch, inner, columns))}
    if form != "int8 weight":
        sides["torch"] = partial(torch_task, form, (batch, inner, columns))
    return Workload(
        f"Dense {inner}x{columns} {form}, batch {batch}",
        sides,
        flops=2 * batch * inner * columns,
        point=Point(f"{form} {inner}x{columns}", batch, "rows"),
        tolerance=1e-3 if form == "float32" else ROUNDING,
    )


FORMS = ("float32", "int8", "int8 weight")
SIZES = ((384, 1536), (768, 3072), (1024, 4096))
WORKLOADS = [workload(form, *size, batch) for size in SIZES for batch in (1, 16, 128) for form in FORMS]
SWEEP = [workload(form, 768, 3072, batch) for form in FORMS for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)]
QUICK = [workload(form, 64, 48, 3) for form in FORMS]
