"""minigrad.random and its kernels: known answers, the properties of a counter, the distributions, and bad arguments."""

import copy
import hashlib
import itertools
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import minigrad.random as random
from minigrad._core import philox
from minigrad.errors import DeviceError, DTypeError, ShapeError
from minigrad.random import Generator

WORD = 1 << 64
words = st.integers(0, WORD - 1)

# Every fill function and dtype, each as fill(key, counter, out)
FILLS = {
    "bits32": (philox.fill_bits, np.uint32),
    "bits64": (philox.fill_bits, np.uint64),
    "uniform32": (philox.fill_uniform, np.float32),
    "uniform64": (philox.fill_uniform, np.float64),
    "exponential32": (philox.fill_exponential, np.float32),
    "exponential64": (philox.fill_exponential, np.float64),
    "normal32": (philox.fill_normal, np.float32),
    "normal64": (philox.fill_normal, np.float64),
    "truncated64": (lambda key, counter, out: philox.fill_truncated_normal(key, counter, 0.25, 0.75, out), np.float64),
    "keep8": (lambda key, counter, out: philox.fill_keep_mask(key, counter, 0.3, out), np.uint8),
    "below64": (lambda key, counter, out: philox.fill_below(key, counter, 1000, out), np.uint64),
}
every_fill = pytest.mark.parametrize("name", FILLS)


def filled(name, key, counter, n):
    fill, dtype = FILLS[name]
    out = np.empty(n, dtype)
    fill(key, counter, out)
    return out


def plausible(p_value):
    """Deterministic draws: a seed that passes passes for ever, so the level only has to catch what is wrong."""
    assert p_value > 1e-3


