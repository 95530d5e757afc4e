"""What is left of pruned models: sparse files, a sparse layer for inference, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import minigrad as mg
from minigrad import compress, dtypes, io, nn
from minigrad._core import cpu
from minigrad.compress.pruning import forms, sparse_dense
from minigrad.data import DataError
from minigrad.errors import ShapeError

pytest.importorskip("safetensors")
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
DTYPES = ["float16", "bfloat16", "float32", "float64", "int64", "uint8", "bool"]


def drawn(seed: int, shape: tuple[int, ...], dtype: str, density: float) -> Any:
    """Values of which some are 0, -0, NaN or infinite."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(shape) < density, rng.normal(size=shape) * 9, 0.0)
    if dtype.endswith(("16", "32", "64")) and "float" in dtype:
        x = np.where(rng.random(shape) < 0.05, rng.choice([-0.0, np.nan, np.inf], size=shape), x)
    with np.errstate(invalid="ignore"):
        return np.abs(x).astype(dtypes.as_dtype(dtype)) if dtype == "uint8" else x.astype(dtypes.as_dtype(dtype))


# --- files ------------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10**6), shape=SHAPES, dtype=st.sampled_from(DTYPES), density=st.sampled_from([0, 0.01, 0.2, 1])
)
@settings(max_examples=60)
def test_forms_are_exact_and_as_small_as_said(seed: int, shape: tuple[int, ...], dtype: str, density: float) -> None:
    x = drawn(seed, shape, dtype, density)
    pattern = forms.pattern_of(x)
    raw = np.ascontiguousarray(x).reshape(-1)
    assert [any(value.tobytes()) for value in raw] == pattern.reshape(-1).tolist()
    form, parts = forms.encoded(x, pattern)
    sizes = {form: sum(part.nbytes for part in parts.values())}
    assert forms.smallest(shape, x.dtype.itemsize, int(pattern.sum())) == (form, sizes[form])
    assert sizes[form] <= x.nbytes
    again, found = forms.decoded(form, parts, shape)
    assert (again.dtype, again.shape) == (x.dtype, x.shape)
    assert again.tobytes() == x.tobytes()
    assert form == "dense" or np.array_equal(found, pattern)


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0]), stray=st.booleans())
@settings(max_examples=20)
def test_a_model_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, seed: int, share: float, stray: bool
) -> None:
    file = tmp_path_factory.mktemp("sparse") / "model.safetensors"
    mg.random.seed(seed)
    model = nn.Sequential([nn.Embedding(20, 30), nn.Dense(40, in_features=30), nn.Conv1D(3, 3, in_channels=40)])
    compress.prune(model, share, scope="layer", exclude="0")
    model[1].weight._array[0, 0] = -0.0
    model[2].weight._array[0, 0, 0] = np.nan if stray else 0.0  # a masked weight that somebody has written to
    state = model.state_dict()
    compress.save_sparse(file, model if seed % 2 else state)
    found = compress.load_sparse(file)
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert found[name].numpy().tobytes() == value.numpy().tobytes(), name


