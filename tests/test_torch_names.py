"""PyTorch's weights in safetensors become ours, layer by layer, and back; a file is PyTorch's or made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.io import from_torch, load_weights, save_weights, torch_names
from minigrad.testing.tolerances import assert_close

pytest.importorskip("safetensors")

Array = np.ndarray[Any, Any]
D = {"dtype": mg.float64}


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# --- by hand ----------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        self.table = nn.Embedding(7, 3)
        self.conv = nn.Conv2D(4, 3)
        self.norm = nn.BatchNorm2D()
        self.memory = nn.LSTM(5, 2, bidirectional=True)
        self.attention = nn.MultiHeadAttention(2)
        self.layers = [nn.Dense(6), nn.Residual(nn.Dense(2, bias=False))]
        self.scale = nn.Parameter(mg.ones((2, 3)))


def by_hand() -> dict[str, Array]:
    """What torch.nn's layers of these names have, shapes and all."""
    shapes: dict[str, tuple[int, ...]] = {
        "table.weight": (7, 3), "conv.weight": (4, 2, 3, 3), "conv.bias": (4,), "norm.weight": (4,), "norm.bias": (4,),
        "norm.running_mean": (4,), "norm.running_var": (4,), "layers.0.weight": (6, 3), "layers.0.bias": (6,),
        "layers.1.module.weight": (2, 6), "scale": (2, 3), "attention.in_proj_weight": (24, 8),
        "attention.in_proj_bias": (24,), "attention.out_proj.weight": (8, 8), "attention.out_proj.bias": (8,),
    }  # fmt: skip
    for number, features in ((0, 3), (1, 10)):
        for way in ("", "_reverse"):
            shapes |= {f"memory.weight_ih_l{number}{way}": (20, features), f"memory.weight_hh_l{number}{way}": (20, 5)}
            shapes |= {f"memory.bias_{kind}_l{number}{way}": (20,) for kind in ("ih", "hh")}
    made = {name: draw(*shape, seed=i).astype(np.float32) for i, (name, shape) in enumerate(shapes.items())}
    return made | {"norm.num_batches_tracked": np.array(3)}


def test_every_weight_has_its_place(tmp_path: Path) -> None:
    given = by_hand()
    save_weights(tmp_path / "x.safetensors", given)
    model = Net()
    assert from_torch(model, load_weights(tmp_path / "x.safetensors")) == ([], [])
    state = {name: t.numpy() for name, t in model.state_dict().items()}
    for name in ("table.weight", "conv.weight", "conv.bias", "norm.running_var", "norm.num_batches_tracked", "scale"):
        np.testing.assert_array_equal(state[name], given[name])
    np.testing.assert_array_equal(state["layers.0.weight"], given["layers.0.weight"].T)
    np.testing.assert_array_equal(state["layers.1.module.weight"], given["layers.1.module.weight"].T)
    for number in range(2):
        for cells, way in (("cells", ""), ("reverse_cells", "_reverse")):
            for kind in ("ih", "hh"):
                own, other = f"memory.{cells}.{number}", f"memory.{{}}_{kind}_l{number}{way}"
                np.testing.assert_array_equal(state[f"{own}.weight_{kind}"], given[other.format("weight")].T)
                np.testing.assert_array_equal(state[f"{own}.bias_{kind}"], given[other.format("bias")])
    for i, part in enumerate(("query", "key", "value")):
        rows = slice(8 * i, 8 * i + 8)
        np.testing.assert_array_equal(state[f"attention.{part}.weight"], given["attention.in_proj_weight"][rows].T)
        np.testing.assert_array_equal(state[f"attention.{part}.bias"], given["attention.in_proj_bias"][rows])
    np.testing.assert_array_equal(state["attention.output.weight"], given["attention.out_proj.weight"].T)
    back = torch_names(model).back(model.state_dict())
    assert set(back) == set(given)
    assert all(np.array_equal(back[name], array) for name, array in given.items())


def test_other_names() -> None:
    model = nn.Sequential([nn.Dense(3, activation="relu"), nn.Sequential([nn.Dense(2, bias=False)])])
    given = {f"module.{name}": draw(*shape) for name, shape in (("0.weight", (3, 5)), ("0.bias", (3,)))}
    given["module.head.out.weight"] = draw(2, 3)
    paths = {"1": "head", "1.0": "head.out"}
    assert from_torch(model, given, paths=paths, prefix="module.") == ([], [])
    np.testing.assert_array_equal(model[1][0].weight.detach().numpy(), given["module.head.out.weight"].T.astype("f4"))
    assert set(torch_names(model, paths=paths, prefix="module.").back(model.state_dict())) == set(given)
    with pytest.raises(ValueError, match="torch_names: paths is with 'head', '3', needs modules of the model"):
        from_torch(model, given, paths=paths | {"head": "1", "3": "4"})