def twin(key, counter, block):
    """Philox4x32-10 once more, as the paper writes it."""
    c = [block % 2**32, block >> 32, counter % 2**32, counter >> 32]
    k = [key % 2**32, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


class TestKernels:
    @pytest.mark.parametrize(
        ("key", "counter", "block", "answer"),
        [
            (0, 0, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
            (WORD - 1, WORD - 1, WORD - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
            (0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88, "d16cfe09 94fdcceb 5001e420 24126ea1"),
        ],
    )
    def test_known_answers_of_random123(self, key, counter, block, answer):
        out = np.empty(4, np.uint32)
        philox.fill_bits(key, counter, out, block)
        assert " ".join(f"{word:08x}" for word in out) == answer

    @given(words, words, words, st.integers(0, 600))
    def test_bits_are_those_of_the_twin_in_order(self, key, counter, first, n):
        out = np.empty(n, np.uint32)
        philox.fill_bits(key, counter, out, first)
        blocks = (twin(key, counter, (first + j) % WORD) for j in range((n + 3) // 4))
        assert out.tolist() == list(itertools.chain(*blocks))[:n]

    def test_64_bits_are_pairs_of_32(self):
        pairs = filled("bits32", 5, 6, 1000).reshape(-1, 2).astype(np.uint64)
        np.testing.assert_array_equal(filled("bits64", 5, 6, 500), pairs[:, 0] << np.uint64(32) | pairs[:, 1])

    @every_fill
    def test_an_element_does_not_depend_on_the_length(self, name):
        longest = filled(name, 3, 4, 20_011)  # beyond the length from which the GIL is released
        for n in [*range(10), 63, 64, 65, 127, 129, 255, 256, 257, 511, 513, 9_999, 10_000]:
            np.testing.assert_array_equal(filled(name, 3, 4, n), longest[:n])

    @every_fill
    def test_key_and_counter_both_matter(self, name):
        draws = [filled(name, key, counter, 64).tobytes() for key in (0, 1, 2**32) for counter in (0, 1, 2**32)]
        assert len(set(draws)) == 9

    @every_fill
    def test_arrays_of_another_dtype_or_layout_are_refused(self, name):
        fill, dtype = FILLS[name]
        with pytest.raises((TypeError, ValueError)):
            fill(0, 0, np.empty(8, np.int16))
        with pytest.raises(ValueError, match="contiguous"):
            fill(0, 0, np.empty(8, dtype)[::2])
        frozen = np.empty(8, dtype)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            fill(0, 0, frozen)

    @pytest.mark.parametrize(
        ("name", "digest"),
        [
            ("uniform32", "e95ce450cd4c3c70"),
            ("uniform64", "2272d6eece3f2e8f"),
            ("exponential32", "3fb00e0c882f2cbd"),
            ("exponential64", "85a16c56b2dd01af"),
            ("normal32", "12c1efc32e37459e"),
            ("normal64", "39f310abd7f02dd1"),
            ("truncated64", "a0c16248c29d4294"),
        ],
    )
    def test_every_machine_draws_the_same_bits(self, name, digest):
        # pinned: a fused multiply-add, a libm or another order of the operations shows here
        values = filled(name, 2011, 10, 100_000)
        assert hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()[:16] == digest

    def test_recipe_of_uniform(self):
        bits = filled("bits32", 1, 2, 4000)
        np.testing.assert_array_equal(filled("uniform32", 1, 2, 4000), (bits >> 8) * 2.0**-24)
        np.testing.assert_array_equal(filled("uniform64", 1, 2, 2000), self.unit64(bits))

    @staticmethod
    def unit64(bits):
        high, low = bits.reshape(-1, 2).astype(np.float64).T
        return (np.floor(high / 2**5) * 2**26 + np.floor(low / 2**6)) / 2**53

    @staticmethod
    def open32(bits):
        return ((bits >> 1).astype(np.float32) + np.float32(0.5)).astype(np.float64) / 2**31

    def test_recipe_of_exponential(self):
        bits = filled("bits32", 1, 2, 100_000)
        np.testing.assert_allclose(filled("exponential32", 1, 2, 100_000), -np.log(self.open32(bits)), rtol=2e-7)
        u = self.unit64(bits) + 2.0**-54
        np.testing.assert_allclose(filled("exponential64", 1, 2, 50_000), -np.log(u), rtol=5e-16)

    @staticmethod
    def on_circle(radius, word, fraction=0.0):
        """Pairs r cos(t), r sin(t) of t = 2 pi (word + fraction) / 2**32; quarters are split off, as they are exact."""
        quarter = np.round(word / 2**30)
        rest = (word - quarter * 2**30 + fraction) * (2 * np.pi / 2**32)
        return (radius * np.exp(1j * rest) * np.array([1, 1j, -1, -1j])[quarter.astype(int) % 4]).view(np.float64)

    def test_recipe_of_normal(self):
        bits = filled("bits32", 1, 2, 100_000)
        wanted = self.on_circle(np.sqrt(-2 * np.log(self.open32(bits[0::2]))), bits[1::2].astype(np.float64))
        np.testing.assert_allclose(filled("normal32", 1, 2, 100_000), wanted, rtol=4e-7, atol=0)

        w2, w3 = bits.reshape(-1, 4)[:, 2:].astype(np.float64).T
        radius = np.sqrt(-2 * np.log(self.unit64(bits)[0::2] + 2.0**-54))
        wanted = self.on_circle(radius, w2, np.floor(w3 / 2**8) / 2**24)
        np.testing.assert_allclose(filled("normal64", 1, 2, 50_000), wanted, rtol=1e-15, atol=0)

    @pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.02, 0.98), (1e-20, 1e-5), (0.0, 1e-289), (0.5, 1.0)])
    def test_recipe_of_truncated_normal(self, bounds):
        low, high = bounds
        out = np.empty(50_000)
        philox.fill_truncated_normal(1, 2, low, high, out)
        p = low + (high - low) * (self.unit64(filled("bits32", 1, 2, 100_000)) + 2.0**-54)
        np.testing.assert_allclose(out, special.ndtri(p), rtol=4e-15, atol=4e-15)

    @given(words, st.integers(1, WORD) | st.sampled_from([1, 2**32 - 1, 2**32, 2**63, WORD - 1, WORD]))
    def test_recipe_of_below(self, key, span):
        out = np.empty(20, np.uint64)
        philox.fill_below(key, 0, span % WORD, out)
        stream = list(itertools.chain(*(twin(key, 0, block) for block in range(20))))
        count = 2 if span < 2**32 else 4
        for value, *taken in zip(out.tolist(), *(stream[k::count] for k in range(count)), strict=False):
            bits = sum(word << 32 * k for k, word in enumerate(reversed(taken)))
            assert value == bits * span >> 32 * count

    def test_recipe_of_permutation(self):
        out = np.empty(300, np.int64)
        philox.fill_permutation(1, 2, out)
        wanted = []
        for i in range(300):
            w0, w1, w2, w3 = twin(1, 2, i)
            wanted.append(i)
            j = (w0 << 96 | w1 << 64 | w2 << 32 | w3) * (i + 1) >> 128
            wanted[i], wanted[j] = wanted[j], i
        assert out.tolist() == wanted

    @pytest.mark.parametrize("rate", [0.0, 2.0**-32, 0.1, 0.5, 1 - 2.0**-32, 1.0])
    def test_recipe_of_keep_mask(self, rate):
        mask = np.empty(10_001, np.uint8)
        philox.fill_keep_mask(1, 2, rate, mask)
        np.testing.assert_array_equal(mask, filled("bits32", 1, 2, 10_001) >= rate * 2.0**32)

    @pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
    def test_keep_mask_refuses_what_is_no_probability(self, rate):
        with pytest.raises(ValueError, match="0 <= rate <= 1"):
            philox.fill_keep_mask(0, 0, rate, np.empty(4, np.uint8))


class TestBits:
    """What a counter-based generator could get wrong: neighbors in index, counter or key that know of each other."""

    @pytest.mark.parametrize("axis", ["index", "counter", "key"])
    def test_neighbors_are_independent(self, axis):
        if axis == "index":
            rows = filled("bits32", 9, 9, 40_000)
        elif axis == "counter":
            rows = np.array([filled("bits32", 9, i, 4) for i in range(10_000)]).ravel()
        else:
            rows = np.array([filled("bits32", i, 9, 4) for i in range(10_000)]).ravel()
        cells = np.histogram2d(rows[:-4] >> 28, rows[4:] >> 28, bins=16)[0].ravel()
        plausible(stats.chisquare(cells).pvalue)

    def test_every_bit_is_fair(self):
        bits = np.unpackbits(filled("bits32", 9, 9, 50_000).view(np.uint8)).reshape(-1, 32)
        plausible(stats.chi2.sf(np.sum((2 * bits.sum(axis=0) - 50_000.0) ** 2 / 50_000), 32))


class TestGenerator:
    def test_a_seed_determines_everything(self):
        for draw in DRAWS.values():
            first, second, other = (draw(Generator(seed)).numpy() for seed in (5, 5, 6))
            np.testing.assert_array_equal(first, second)
            assert first.tobytes() != other.tobytes()

    def test_every_draw_takes_one_counter(self):
        generator = Generator(5)
        for count, draw in enumerate(DRAWS.values()):
            assert generator.get_state()["counter"] == count
            draw(generator)
        assert generator.draw_key() == (5, len(DRAWS))

    def test_state_survives_json(self):
        generator = Generator(WORD - 1)
        generator.normal(10)
        state = json.loads(json.dumps(generator.get_state()))
        wanted = generator.normal(10).numpy().tolist()
        restored = Generator(0)
        restored.set_state(state)
        assert restored.normal(10).numpy().tolist() == wanted
        assert restored.seed == WORD - 1

    @pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
    def test_copies_go_their_own_way(self, clone):
        generator = Generator(5)
        generator.normal(10)
        twin = clone(generator)
        assert twin.normal(10).numpy().tolist() == generator.normal(10).numpy().tolist()
        twin.normal(10)
        assert twin.get_state()["counter"] == generator.get_state()["counter"] + 1

    def test_counter_wraps(self):
        generator = Generator(5)
        generator.set_state({**generator.get_state(), "counter": WORD - 1})
        assert [generator.draw_key()[1], generator.draw_key()[1]] == [WORD - 1, 0]

    def test_without_a_seed_generators_differ(self):
        assert Generator().seed != Generator().seed

    def test_spawned_generators_do_not_depend_on_how_many(self):
        seeds = [[child.seed for child in Generator(5).spawn(n)] for n in (0, 3, 8)]
        assert seeds[0] == []
        assert seeds[1] == seeds[2][:3]
        assert len(set(seeds[2])) == 8

    def test_spawned_generators_are_independent(self):
        parent = Generator(5)
        children = [*parent.spawn(4), *parent.spawn(4), parent]
        draws = np.stack([child.normal(20_000).numpy() for child in children])
        correlation = np.corrcoef(draws)[np.triu_indices(9, 1)]
        plausible(stats.chi2.sf(20_000 * np.sum(correlation**2), len(correlation)))

    def test_threads_never_share_a_counter(self):
        generator = Generator(5)
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(lambda _: [generator.draw_key()[1] for _ in range(500)], range(16)))
        assert sorted(itertools.chain(*taken)) == list(range(8000))

    def test_threads_make_the_draws_one_thread_makes(self):
        alone, shared = Generator(5), Generator(5)
        wanted = sorted(alone.normal(20_000).numpy().tobytes() for _ in range(16))
        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(lambda _: shared.normal(20_000).numpy().tobytes(), range(16))) == wanted

    def test_module_functions_are_the_default_generator(self):
        state = random.get_state()
        try:
            random.seed(5)
            drawn = [draw(random).numpy().tolist() for draw in DRAWS.values()]
            assert random.draw_key() == (5, len(DRAWS))
            generator = Generator(5)
            assert drawn == [draw(generator).numpy().tolist() for draw in DRAWS.values()]
        finally:
            random.set_state(state)
        assert random.get_state() == state

    def test_repr_says_where_it_is(self):
        generator = Generator(5)
        generator.draw_key()
        assert repr(generator) == "Generator(seed=5, counter=1)"


