"""Transforms: identities, involutions, exact rotations, weights that follow the pixels, and dtypes that stay."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import data
from minigrad.data import transforms as T
from minigrad.data.transforms.affine import inverse_matrices
from minigrad.errors import DTypeError, ShapeError

DTYPES = [np.uint8, np.int16, np.int32, mg.bfloat16, np.float16, np.float32, np.float64]
seeds = st.integers(0, 2**32)


@st.composite
def batches(draw: st.DrawFn, channels: int | None = None, square: bool = False) -> Any:
    """Images of any dtype; floats from 0 to 1."""
    n, height, width = (draw(st.integers(1, 6)) for _ in range(3))
    number = draw(st.sampled_from([None, 1, 3])) if channels is None else channels
    shape = (n, *(() if number is None else (number,)), height, height if square else width)
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    rng = np.random.default_rng(draw(seeds))
    x = rng.random(shape)
    return (x * min(np.iinfo(dtype).max, 255)).astype(dtype) if dtype.kind in "iu" else x.astype(dtype)


IDENTITIES = [
    T.RandomCrop(),
    T.RandomCrop(padding=0),
    T.RandomHorizontalFlip(0.0),
    T.RandomVerticalFlip(0.0),
    T.RandomRotation(0.0),
    T.RandomRotation(0.0, order=3),
    T.RandomScale((1.0, 1.0)),
    T.RandomAffine(),
    T.RandomAffine((720, 720)),
    T.ColorJitter(),
    T.Cutout(0),
    T.RandomErasing(0.0),
    T.RandomErasing(1.0, scale=(0.0, 0.0)),
    T.Compose([]),
]


@pytest.mark.parametrize("transform", IDENTITIES, ids=lambda t: type(t).__name__)
@given(images=batches(), seed=seeds)
def test_identity_parameters_give_the_input(transform: T.Transform, images: Any, seed: int) -> None:
    out = transform(images, seed)
    np.testing.assert_array_equal(out, images, strict=True)
    resized = T.Resize(images.shape[-2:])(images)
    np.testing.assert_array_equal(resized, images, strict=True)


ALL: list[Callable[[], T.Transform]] = [
    lambda: T.RandomCrop(padding=2),
    lambda: T.RandomCrop((1, 1), padding=1, mode="edge"),
    lambda: T.RandomHorizontalFlip(),
    lambda: T.RandomVerticalFlip(),
    lambda: T.RandomAffine(30, translate=0.2, scale=(0.7, 1.3), shear=10),
    lambda: T.RandomAffine(30, translate=(0.5, 0.0), order=0, mode="nearest"),
    lambda: T.RandomRotation(180, order=3, mode="reflect"),
    lambda: T.RandomScale((0.5, 2.0), mode="wrap"),
    lambda: T.Cutout(3),
    lambda: T.RandomErasing(),
    lambda: T.Resize((4, 7), interpolation="bicubic"),
]


@pytest.mark.parametrize("make", ALL, ids=lambda make: type(make()).__name__)
@given(images=batches(), seed=seeds)
def test_dtype_stays_and_the_batch_too(make: Callable[[], T.Transform], images: Any, seed: int) -> None:
    transform, before, labels = make(), images.copy(), np.arange(len(images))
    out, same = transform((images, labels), seed)
    assert same is labels
    assert out.dtype == images.dtype
    assert out.shape[:-2] == images.shape[:-2]
    assert not np.shares_memory(out, images)
    np.testing.assert_array_equal(images, before)
    again, _ = transform((mg.asarray(images), labels), np.random.default_rng(seed))
    np.testing.assert_array_equal(out, again)


@pytest.mark.parametrize("make", ALL[:2] + ALL[4:10], ids=lambda make: type(make()).__name__)
def test_images_of_a_batch_get_parameters_of_their_own(make: Callable[[], T.Transform]) -> None:
    images = np.repeat(np.random.default_rng(0).random((1, 3, 9, 9)), 16, axis=0)
    assert len({image.tobytes() for image in make()(images, 1)}) > 4


@pytest.mark.parametrize(
    "make", [m for m in ALL if type(m()).__name__ not in ("Resize",)][:9], ids=lambda m: type(m()).__name__
)
@given(images=batches(), seed=seeds)
def test_values_stay_in_range(make: Callable[[], T.Transform], images: Any, seed: int) -> None:
    """Interpolation of order 0 and 1 makes weighted means of what is there and of the fill."""
    transform = make()
    if getattr(transform, "order", 0) > 1:
        return
    out = transform(images, seed).astype(np.float64)
    low, high = min(0.0, float(images.min())), float(images.max())
    tolerance = 0.0 if np.dtype(images.dtype).kind in "iu" else 1e-6
    assert low - tolerance <= out.min() <= out.max() <= high + tolerance


# --- crops and flips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [T.RandomHorizontalFlip(1.0), T.RandomVerticalFlip(1.0)])
@given(images=batches())
def test_flips_are_involutions(flip: T.Transform, images: Any) -> None:
    axis = -1 if type(flip) is T.RandomHorizontalFlip else -2
    np.testing.assert_array_equal(flip(images), np.flip(images, axis), strict=True)
    np.testing.assert_array_equal(flip(flip(images)), images, strict=True)


def test_flips_take_a_share() -> None:
    images = np.broadcast_to(np.arange(2.0), (4000, 1, 2))
    flipped = T.RandomHorizontalFlip(0.25)(images, 0)[:, 0, 0]
    assert abs(flipped.mean() - 0.25) < 0.03


@given(batches(), st.integers(0, 3), seeds)
def test_crops_are_windows(images: Any, padding: int, seed: int) -> None:
    height, width = images.shape[-2:]
    out = T.RandomCrop((max(1, height - 1), width), padding=padding, fill=9)(images, seed)
    sides = [(0, 0)] * (images.ndim - 2) + [(padding, padding)] * 2
    padded = np.pad(images, sides, constant_values=9)
    for image, window in zip(padded, out):
        places = [
            (top, left)
            for top in range(image.shape[-2] - window.shape[-2] + 1)
            for left in range(image.shape[-1] - window.shape[-1] + 1)
            if (image[..., top : top + window.shape[-2], left : left + window.shape[-1]] == window).all()
        ]
        assert places


# --- affine maps -----------------------------------------------------------------------------------------------------


@given(batches(square=True), st.integers(-5, 5), st.sampled_from([0, 1, 3]))
def test_quarter_turns_are_exact(images: Any, turns: int, order: int) -> None:
    out = T.RandomRotation((90 * turns, 90 * turns), order=order)(images)
    want = np.rot90(images, turns, axes=(-2, -1))
    if order < 2:
        np.testing.assert_array_equal(out, want, strict=True)
    else:  # the spline is fitted first
        np.testing.assert_allclose(
            out.astype(float), want.astype(float), atol=1e-2 if out.dtype.itemsize == 2 else 1e-4
        )


@given(*[st.floats(-400, 400)] * 2, *[st.floats(0.2, 4)] * 2)
def test_rotations_and_scales_compose(a: float, b: float, s: float, t: float) -> None:
    one = np.ones(1)
    first, second = inverse_matrices(one * a, one * s, 0 * one)[0], inverse_matrices(one * b, one * t, 0 * one)[0]
    both = inverse_matrices(one * (a + b), one * s * t, 0 * one)[0]
    np.testing.assert_allclose(first @ second, both, atol=1e-11)


@given(st.floats(-180, 180), st.floats(0.2, 4), st.floats(-80, 80))
def test_the_matrix_is_the_inverse_of_what_is_documented(angle: float, scale: float, shear: float) -> None:
    one, (c, s) = np.ones(1), (np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle)))
    # counterclockwise as one sees it, with rows counted downward: the pixel right of the center moves up
    forward = np.array([[c, -s], [s, c]]) @ np.array([[1, 0], [np.tan(np.deg2rad(shear)), 1]]) * scale
    np.testing.assert_allclose(
        inverse_matrices(one * angle, one * scale, one * shear)[0] @ forward, np.eye(2), atol=1e-9
    )
    if angle == 90:
        assert forward @ [0, 1] == [-1, 0]


def test_shifts_of_whole_pixels_move_the_image() -> None:
    images = np.random.default_rng(0).random((1, 8, 8))
    moved = T.RandomAffine(translate=0.25)
    moved.translate = [0.25, 0.125]

    class Most:
        """Draws the largest of every range."""

        def uniform(self, low: Any, high: Any, size: Any) -> Any:
            return np.broadcast_to(high, size).astype(float)

    out = moved.apply(images, Most())  # type: ignore[arg-type]
    want = np.zeros_like(images)
    want[:, 2:, 1:] = images[:, :-2, :-1]
    np.testing.assert_allclose(out, want, atol=1e-12)
    twice = moved.apply(out, Most())  # type: ignore[arg-type]
    np.testing.assert_allclose(twice[:, 4:, 2:], images[:, :-4, :-2], atol=1e-12)


def test_smooth_images_turn_back() -> None:
    row, column = np.mgrid[:64, :64] - 31.5
    image = np.exp(-(((row - 6) / 9) ** 2) - ((column + 3) / 7) ** 2)[None]
    turned = T.RandomRotation((33, 33), order=3)(image)
    center = (turned[0] * row).sum() / turned.sum(), (turned[0] * column).sum() / turned.sum()
    c, s = np.cos(np.deg2rad(33)), np.sin(np.deg2rad(33))
    np.testing.assert_allclose(center, (c * 6 - s * -3, s * 6 + c * -3), atol=0.02)  # where the documented map takes it
    np.testing.assert_allclose(T.RandomRotation((-33, -33), order=3)(turned), image, atol=2e-3)
    smaller = T.RandomScale((0.5, 0.5), order=3)(image)
    assert abs(smaller.sum() / image.sum() - 0.25) < 1e-3


def test_resize_keeps_means() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 8)).astype(np.uint8)
    small = T.Resize((6, 4), interpolation="box")(images)
    want = images.reshape(2, 3, 6, 2, 4, 2).mean(axis=(3, 5))
    assert abs(small - want).max() <= 0.5
    for dtype in (np.int16, np.float32):
        np.testing.assert_allclose(T.Resize((6, 4), interpolation="box")(images.astype(dtype)), want, atol=0.5)


# --- color -----------------------------------------------------------------------------------------------------------


@given(batches(channels=3), seeds)
def test_colors_stay_in_range_and_dtype(images: Any, seed: int) -> None:
    top = np.iinfo(images.dtype).max if np.dtype(images.dtype).kind in "iu" else 1
    out = T.ColorJitter(0.8, 0.8, 0.8, 0.5)(images, seed)
    assert out.dtype == images.dtype
    assert 0 <= out.min() <= out.max() <= top


def test_each_change_of_color_is_what_it_says() -> None:
    x = np.random.default_rng(0).random((4, 3, 5, 6))
    np.testing.assert_allclose(T.ColorJitter(brightness=(1.5, 1.5))(x), np.minimum(1.5 * x, 1))
    y = np.tensordot(x, [0.299, 0.587, 0.114], ([1], [0]))[:, None]
    mean = y.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(T.ColorJitter(contrast=(0.5, 0.5))(x), mean + 0.5 * (x - mean))
    np.testing.assert_allclose(T.ColorJitter(contrast=(0, 0))(x), np.broadcast_to(mean, x.shape))
    np.testing.assert_allclose(T.ColorJitter(saturation=(0, 0))(x), np.broadcast_to(y, x.shape))
    turned = T.ColorJitter(hue=(0.3, 0.3))(x)
    for before, after in zip(np.moveaxis(x, 1, -1).reshape(-1, 3), np.moveaxis(turned, 1, -1).reshape(-1, 3)):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb((hue + 0.3) % 1, saturation, value), atol=1e-12)
    gray = x[:, 0]
    np.testing.assert_allclose(
        T.ColorJitter(contrast=(0, 0))(gray), np.broadcast_to(gray.mean((1, 2), keepdims=True), gray.shape)
    )


# --- erasing and mixing ----------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 12), seeds)
def test_cutout_paints_a_part_of_a_square(height: int, width: int, size: int, seed: int) -> None:
    images = np.ones((5, 2, height, width), np.uint8)
    out = T.Cutout(size, fill=7)(images, seed)
    for image in out:
        rows, columns = ((image[0] == 7).any(axis=axis) for axis in (1, 0))
        assert (image == np.where(rows[:, None] & columns, 7, 1)).all()
        assert rows.sum() <= size
        assert columns.sum() <= size
        assert (rows.sum() >= -(-min(size, height) // 2)) or size == 0


def test_erased_areas_are_within_their_range() -> None:
    images = np.ones((500, 40, 50))
    erased = (T.RandomErasing(0.5, scale=(0.1, 0.2), ratio=(0.5, 2.0))(images, 0) == 0).mean(axis=(1, 2))
    chosen = erased > 0
    assert 0.4 < chosen.mean() < 0.6
    assert 0.09 < erased[chosen].min() < erased[chosen].max() < 0.21
    assert len(set(erased)) > 50


@pytest.mark.parametrize("kind", [T.MixUp, T.CutMix])
@given(images=batches(), alpha=st.sampled_from([0.0, 0.2, 1.0, 5.0]), soft=st.booleans(), seed=seeds)
def test_targets_follow_the_pixels(kind: Any, images: Any, alpha: float, soft: bool, seed: int) -> None:
    """Image k shows k everywhere: the mean of a mixed one tells the weights, and so must the targets."""
    n = len(images)
    images = np.zeros_like(images) + np.arange(n).reshape((-1,) + (1,) * (images.ndim - 1)).astype(images.dtype)
    labels = np.eye(n) if soft else np.arange(n)
    mixed, targets = kind(alpha, num_classes=n)((images, labels), seed)
    assert mixed.dtype == images.dtype
    assert targets.dtype == (np.float64 if soft else np.float32)
    assert targets.min() >= 0
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert ((targets > 1e-12).sum(axis=1) <= 2).all()
    if alpha == 0:
        np.testing.assert_array_equal(mixed, images)
        np.testing.assert_array_equal(targets, np.eye(n))
    if kind is T.CutMix or images.dtype.kind == "f":
        shown = mixed.astype(np.float64).reshape(n, -1).mean(axis=1)
        np.testing.assert_allclose(shown, targets @ np.arange(n), atol=2e-2 if images.dtype.itemsize < 4 else 1e-5)


def test_weights_differ_within_a_batch() -> None:
    for kind in (T.MixUp, T.CutMix):
        _, targets = kind(1.0)((np.zeros((32, 9, 9)), np.eye(32)), 0)
        assert len(set(targets.max(axis=1))) > 8


# --- chains, loaders, mistakes ---------------------------------------------------------------------------------------


def test_a_chain_in_a_loader() -> None:
    digits = data.load_digits()
    chain = T.Compose(
        [T.RandomCrop(padding=1), T.RandomRotation(10), T.Normalize(0.5, 0.25), T.MixUp(0.4, num_classes=10)]
    )
    assert not chain.draws_globally
    loader = data.DataLoader(
        data.TensorDataset(digits.train_images, digits.train_labels), 64, True, seed=0, transform=chain
    )
    images, targets = next(iter(loader))
    assert images.shape == (64, 8, 8)
    assert images.dtype == targets.dtype == mg.float32
    assert targets.shape == (64, 10)
    loader.epoch = 0
    assert bool((next(iter(loader))[0] == images).all())


def test_normalize_undoes_itself() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, (50, 2, 4, 4)).astype(np.float32)
    z = T.Normalize(x.mean((0, 2, 3)), x.std((0, 2, 3)))(x)
    np.testing.assert_allclose(z.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(z.std((0, 2, 3)), 1, atol=1e-6)
    np.testing.assert_allclose(
        T.Normalize(-x.mean() / x.std(), 1 / x.std())(T.Normalize(x.mean(), x.std())(x)), x, atol=1e-5
    )
    assert T.ToFloat()(x) is x


IMAGES = np.zeros((2, 3, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: T.RandomCrop(9)(IMAGES), ShapeError, "RandomCrop: size is (9, 9), needs at most (4, 4), the padded"),
        (lambda: T.RandomCrop(mode="x"), ValueError, "mode is 'x', needs one of 'constant'"),
        (lambda: T.RandomCrop((1, 2, 3)), ShapeError, "size is (1, 2, 3), needs an int, or height and width"),
        (lambda: T.RandomHorizontalFlip(1.5), ValueError, "p is 1.5, needs a probability"),
        (lambda: T.RandomRotation("x"), DTypeError, "RandomRotation: degrees is 'x', needs a number or a pair"),
        (lambda: T.RandomRotation((3, 1)), ValueError, "needs finite numbers, low <= high"),
        (lambda: T.RandomAffine(scale=(0, 1)), ValueError, "scale is (0.0, 1.0), needs numbers above 0"),
        (lambda: T.RandomAffine(shear=95), ValueError, "needs angles within -90 and 90"),
        (lambda: T.RandomAffine(translate=-1), ValueError, "translate is -1, needs one or two shares"),
        (lambda: T.RandomAffine(order=6), ValueError, "order is 6, needs 0 to 5"),
        (lambda: T.RandomAffine(mode="x"), ValueError, "mode is 'x', needs one of 'constant', 'nearest'"),
        (lambda: T.Resize(2, interpolation="x"), ValueError, "interpolation is 'x', needs one of 'nearest'"),
        (lambda: T.ColorJitter(hue=0.7), ValueError, "needs shares of the circle"),
        (lambda: T.ColorJitter(brightness=(-1, 1)), ValueError, "needs factors of at least 0"),
        (lambda: T.ColorJitter(hue=0.1)(IMAGES[:, :1]), ShapeError, "needs 3 channels"),
        (lambda: T.ColorJitter(0.1)(IMAGES - 1), ValueError, "values from 0 to 1. Normalize after it"),
        (lambda: T.RandomErasing(scale=(0, 2)), ValueError, "scale is (0.0, 2.0), needs shares"),
        (lambda: T.RandomErasing(ratio=(0, 2)), ValueError, "ratio is (0.0, 2.0), needs numbers above 0"),
        (lambda: T.MixUp(-1), ValueError, "alpha is -1, needs a finite number"),
        (lambda: T.MixUp()((IMAGES, [0, 1])), ValueError, "num_classes is None, needs the number of classes"),
        (lambda: T.MixUp(0.2, 2)((IMAGES, [0, 2])), ValueError, "targets is 0 to 2, needs 0 to 1"),
        (lambda: T.CutMix()(IMAGES), ShapeError, "CutMix: batch is float32 (2, 3, 4, 4), needs a pair"),
        (lambda: T.CutMix()((IMAGES, np.zeros(2))), DTypeError, "needs integers of shape (2,), or floating weights"),
        (lambda: T.Normalize(0, 0), ValueError, "std is 0.0, needs finite numbers above 0"),
        (lambda: T.Normalize([0, 1], 1)(IMAGES), ShapeError, "mean is 2 numbers, needs 1 or 3, the channels"),
        (lambda: T.Normalize(0, 1)(IMAGES.astype(np.uint8)), DTypeError, "a floating dtype. Put ToFloat() before it"),
        (lambda: T.Cutout(1)(IMAGES[0, 0]), ShapeError, "Cutout: batch is float32 (4, 4), needs images (batch,"),
        (lambda: T.Cutout(1)({"x": IMAGES}), ShapeError, "batch is a dict, needs images"),
        (lambda: T.Cutout(1)(IMAGES.astype(complex)), DTypeError, "needs an integer or floating dtype"),
        (lambda: T.Transform()(IMAGES), NotImplementedError, "Transform: needs a method apply"),
    ],
)
def test_transforms_say_what_they_need(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert text in str(raised.value)


@pytest.mark.parametrize(("make", "package"), [(lambda: T.RandomRotation(9), "scipy"), (lambda: T.Resize(2), "Pillow")])
def test_missing_packages_are_named(make: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, package: str | None = None) -> Any:
        raise ImportError(f"no {name}")

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(ImportError, match=rf"needs {package}, which is not installed: pip install 'minigrad\[data\]'"):
        make()(IMAGES)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 4, 4), (2, 3, 0, 4), (2, 0, 4, 4)])
@pytest.mark.parametrize("name", ["RandomAffine", "RandomRotation", "RandomScale", "Cutout", "RandomErasing"])
def test_batches_without_a_pixel_stay_so(name, shape):
    arguments = {"RandomAffine": (10.0,), "RandomRotation": (10.0,), "RandomScale": ((0.5, 2.0),), "Cutout": (2,)}
    images = np.zeros(shape, np.uint8)
    found = getattr(T, name)(*arguments.get(name, ()))(images, rng=0)
    assert found.shape == shape
    assert found.dtype == np.uint8