def test_all_that_does_not_fit_is_told() -> None:
    model = Net()
    given = by_hand()
    before = model.table.weight.detach().numpy().copy()
    given["other.weight"] = given.pop("memory.weight_hh_l1_reverse")
    given["attention.in_proj_weight"] = given["attention.in_proj_weight"][:-1]
    given["table.weight"] = given["table.weight"][:, :2]
    with pytest.raises(ValueError, match="the weights do not fit Net:") as caught:
        from_torch(model, given)
    text = str(caught.value)
    assert "memory.reverse_cells.1.weight_hh (from memory.weight_hh_l1_reverse)" in text
    assert "unexpected: other.weight" in text
    assert "attention.in_proj_weight is (23, 8): " in text
    assert "table.weight (from table.weight) is (7, 2), needs (7, 3)" in text
    np.testing.assert_array_equal(model.table.weight.detach().numpy(), before)
    report = from_torch(nn.Dense(2), {"weight": draw(2, 3), "odd": draw(1)}, strict=False)
    assert report == (["bias"], ["odd"])


def test_shared_modules_and_modules_that_hold_themselves() -> None:
    """A state dict of PyTorch has a shared weight under all of its names."""
    layer: Any = nn.Dense(2, in_features=2)
    model: Any = nn.ModuleDict({"a": layer, "b": layer})
    layer.loop = [layer]
    given = {"a.weight": draw(2, 2), "b.weight": draw(2, 2), "a.bias": draw(2)}
    assert from_torch(model, given) == ([], [])
    np.testing.assert_array_equal(layer.weight.detach().numpy(), given["a.weight"].T.astype("f4"))
    with pytest.raises(ValueError, match=r"a\.weight and b\.weight, which are one tensor"):
        from_torch(model, given | {"b.weight": draw(2, 2, seed=1)})


# --- with PyTorch -----------------------------------------------------------------------------------------------------


def sequence(torch: Any) -> list[tuple[str, nn.Module, Any, tuple[Array, ...], dict[str, Any]]]:
    """Layers of both libraries, and what they are called with."""
    t = torch.nn
    f64 = {"dtype": torch.float64}
    batch = {"batch_first": True, **f64}
    x, row, image, tokens = draw(4, 3), draw(2, 4, 6), draw(2, 4, 6, 5), draw(2, 5, 8)
    return [
        ("Dense", nn.Dense(5, **D), t.Linear(3, 5, **f64), (x,), {}),
        ("Dense without bias", nn.Dense(5, bias=False, **D), t.Linear(3, 5, bias=False, **f64), (x,), {}),
        ("Conv1D", nn.Conv1D(6, 3, groups=2, **D), t.Conv1d(4, 6, 3, groups=2, **f64), (row,), {}),
        ("Conv2D", nn.Conv2D(6, (3, 2), **D), t.Conv2d(4, 6, (3, 2), **f64), (image,), {}),
        ("Conv1DTranspose", nn.Conv1DTranspose(6, 3, 2, **D), t.ConvTranspose1d(4, 6, 3, 2, **f64), (row,), {}),
        ("Conv2DTranspose", nn.Conv2DTranspose(6, 3, groups=2, **D), t.ConvTranspose2d(4, 6, 3, groups=2, **f64),
         (image,), {}),
        ("LayerNorm", nn.LayerNorm(**D), t.LayerNorm(3, **f64), (x,), {}),
        ("RMSNorm", nn.RMSNorm(**D), t.RMSNorm(3, eps=1e-6, **f64), (x,), {}),
        ("GroupNorm", nn.GroupNorm(2, **D), t.GroupNorm(2, 4, **f64), (image,), {}),
        ("InstanceNorm", nn.InstanceNorm(affine=True, **D), t.InstanceNorm2d(4, affine=True, **f64), (image,), {}),
        ("BatchNorm1D", nn.BatchNorm1D(**D), t.BatchNorm1d(3, **f64), (x,), {}),
        ("BatchNorm2D", nn.BatchNorm2D(**D), t.BatchNorm2d(4, **f64), (image,), {}),
        ("RNN", nn.RNN(5, 2, **D), t.RNN(8, 5, 2, **batch), (tokens,), {}),
        ("LSTM", nn.LSTM(5, 2, bidirectional=True, **D), t.LSTM(8, 5, 2, bidirectional=True, **batch), (tokens,), {}),
        ("LSTM without biases", nn.LSTM(5, bias=False, **D), t.LSTM(8, 5, bias=False, **batch), (tokens,), {}),
        ("GRU", nn.GRU(5, bidirectional=True, **D), t.GRU(8, 5, bidirectional=True, **batch), (tokens,), {}),
        ("RNNCell", nn.RNNCell(5, **D), t.RNNCell(3, 5, **f64), (x,), {}),
        ("LSTMCell", nn.LSTMCell(5, **D), t.LSTMCell(3, 5, **f64), (x,), {}),
        ("GRUCell", nn.GRUCell(5, **D), t.GRUCell(3, 5, **f64), (x,), {}),
        ("attention", nn.MultiHeadAttention(2, **D), t.MultiheadAttention(8, 2, **batch), (tokens,) * 3, {}),
        ("attention to others", nn.MultiHeadAttention(2, **D), t.MultiheadAttention(8, 2, kdim=3, vdim=4, **batch),
         (tokens, draw(2, 6, 3), draw(2, 6, 4)), {}),
        ("encoder layer", nn.TransformerEncoderLayer(2, 12, norm="post", activation="relu", **D),
         t.TransformerEncoderLayer(8, 2, 12, 0.0, **batch), (tokens,), {}),
        ("decoder layer", nn.TransformerDecoderLayer(2, 12, norm="post", activation="relu", **D),
         t.TransformerDecoderLayer(8, 2, 12, 0.0, **batch), (tokens, draw(2, 7, 8)), {"is_causal": False}),
        ("Transformer", nn.Transformer(2, 2, 1, 12, norm="post", final_norm=True, activation="relu", **D),
         t.Transformer(8, 2, 2, 1, 12, 0.0, **batch), (tokens, draw(2, 4, 8)), {}),
    ]  # fmt: skip