DRAWS = {
    "uniform": lambda g: g.uniform(40, -1.0, 2.0),
    "normal": lambda g: g.normal(40, 1.0, 2.0),
    "truncated_normal": lambda g: g.truncated_normal(40),
    "exponential": lambda g: g.exponential(40),
    "integers": lambda g: g.integers(-100, 100, 40),
    "bernoulli": lambda g: g.bernoulli(0.5, 80),
    "permutation": lambda g: g.permutation(40),
    "choice": lambda g: g.choice(100, 40),
    "choice_weighted": lambda g: g.choice(100, 40, p=np.arange(100)),
    "choice_once": lambda g: g.choice(100, 40, replace=False),
    "choice_once_weighted": lambda g: g.choice(100, 40, replace=False, p=np.arange(100)),
}
SHAPED = ["uniform", "normal", "truncated_normal", "exponential", "bernoulli", "integers", "choice", "choice_weighted"]
FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
floating = pytest.mark.parametrize("dtype", FLOATS)


def shaped(name, generator, shape):
    calls = {
        "bernoulli": partial(generator.bernoulli, 0.5),
        "integers": partial(generator.integers, 0, 9),
        "choice": partial(generator.choice, 9),
        "choice_weighted": partial(generator.choice, 9, p=np.ones(9)),
    }
    return calls.get(name, getattr(generator, name, None))(shape=shape)