@pytest.mark.parametrize(("share", "times"), [(0.5, 1.8), (0.75, 3.3), (0.9, 7.0), (0.99, 50.0)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_shrink(tmp_path: Path, share: float, times: float, dtype: str) -> None:
    """Against the dense file of the same weights, with masks and all."""
    model = nn.Sequential([nn.Dense(500, in_features=700), nn.Dense(100, in_features=500)]).to(
        mg.dtypes.as_dtype(dtype)
    )
    dense, sparse = tmp_path / "dense.safetensors", tmp_path / "sparse.safetensors"
    io.save_weights(dense, model.state_dict())
    report = compress.prune(model, share)
    compress.save_sparse(sparse, model)
    size = sparse.stat().st_size
    assert report.sparse_bytes < size < report.sparse_bytes + 2000
    least = times if dtype == "float32" else times * (0.93 if share < 0.9 else 0.65)
    assert dense.stat().st_size > least * size


def test_shared_weights_are_written_once(tmp_path: Path) -> None:
    table = nn.Embedding(64, 64)
    model = nn.Sequential([table])
    model.output = table.weight  # type: ignore[assignment]
    compress.prune(model, 0.9)
    compress.save_sparse(tmp_path / "tied.safetensors", model)
    assert (tmp_path / "tied.safetensors").stat().st_size < 64 * 64 * 4 / 6
    fresh = nn.Sequential([nn.Embedding(64, 64)])
    fresh.output = fresh[0].weight  # type: ignore[assignment]
    fresh.load_state_dict(compress.load_sparse(tmp_path / "tied.safetensors"))
    assert np.array_equal(fresh[0].weight.mask, table.weight.mask)


def test_an_older_file_stays_where_the_new_one_fails(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    compress.save_sparse(file, {"a": np.eye(9)})
    before = file.read_bytes()
    with pytest.raises(TypeError):
        compress.save_sparse(file, {"a": np.eye(9), "b": np.array(["text"])})
    assert file.read_bytes() == before
    with pytest.raises(TypeError, match=r"save_sparse: model is .*, needs a module or its state dict"):
        compress.save_sparse(file, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"save_sparse: a name is .*, needs a str"):
        compress.save_sparse(file, {3: np.eye(2)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"needs a file that ends in .safetensors"):
        compress.save_sparse(tmp_path / "model.bin", {})


def parts_of(file: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """The tensors of a file, its texts, and its table."""
    metadata = io.read_metadata(file)
    return {k: v.numpy().copy() for k, v in io.load_weights(file).items()}, metadata, json.loads(metadata["tensors"])


FAULTS: list[Any] = [
    lambda t, m, e: m.update(format="other"),
    lambda t, m, e: m.update(version="2"),
    lambda t, m, e: t.pop("c:values"),
    lambda t, m, e: t.update({"c:values": t["c:values"][1:]}),
    lambda t, m, e: t.update({"c:values": t["c:values"].reshape(1, -1)}),
    lambda t, m, e: t.update({"c:indptr": t["c:indptr"][:-1]}),
    lambda t, m, e: t["c:indptr"].__setitem__(0, 1),
    lambda t, m, e: t["c:indptr"].__setitem__(3, 250),
    lambda t, m, e: t["c:indices"].__setitem__(0, 255),
    lambda t, m, e: t["c:indices"].__setitem__(slice(None), t["c:indices"][0]),
    lambda t, m, e: t.update({"c:indices": t["c:indices"].astype(np.int64)}),
    lambda t, m, e: t["b:bits"].__setitem__(0, t["b:bits"][0] ^ 1),
    lambda t, m, e: t["b:bits"].__setitem__(-1, 255),
    lambda t, m, e: t.update({"b:bits": t["b:bits"][:-1]}),
    lambda t, m, e: t.update({"b:bits": t["b:bits"].astype(np.int32)}),
    lambda t, m, e: t.update({"more:values": np.zeros(3)}),
    lambda t, m, e: t.update({"d:mask": np.zeros(1, np.uint8)}),
    lambda t, m, e: e["c"].update(form="csc"),
    lambda t, m, e: e["c"].pop("shape"),
    lambda t, m, e: e["c"].update(shape=[80, -1]),
    lambda t, m, e: e["c"].update(shape="80"),
    lambda t, m, e: e["c"].update(shape=[40, 2**50]),
    lambda t, m, e: e["c"].update(shape=[41, 80]),
    lambda t, m, e: e["b"].update(shape=[2]),
    lambda t, m, e: e["d"].update(shape=[4]),
    lambda t, m, e: e["c"].update(mask=True),
    lambda t, m, e: e["c"].update(other=1),
    lambda t, m, e: e.update(z={"form": "dense", "shape": [1]}),
    lambda t, m, e: e.update(c=3),
    lambda t, m, e: e.clear(),
]


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_malformed_files_are_one_clear_error(tmp_path: Path, number: int) -> None:
    file = tmp_path / "model.safetensors"
    rng = np.random.default_rng(0)
    c, b = np.zeros((40, 80), np.float32), np.zeros(13, np.float32)
    c.reshape(-1)[rng.choice(3200, 60, replace=False)] = 1.0
    b[[1, 5, 12]] = 2.0
    layer = nn.Dense(3, in_features=3, bias=False)
    layer.weight.mask = np.ones((3, 3), np.bool_)
    state = {"c": c, "b": b} | {f"d{name.removeprefix('weight')}": t for name, t in layer.state_dict().items()}
    compress.save_sparse(file, state)
    tensors, metadata, table = parts_of(file)
    assert [table[name]["form"] for name in "cbd"] == ["csr", "bits", "dense"]
    assert compress.load_sparse(file)["c"].numpy().tobytes() == c.tobytes()
    FAULTS[number](tensors, metadata, table)
    io.save_weights(file, tensors, metadata=metadata | {"tensors": json.dumps(table)})
    with pytest.raises(DataError, match=r"load_sparse: .*model.safetensors is (malformed|of format)"):
        compress.load_sparse(file)


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(DataError):
        compress.load_sparse(file)
    io.save_weights(file, {"a": np.eye(3)})
    with pytest.raises(DataError, match=r"is of format None None, needs minigrad.sparse 1. See io.load_weights"):
        compress.load_sparse(file)
    compress.save_sparse(file, {"a": np.eye(30)})
    tensors, metadata, _ = parts_of(file)
    io.save_weights(file, tensors, metadata=metadata | {"tensors": "{"})
    with pytest.raises(DataError, match="malformed"):
        compress.load_sparse(file)
    whole = file.read_bytes()
    for end in (0, 5, 40, len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(DataError):
            compress.load_sparse(file)


# --- the sparse layer -------------------------------------------------------------------------------------------------


def pruned(units: int, features: int, share: float, seed: int, **options: Any) -> nn.Dense:
    mg.random.seed(seed)
    layer = nn.Dense(units, in_features=features, bias_initializer="normal", **options)
    compress.prune(layer, share)
    return layer


@given(
    batch=st.sampled_from([0, 1, 2, 3, 31, 32, 33, 70]), features=st.integers(1, 70), units=st.integers(1, 70),
    share=st.sampled_from([0.0, 0.5, 0.9, 1.0]), bias=st.booleans(), level=st.sampled_from(cpu.levels()),
    threads=st.integers(1, 3), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_kernel_is_the_dense_layer(
    batch: int, features: int, units: int, share: float, bias: bool, level: str, threads: int, seed: int
) -> None:
    layer = pruned(units, features, share, seed, bias=bias)
    sparse = compress.SparseDense(layer)
    x = np.random.default_rng(seed).normal(size=(batch, features)).astype(np.float32)
    wanted = x.astype(np.float64) @ layer.weight.detach().numpy().astype(np.float64)
    if layer.bias is not None:
        wanted = wanted + layer.bias.detach().numpy()
    before, own, least = cpu.use_level(level), cpu.get_threads(), cpu.set_parallel_from(1)
    try:
        cpu.set_threads(threads)
        found = sparse(mg.asarray(x)).numpy()
        cpu.set_threads(1)
        alone = sparse(mg.asarray(x)).numpy()
    finally:
        cpu.use_level(before)
        cpu.set_threads(own)
        cpu.set_parallel_from(least)
    assert found.tobytes() == alone.tobytes()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.sqrt(features)))


def test_the_kernel_is_called_and_its_fault_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = pruned(5, 7, 0.5, 0)
    sparse, x = compress.SparseDense(layer), mg.ones((40, 7))
    seen: list[Any] = []
    cpu.watch(seen)
    try:
        sparse(x)
    finally:
        cpu.watch(None)  # type: ignore[arg-type]
    assert seen == [("sparse.linear", True)]
    values = sparse.values.numpy().copy()
    sparse.values._array[0] += 1.0
    assert not np.allclose(sparse(x).numpy(), layer(x).detach().numpy())
    sparse.values._array[...] = values
    monkeypatch.setattr(sparse_dense, "kernel", lambda *arrays: NotImplemented)
    np.testing.assert_allclose(sparse(x).numpy(), layer(x).detach().numpy(), rtol=1e-5)


def test_what_the_kernel_leaves_to_the_dense_product() -> None:
    layer = pruned(5, 7, 0.5, 0, activation="relu")
    sparse = compress.SparseDense(layer)
    x = mg.asarray(np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32))
    np.testing.assert_allclose(sparse(x).numpy(), layer(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    turned = mg.permute_dims(mg.permute_dims(x, (2, 1, 0)) + 0.0, (2, 1, 0))  # another order in memory
    np.testing.assert_allclose(sparse(turned).numpy(), sparse(x).numpy())
    given_x, other_x = (mg.tensor(x, requires_grad=True) for _ in range(2))
    factors = mg.asarray(np.random.default_rng(1).normal(size=(2, 3, 5)).astype(np.float32))
    (sparse(given_x) * factors).sum().backward()
    (layer(other_x) * factors).sum().backward()
    np.testing.assert_allclose(given_x.grad.numpy(), other_x.grad.numpy(), rtol=1e-5, atol=1e-6)
    wide = compress.SparseDense(pruned(5, 7, 0.5, 0).to(mg.float64))
    assert wide(mg.ones((2, 7), dtype=mg.float64)).dtype == mg.float64
    half = compress.SparseDense(pruned(5, 7, 0.5, 0).to(mg.float16))
    assert half.values.dtype == mg.float32


def test_a_sparse_layer_is_saved_and_loaded_and_turned_back() -> None:
    layer = pruned(5, 7, 0.5, 0, activation="tanh")
    sparse, other = compress.SparseDense(layer), compress.SparseDense(layer)
    other.values._array[...] = 0
    assert other.load_state_dict(sparse.state_dict()) == ([], [])
    x = mg.ones((3, 7))
    assert np.array_equal(sparse(x).numpy(), other(x).numpy())
    back = sparse.to_dense()
    assert np.array_equal(back.weight.detach().numpy(), layer.weight.detach().numpy())
    assert np.allclose(back(x).detach().numpy(), layer(x).detach().numpy())
    assert not sparse.parameters()
    other.columns._array[0] = 7  # beyond the inputs: no memory outside is read
    with pytest.raises(ValueError, match=r"SparseDense: columns and ends do not fit the values"):
        other(x)
    with pytest.raises(ShapeError, match=r"SparseDense: x is .*, needs 7 features on its last axis"):
        sparse(mg.ones((3, 6)))
    with pytest.raises(TypeError, match=r"SparseDense: layer is .*, needs a Dense layer"):
        compress.SparseDense(nn.ReLU())  # type: ignore[arg-type]


def test_sparsify_exchanges_what_is_sparse_enough() -> None:
    model = nn.Sequential([
        pruned(20, 10, 0.9, 0), nn.Residual(pruned(20, 20, 0.85, 1)), nn.ModuleList([pruned(20, 20, 0.5, 2)]),
        nn.ModuleDict({"a": pruned(3, 20, 0.95, 3)}),
    ])  # fmt: skip
    model[2].forward = model[2][0].forward  # type: ignore[method-assign]
    model[3].forward = lambda x: model[3]["a"](x)  # type: ignore[method-assign]
    x = mg.asarray(np.random.default_rng(0).normal(size=(33, 10)).astype(np.float32))
    wanted = model(x).detach().numpy()
    assert compress.sparsify(model) is model
    kinds = [type(model[0]), type(model[1].module), type(model[2][0]), type(model[3]["a"])]
    assert kinds == [compress.SparseDense, compress.SparseDense, nn.Dense, compress.SparseDense]
    np.testing.assert_allclose(model(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert type(compress.sparsify(pruned(4, 4, 0.9, 0))) is compress.SparseDense
    with pytest.raises(ValueError, match=r"sparsify: above is 1.5, needs a share"):
        compress.sparsify(model, 1.5)
    with pytest.raises(TypeError, match=r"sparsify: model is .*, needs a module"):
        compress.sparsify(3)  # type: ignore[arg-type]


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_counts_times_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    mg.random.seed(0)
    model = nn.Sequential([nn.Dense(64, "relu", in_features=100), nn.BatchNorm(), nn.Dense(3, in_features=64)])
    model(mg.ones((2, 100)))
    compress.prune(model, 0.8, scope="layer", exclude="2")
    report = compress.sparsity(model, mg.ones((4, 100)), repeats=2)
    rows = {row.name: row for row in report.rows}
    assert rows["0.weight"].zeros == rows["0.weight"].masked == round(0.8 * 6400)
    assert (rows["0.weight"].sparsity, report.pruned, rows["2.weight"].masked) == (0.8, 0.8, 0)
    assert report.weights == sum(p.size for p in model.parameters())
    assert report.zeros == sum(int((p.detach().numpy() == 0).sum()) for p in model.parameters())
    assert report.total == report.zeros / report.weights
    assert report.dense_bytes == 4 * report.weights > report.sparse_bytes
    assert [row.name for row in report.rows if row.seconds is not None] == ["0.weight", "1.weight", "2.weight"]
    assert all(row.seconds > 0 for row in report.rows if row.seconds is not None)
    text = str(report)
    assert "80.0%" in text
    assert " ms" in text
    assert " ms" not in str(compress.sparsity(model))
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    compress.sparsity(model).plot(tmp_path / "report.svg")
    assert b"<svg" in (tmp_path / "report.svg").read_bytes()
    empty = compress.sparsity(nn.ReLU())
    assert (empty.total, empty.pruned, empty.weights) == (0.0, 0.0, 0)
    with pytest.raises(TypeError, match=r"sparsity: model is .*, needs a module"):
        compress.sparsity(3)  # type: ignore[arg-type]


# --- what a stranger tries --------------------------------------------------------------------------------------------


def write_table(path: Path, table: Any, parts: dict[str, Any]) -> None:
    metadata = {"format": "minigrad.sparse", "version": "1", "tensors": json.dumps(table)}
    io.save_weights(path, parts, metadata=metadata)


@pytest.mark.parametrize("shape", [[1, 2**44], [1, 2**30], [1, 3 * 2**12]])
def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path, shape: list[int]) -> None:
    empty = np.zeros(0, np.uint8)
    parts = {"w:indptr": np.zeros(2, np.uint8), "w:indices": empty, "w:values": empty}
    write_table(tmp_path / "a.safetensors", {"w": {"form": "csr", "shape": shape}}, parts)
    with pytest.raises(DataError, match=f"w has 2 bytes for {shape[1]} elements"):
        compress.load_sparse(tmp_path / "a.safetensors")


@pytest.mark.parametrize("columns", [2**12 - 1, 2**15])
def test_rows_that_are_all_zeros_come_back(tmp_path: Path, columns: int) -> None:
    x = np.zeros((2, columns), np.float32)
    compress.save_sparse(tmp_path / "a.safetensors", {"w": x})
    assert np.array_equal(compress.load_sparse(tmp_path / "a.safetensors")["w"].numpy(), x)
    form, parts = forms.encoded(x, x != 0)
    assert forms.smallest(x.shape, 4, 0) == (form, sum(part.nbytes for part in parts.values()))


def test_masks_of_a_state_may_be_bools_and_must_fit(tmp_path: Path) -> None:
    w, keep = np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(12).reshape(3, 4) % 2 == 0
    compress.save_sparse(tmp_path / "a.safetensors", {"w": w * keep, "w.mask": keep})
    layer = nn.Dense(4, bias=False, in_features=3)
    layer.load_state_dict({f"weight{k[1:]}": v for k, v in compress.load_sparse(tmp_path / "a.safetensors").items()})
    assert np.array_equal(compress.masks(layer)["weight"], keep)
    for mask in (np.ones(1, np.uint8), np.ones((3, 4), np.float32)):
        with pytest.raises(ShapeError, match=r"save_sparse: model is a state in which w\.mask is"):
            compress.save_sparse(tmp_path / "b.safetensors", {"w": w, "w.mask": mask})
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("columns", [9] * 24),
        ("columns", [-1] * 24),
        ("ends", [0, 99, 99, 99, 99, 99, 24]),
        ("ends", [0, 4, 8, 9, 9, 9, 23]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_that_is_no_sparse_matrix_is_refused(name: str, values: list[int], dtype: str) -> None:
    layer = compress.SparseDense(nn.Dense(6, in_features=4))
    layer.load_state_dict({**layer.state_dict(), name: mg.tensor(values, dtype=mg.int32)})
    with pytest.raises(ValueError, match=r"columns and ends.* do not fit the values"):
        layer(mg.ones((2, 4), dtype=dtype))


@pytest.mark.parametrize("model", ["gpt", "llama"])
def test_a_head_becomes_sparse_too(model: str) -> None:
    from minigrad.models import GPT, GPTConfig, Llama, LlamaConfig

    sizes: dict[str, Any] = {"vocab_size": 11, "features": 8, "num_layers": 1, "num_heads": 2, "tied": False}
    made: Any = GPT(GPTConfig(max_length=8, **sizes)) if model == "gpt" else Llama(LlamaConfig(**sizes))
    compress.prune(made.eval(), 0.9)
    ids = mg.tensor([[1, 2, 3]])
    wanted, weight = made(ids).detach(), made.head.weight.detach()
    compress.sparsify(made, 0.5)
    assert isinstance(made.head, compress.SparseDense)
    assert np.array_equal(made.head.weight.numpy(), weight.numpy())
    np.testing.assert_allclose(made(ids).detach().numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert len(made.generate(ids, max_new_tokens=2)[0]) > 0


def test_sparsify_keeps_hooks_and_modes() -> None:
    model = nn.Sequential([nn.Dense(8, in_features=8), nn.Dense(2, in_features=8)]).eval()
    seen: list[str] = []
    remove = model[0].register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    compress.sparsify(model, 0.0)
    _ = model(mg.ones((1, 8)))
    assert seen == ["SparseDense"]
    assert not model[0].training
    remove()
    _ = model(mg.ones((1, 8)))
    assert seen == ["SparseDense"]