NAMES = [
    "Dense", "Dense without bias", "Conv1D", "Conv2D", "Conv1DTranspose", "Conv2DTranspose", "LayerNorm", "RMSNorm",
    "GroupNorm", "InstanceNorm", "BatchNorm1D", "BatchNorm2D", "RNN", "LSTM", "LSTM without biases", "GRU", "RNNCell",
    "LSTMCell", "GRUCell", "attention", "attention to others", "encoder layer", "decoder layer", "Transformer",
]  # fmt: skip


def first(output: Any) -> Array:
    while isinstance(output, tuple):
        output = output[0]
    return np.asarray(output.detach().numpy())


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_pytorch(name: str, tmp_path: Path) -> None:
    """From a file that PyTorch wrote, into layers that have not seen a batch, and back into PyTorch."""
    torch = pytest.importorskip("torch")
    save: Callable[..., None] = pytest.importorskip("safetensors.torch").save_file
    torch.manual_seed(0)
    cases = {case[0]: case[1:] for case in sequence(torch)}
    assert list(cases) == NAMES
    ours, theirs, inputs, options = cases[name]
    with torch.no_grad():
        for t in [*theirs.parameters(), *(b for b in theirs.buffers() if b.is_floating_point())]:
            t.copy_(torch.rand(t.shape, dtype=t.dtype) * 0.5 + 0.1)
    save(theirs.state_dict(), tmp_path / "x.safetensors")
    assert from_torch(ours, load_weights(tmp_path / "x.safetensors")) == ([], [])
    arrays, tensors = [mg.asarray(a) for a in inputs], [torch.tensor(a) for a in inputs]
    if name == "Transformer":
        options = {}
        mask = torch.nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
        expected = theirs.eval()(*tensors, tgt_mask=mask)
    else:
        expected = theirs.eval()(*tensors)
    assert_close(first(ours.eval()(*arrays, **options)), first(expected), mg.float64, name, factor=10)
    back = torch_names(ours).back(ours.state_dict())
    state = theirs.state_dict()
    assert set(back) == set(state)
    assert all(np.array_equal(back[n], t.numpy()) for n, t in state.items())


def test_a_model_of_pytorch(tmp_path: Path) -> None:
    """A network whose layers have other numbers, in half precision, sharded."""
    torch = pytest.importorskip("torch")
    t = torch.nn
    theirs = t.Sequential(
        t.Conv2d(1, 4, 3), t.ReLU(), t.BatchNorm2d(4), t.Flatten(), t.Linear(64, 8), t.ReLU(), t.Linear(8, 3)
    )
    theirs = theirs.to(torch.bfloat16).float().eval()
    state = {name: v.to(torch.bfloat16) if v.is_floating_point() else v for name, v in theirs.state_dict().items()}
    pytest.importorskip("safetensors.torch").save_file(state, tmp_path / "x.safetensors")
    ours = nn.Sequential(
        [nn.Conv2D(4, 3, activation="relu"), nn.BatchNorm2D(), nn.Flatten(), nn.Dense(8, "relu"), nn.Dense(3)]
    )
    from_torch(ours, load_weights(tmp_path / "x.safetensors"), paths={"1": "2", "3": "4", "4": "6"})
    image = draw(2, 1, 6, 6).astype(np.float32)
    expected = theirs(torch.tensor(image)).detach().numpy()
    assert_close(ours.eval()(mg.asarray(image)).detach().numpy(), expected, mg.float32, "logits", factor=10)