class TestResults:
    @pytest.mark.parametrize("name", SHAPED)
    @pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4), 5, [2, 2], np.int64(3)])
    def test_shapes(self, name, shape):
        x = shaped(name, Generator(1), shape)
        assert x.shape == (tuple(shape) if isinstance(shape, (tuple, list)) else (int(shape),))
        assert isinstance(x.numpy(), np.ndarray)

    @floating
    @pytest.mark.parametrize("name", ["uniform", "normal", "truncated_normal", "exponential"])
    def test_floating_dtypes(self, name, dtype):
        x = getattr(Generator(1), name)((50,), dtype=dtype, device="cpu", requires_grad=True)
        assert x.dtype == np.dtype(dtype)
        assert x.requires_grad
        assert not getattr(Generator(1), name)().requires_grad
        assert getattr(Generator(1), name)().dtype == np.float32

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("name", ["uniform", "normal", "exponential"])
    def test_half_types_are_float32_rounded_once(self, name, dtype):
        half = getattr(Generator(1), name)((1000,), dtype=dtype).numpy()
        wanted = getattr(Generator(1), name)((1000,)).numpy().astype(dtype)
        np.testing.assert_array_equal(half[wanted != 1], wanted[wanted != 1])

    @floating
    @pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (3.0, 3.1), (-1e-3, 0.0), (-3e4, 3e4)])
    def test_uniform_is_half_open(self, dtype, bounds):
        x = Generator(1).uniform((200_000,), *bounds, dtype=dtype).numpy()
        low, high = np.dtype(dtype).type(bounds[0]), np.dtype(dtype).type(bounds[1])
        assert low <= x.min()
        assert x.max() < high

    def test_uniform_across_the_whole_range_is_finite(self):
        x = Generator(1).uniform((1000,), -1e38, 1e38).numpy()
        assert -1e38 <= x.min() < -9e37
        assert 9e37 < x.max() < 1e38

    @pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
    def test_integers_reach_both_ends_of_their_dtype(self, dtype):
        limits = np.iinfo(dtype)
        for low, high in [(int(limits.min), int(limits.min) + 2), (int(limits.max) - 1, int(limits.max) + 1)]:
            x = Generator(1).integers(low, high, (64,), dtype=dtype)
            assert x.dtype == np.dtype(dtype)
            assert set(x.numpy().tolist()) == {low, high - 1}
        x = Generator(1).integers(int(limits.min), int(limits.max) + 1, (1000,), dtype=dtype).numpy()
        plausible(stats.kstest(x.astype(float), stats.uniform(float(limits.min), 2.0**limits.bits).cdf).pvalue)

    def test_bernoulli_takes_a_probability_for_each_element(self):
        x = Generator(1).bernoulli([[0.0], [1.0]], (3, 2, 4), dtype=np.float32)
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x.numpy(), np.broadcast_to([[0.0], [1.0]], (3, 2, 4)))

    def test_bernoulli_is_the_complement_of_the_keep_mask(self):
        mask = np.empty(1000, np.uint8)
        philox.fill_keep_mask(1, 0, 0.3, mask)
        np.testing.assert_array_equal(Generator(1).bernoulli(0.3, 1000).numpy(), mask == 0)

    @pytest.mark.parametrize("n", [0, 1, 1000])
    def test_permutation_has_every_number_once(self, n):
        x = Generator(1).permutation(n)
        assert x.dtype == np.int64
        np.testing.assert_array_equal(np.sort(x.numpy()), np.arange(n))

    def test_permutation_of_an_array_moves_rows(self):
        rows = np.arange(20.0).reshape(10, 2)
        order = Generator(1).permutation(10).numpy()
        np.testing.assert_array_equal(Generator(1).permutation(rows).numpy(), rows[order])

    def test_gradients_go_back_through_a_permutation(self):
        generator = Generator(1)
        x = generator.normal((10, 2), requires_grad=True)
        weight = generator.normal((10, 2))
        order = copy.copy(generator).permutation(10).numpy()
        (generator.permutation(x) * weight).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy()[order], weight.numpy())

    def test_choice_takes_items_along_the_first_axis(self):
        rows = np.arange(20.0).reshape(10, 2)
        index = Generator(1).choice(10, (3, 4)).numpy()
        np.testing.assert_array_equal(Generator(1).choice(rows, (3, 4)).numpy(), rows[index])

    def test_choice_without_replacement_has_no_item_twice(self):
        for p in (None, np.arange(1, 51)):
            assert sorted(Generator(1).choice(50, (5, 10), replace=False, p=p).numpy().ravel()) == list(range(50))


class TestDistributions:
    N = 100_000

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_uniform(self, dtype):
        x = Generator(12).uniform(self.N, -2.0, 3.0, dtype=dtype).numpy()
        plausible(stats.kstest(x, stats.uniform(-2, 5).cdf).pvalue)
        plausible(stats.chisquare(np.histogram(x, 100, (-2, 3))[0]).pvalue)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_normal(self, dtype):
        x = Generator(12).normal(self.N, 1.0, 0.5, dtype=dtype).numpy()
        plausible(stats.kstest(x, stats.norm(1, 0.5).cdf).pvalue)
        plausible(stats.normaltest(x.astype(np.float64)).pvalue)

    def test_the_two_normals_of_a_pair_are_independent(self):
        x = Generator(12).normal((self.N, 2)).numpy()
        cells = np.histogramdd(special.ndtr(x), bins=10, range=[(0, 1)] * 2)[0]
        plausible(stats.chisquare(cells.ravel()).pvalue)

    @pytest.mark.parametrize("bounds", [(-2, 2), (0, np.inf), (-np.inf, -1), (4, 5), (9, np.inf), (-1, 30)])
    def test_truncated_normal(self, bounds):
        x = Generator(12).truncated_normal(self.N, 1.0, 0.5, *bounds, dtype=np.float64).numpy()
        assert bounds[0] <= (x.min() - 1) / 0.5
        assert (x.max() - 1) / 0.5 <= bounds[1]
        plausible(stats.kstest(x, stats.truncnorm(*bounds, 1, 0.5).cdf).pvalue)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_exponential(self, dtype):
        x = Generator(12).exponential(self.N, 2.0, dtype=dtype).numpy()
        plausible(stats.kstest(x, stats.expon(scale=2).cdf).pvalue)

    @pytest.mark.parametrize("span", [2, 6, 1000])
    def test_integers(self, span):
        x = Generator(12).integers(-3, span - 3, self.N).numpy()
        plausible(stats.chisquare(np.bincount(x + 3, minlength=span)).pvalue)

    def test_integers_of_a_span_that_64_bits_cannot_share_evenly(self):
        # by the remainder of 64 bits, the first third would come up twice as often
        x = Generator(12).integers(0, 3 << 62, self.N, dtype=np.uint64).numpy()
        plausible(stats.chisquare(np.bincount((x >> np.uint64(62)).astype(int), minlength=3)).pvalue)

    @pytest.mark.parametrize("p", [0.001, 0.3, 0.5, 0.9])
    def test_bernoulli(self, p):
        plausible(stats.binomtest(int(Generator(12).bernoulli(p, self.N).numpy().sum()), self.N, p).pvalue)

    def test_permutation(self):
        generator = Generator(12)
        orders = [tuple(generator.permutation(4).numpy().tolist()) for _ in range(6000)]
        counts = [orders.count(order) for order in itertools.permutations(range(4))]
        plausible(stats.chisquare(counts).pvalue)

    def test_choice(self):
        p = np.array([1.0, 0.0, 2.0, 3.0, 4.0])
        counts = np.bincount(Generator(12).choice(5, self.N, p=p).numpy(), minlength=5)
        assert counts[1] == 0
        plausible(stats.chisquare(counts[p > 0], self.N * p[p > 0] / p.sum()).pvalue)

    def test_choice_never_takes_an_item_of_weight_zero(self):
        for replace in (True, False):
            drawn = Generator(12).choice(4, 2, replace=replace, p=[0.0, 1.0, 5e-324, 0.0]).numpy()
            assert set(drawn.tolist()) <= {1, 2}

    def test_choice_without_replacement_draws_one_by_one_from_what_is_left(self):
        p, generator = np.array([0.1, 0.2, 0.3, 0.4]), Generator(12)
        pairs = [tuple(generator.choice(4, 2, replace=False, p=p).numpy().tolist()) for _ in range(6000)]
        orders = list(itertools.permutations(range(4), 2))
        wanted = [6000 * p[i] * p[j] / (1 - p[i]) for i, j in orders]
        plausible(stats.chisquare([pairs.count(order) for order in orders], wanted).pvalue)


BAD = [
    (lambda g: g.uniform((2, -1)), ShapeError, r"random.uniform: shape is \(2, -1\), needs extents of at least 0"),
    (lambda g: g.normal(2.5), DTypeError, "random.normal: shape is 2.5, needs an integer"),
    (lambda g: g.normal("ab"), DTypeError, "random.normal: shape is 'ab', needs an integer"),
    (lambda g: g.integers(0, 5, (-1,)), ShapeError, "random.integers: shape"),
    (lambda g: g.normal(3, dtype=np.int64), DTypeError, "random.normal: dtype is int64, needs a floating dtype"),
    (lambda g: g.uniform(3, dtype=np.complex64), DTypeError, "random.uniform: dtype is complex64"),
    (lambda g: g.uniform(3, dtype="float31"), DTypeError, "random.uniform: dtype"),
    (lambda g: g.uniform(3, 1.0, 1.0), ValueError, r"random.uniform: low, high is 1.0, 1.0, needs low < high"),
    (lambda g: g.uniform(3, 2.0, 1.0), ValueError, "low < high"),
    (lambda g: g.uniform(3, 1.0, 1.0 + 1e-9), ValueError, "low < high"),
    (lambda g: g.uniform(3, -3e38, 3e38), ValueError, "their difference finite, in float32"),
    (lambda g: g.uniform(3, np.nan, 1.0), ValueError, "random.uniform: low is nan, needs a finite number of float32"),
    (lambda g: g.uniform(3, 0.0, 1e5, dtype=np.float16), ValueError, "high is 100000.0, needs a finite .* float16"),
    (lambda g: g.uniform(3, "x"), DTypeError, "random.uniform: low is 'x', needs a number"),
    (lambda g: g.normal(3, 10**400), DTypeError, "random.normal: mean is 1000.*, needs a number"),
    (lambda g: g.normal(3, std=-1.0), ValueError, "random.normal: std is -1.0, needs at least 0"),
    (lambda g: g.normal(3, mean=np.inf), ValueError, "random.normal: mean is inf"),
    (lambda g: g.truncated_normal(3, low=2, high=2), ValueError, "random.truncated_normal: low, high is 2.0, 2.0"),
    (lambda g: g.truncated_normal(3, low=2, high=-2), ValueError, "low < high"),
    (lambda g: g.truncated_normal(3, low=50, high=60), ValueError, "less than 36 standard deviations"),
    (lambda g: g.truncated_normal(3, low=np.nan), ValueError, "low < high"),
    (lambda g: g.exponential(3, -1.0), ValueError, "random.exponential: scale is -1.0, needs at least 0"),
    (lambda g: g.integers(5, 5), ValueError, "random.integers: low, high is 5, 5, needs low < high"),
    (lambda g: g.integers(0, 300, dtype=np.uint8), ValueError, "both within 0 and 256 for uint8"),
    (lambda g: g.integers(-1, 3, dtype=np.uint8), ValueError, "both within 0 and 256"),
    (lambda g: g.integers(0.5, 3), DTypeError, "random.integers: low is 0.5, needs an integer"),
    (lambda g: g.integers(0, 3, dtype=np.float32), DTypeError, "dtype"),
    (lambda g: g.bernoulli(1.5), ValueError, r"random.bernoulli: p is 1.5 to 1.5, needs probabilities, 0 <= p <= 1"),
    (lambda g: g.bernoulli([0.5, -0.5]), ValueError, "-0.5 to 0.5"),
    (lambda g: g.bernoulli(np.nan), ValueError, "nan"),
    (lambda g: g.bernoulli([0.5, 0.5], (2, 3)), ShapeError, r"a shape that broadcasts to \(2, 3\)"),
    (lambda g: g.bernoulli("x"), DTypeError, "random.bernoulli: p"),
    (lambda g: g.permutation(-1), ValueError, "random.permutation: x is -1, needs at least 0"),
    (lambda g: g.permutation(2.5), ShapeError, "random.permutation: x is 2.5, needs an int, or at least one axis"),
    (lambda g: g.choice(3, 4, replace=False), ValueError, r"4 draws, needs at most 3, the items. Or draw with repl"),
    (lambda g: g.choice(3, 3, replace=False, p=[1, 1, 0]), ValueError, "at most 2"),
    (lambda g: g.choice(0, 1), ValueError, "at most 0"),
    (lambda g: g.choice(3, 1, p=[1, 1]), ShapeError, r"random.choice: p is .*, needs shape \(3,\)"),
    (lambda g: g.choice(2, 1, p=[0, 0]), ValueError, "finite weights of at least 0, not all of them 0"),
    (lambda g: g.choice(2, 1, p=[-1, 2]), ValueError, "finite weights"),
    (lambda g: g.choice(2, 1, p=[np.inf, 2]), ValueError, "finite weights"),
    (lambda g: g.normal(3, device="cuda"), DeviceError, "random.normal: device"),
    (lambda g: g.integers(0, 3, device="cuda"), DeviceError, "random.integers: device"),
    (lambda g: g.spawn(-1), ValueError, "random.spawn: n is -1, needs at least 0"),
    (lambda g: Generator(-1), ValueError, "random.Generator: seed is -1, needs at least 0"),
    (lambda g: Generator(WORD), ValueError, r"needs less than 2\*\*64"),
    (lambda g: Generator(1.5), DTypeError, "random.Generator: seed is 1.5, needs an integer"),
    (lambda g: g.set_state({}), ValueError, "random.set_state: algorithm is None, needs 'philox4x32-10'"),
    (lambda g: g.set_state({**g.get_state(), "counter": -1}), ValueError, "random.set_state: counter is -1"),
    (lambda g: g.set_state({"algorithm": "philox4x32-10"}), DTypeError, "random.set_state: seed is None"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=[text[:40] for _, _, text in BAD])
def test_bad_arguments_say_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call(Generator(3))
