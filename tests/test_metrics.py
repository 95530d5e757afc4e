"""Metrics: equal to twins that see all data at once, to scikit-learn, and to themselves however the data are cut."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import io, nn, train
from minigrad.train import metrics

# --- data, and the twins: loops over examples, and no code of the package ---------------------------------------------


@st.composite
def classified(draw, classes=None, weighted=None, least=1):
    """Scores with ties, class indices, weights (some 0), and where to cut."""
    n = draw(st.integers(least, 24))
    classes = draw(st.integers(2, 5)) if classes is None else classes
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = random.integers(-3, 4, (n, classes)) / 2.0
    targets = random.integers(0, classes, n)
    weight = None
    if draw(st.booleans()) if weighted is None else weighted:
        weight = random.integers(0, 4, n) / 2.0
    return scores, targets, weight, cuts(draw, n)


@st.composite
def binary(draw):
    """One score for two classes, logits or probabilities, some of them at the threshold."""
    n = draw(st.integers(1, 24))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = draw(st.booleans())
    scores = random.integers(-4, 5, n) / 2.0 if logits else random.integers(0, 9, n) / 8.0
    weight = random.integers(0, 4, n) / 2.0 if draw(st.booleans()) else None
    return scores, random.integers(0, 2, n), weight, cuts(draw, n)


@st.composite
def numbers(draw, columns=None):
    n = draw(st.integers(1, 24))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (n, *draw(st.sampled_from([(), (1,), (3,), (2, 2)])))
    shift, scale = draw(st.sampled_from([0.0, -7.0, 1e4])), draw(st.sampled_from([1.0, 1e-2, 50.0]))
    x, y = (random.standard_normal(shape) * scale + shift for _ in range(2))
    weight = random.integers(0, 4, n if draw(st.booleans()) else shape) / 2.0 if draw(st.booleans()) else None
    return x, y, weight, cuts(draw, n)


def cuts(draw, n):
    inner = draw(st.lists(st.integers(0, n), max_size=4))
    return sorted([0, *inner, n])  # twice the same place: an empty batch


def fed(metric, data):
    outputs, targets, weight, ends = data
    for a, b in itertools.pairwise(ends):
        metric.update(outputs[a:b], targets[a:b], None if weight is None else weight[a:b])
    return metric.result()


def ones(data):
    return np.ones(len(data[1])) if data[2] is None else data[2]


def share(hits, weight):
    return sum(h * w for h, w in zip(hits, weight)) / sum(weight) if sum(weight) else math.nan


def same(found, wanted, rel=1e-12):
    np.testing.assert_allclose(found, wanted, rtol=rel, atol=1e-12)


def decided(scores, threshold=0.5):
    """Logits as soon as one is no probability."""
    if any(not 0 <= s <= 1 for s in scores):
        threshold = math.log(threshold / (1 - threshold))
    return [int(s > threshold) for s in scores]


# --- accuracy ---------------------------------------------------------------------------------------------------------


@given(classified())
def test_accuracy_of_indices(data):
    scores, targets, _, _ = data
    hits = [max(range(len(row)), key=lambda c: (row[c], -c)) == t for row, t in zip(scores.tolist(), targets.tolist())]
    same(fed(metrics.get("accuracy"), data), share(hits, ones(data)))


@given(classified(), st.integers(0, 4), st.booleans())
def test_accuracy_of_rows_and_without_a_class(data, ignored, soft):
    scores, targets, weight, ends = data
    rows = np.eye(scores.shape[1])[targets]
    if soft:
        rows = 0.8 * rows + 0.2 / scores.shape[1]
    assert fed(metrics.Accuracy(), data) == pytest.approx(
        fed(metrics.Accuracy(), (scores, rows, weight, ends)), nan_ok=True
    )
    kept = ones(data) * (targets != ignored)
    wanted = fed(metrics.Accuracy(), (scores, targets, kept, ends))
    assert fed(metrics.Accuracy(ignore_index=ignored), data) == pytest.approx(wanted, nan_ok=True)
    minus = np.where(targets == ignored, -100, targets)
    same(fed(metrics.Accuracy(ignore_index=-100), (scores, minus, weight, ends)), wanted)


@given(binary(), st.sampled_from([0.5, 0.25, 0.75]), st.booleans())
def test_accuracy_of_one_score(data, threshold, column):
    scores, targets, weight, ends = data
    counted = ones(data) > 0
    guess = np.zeros(len(scores), int)
    guess[counted] = decided(scores[counted], threshold)
    wanted = share(guess == targets, ones(data))
    given = (scores[:, None] if column else scores, targets, weight, ends)
    same(fed(metrics.Accuracy(threshold=threshold), given), wanted)
    same(fed(metrics.BinaryAccuracy(threshold=threshold), given), wanted)
    for logits, cut in ((True, math.log(threshold / (1 - threshold))), (False, threshold)):
        pinned = metrics.Accuracy(threshold=threshold, from_logits=logits)
        same(fed(pinned, given), share((scores > cut) == targets, ones(data)))


@given(classified(), st.integers(1, 5))
def test_top_k(data, k):
    scores, targets, _, _ = data
    k = min(k, scores.shape[1])
    orders = [sorted(range(len(row)), key=lambda c: (-row[c], c))[:k] for row in scores.tolist()]
    found = fed(metrics.get(f"top_{k}"), data)
    same(found, share([t in order for t, order in zip(targets, orders)], ones(data)))
    if k == 1:
        same(found, fed(metrics.Accuracy(), data))


def test_nan_is_never_right():
    scores, targets = np.array([[math.nan, 1.0, 2.0], [3.0, math.nan, 1.0], [0.0, 1.0, 2.0]]), np.array([0, 0, 2])
    for name, wanted in (("accuracy", 1 / 3), ("top_1", 1 / 3), ("top_2", 2 / 3)):
        metric = metrics.get(name)
        metric.update(scores, targets)
        assert metric.result() == pytest.approx(wanted)
    single = metrics.BinaryAccuracy()
    single.update(np.array([math.nan, math.nan]), np.array([0, 1]))
    assert single.result() == 0.0


# --- precision, recall, F1, confusion ---------------------------------------------------------------------------------


def counts(guess, targets, weight, classes):
    table = [[0.0] * classes for _ in range(classes)]
    for g, t, w in zip(guess, targets, weight):
        table[t][g] += w
    return table


def ratios(table, beta=1.0):
    """Precision, recall and F of each class, by their definitions, and its number of targets."""
    found = []
    for c in range(len(table)):
        predicted, actual = sum(row[c] for row in table), sum(table[c])
        p = table[c][c] / predicted if predicted else 0.0
        r = table[c][c] / actual if actual else 0.0
        f = (1 + beta**2) * p * r / (beta**2 * p + r) if p + r else 0.0
        found.append((p, r, f, actual, predicted))
    return found


KINDS = {"precision": metrics.Precision, "recall": metrics.Recall, "f1": metrics.F1}


@pytest.mark.parametrize("place", range(3), ids=KINDS)
@given(classified())
def test_precision_recall_and_f1(place, data):
    kind = list(KINDS.values())[place]
    scores, targets, _, _ = data
    table = counts(scores.argmax(-1), targets, ones(data), scores.shape[1])
    found = ratios(table)
    total = sum(row[3] for row in found)
    if not total:
        assert math.isnan(fed(kind("macro"), data))
        assert np.isnan(fed(kind(None), data)).all()
        return
    values = [row[place] for row in found]
    seen = [row[place] for row in found if row[3] + row[4]]
    same(fed(kind(None), data), values)
    same(fed(kind(), data), sum(seen) / len(seen))
    same(fed(kind("weighted"), data), sum(v * row[3] for v, row in zip(values, found)) / total)
    same(fed(kind("micro"), data), sum(table[c][c] for c in range(len(table))) / total)
    if scores.shape[1] == 2:
        same(fed(kind("binary"), data), values[1])
    else:
        with pytest.raises(ValueError, match="average is 'binary', needs two classes"):
            fed(kind("binary"), data)
    same(fed(metrics.ConfusionMatrix(), data), table)


@given(binary(), st.sampled_from([0.5, 1.0, 2.0]))
def test_f_beta_of_one_score(data, beta):
    scores, targets, _, _ = data
    counted = ones(data) > 0
    guess = np.zeros(len(scores), int)
    guess[counted] = decided(scores[counted])
    table = counts(guess, targets, ones(data), 2)
    wanted = ratios(table, beta)[1][2] if sum(map(sum, table)) else math.nan
    same(fed(metrics.FBeta(beta), data), wanted)
    same(fed(metrics.ConfusionMatrix(2), data), table)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 4), st.data())
def test_several_labels(seed, n, labels, draws):
    random = np.random.default_rng(seed)
    scores, targets = random.integers(-3, 4, (n, labels)) / 2.0, random.integers(0, 2, (n, labels))
    scores[0, 0] = -1.0  # logits
    data = (scores, targets.astype(float), None, cuts(draws.draw, n))
    same(fed(metrics.BinaryAccuracy(), data), ((scores > 0) == targets).mean())
    columns = [counts((scores[:, k] > 0).astype(int), targets[:, k], np.ones(n), 2) for k in range(labels)]
    each = [ratios(table)[1] for table in columns]
    if not sum(row[3] + row[4] for row in each):
        return
    for place, kind in enumerate(KINDS.values()):
        same(fed(kind(None, multilabel=True), data), [row[place] for row in each])
        same(fed(kind(multilabel=True), data), sum(row[place] for row in each) / labels)
    hits = sum(table[1][1] for table in columns)
    micro = 2 * hits / sum(row[3] + row[4] for row in each)
    same(fed(metrics.F1("micro", multilabel=True), data), micro)


@given(classified())
def test_normalized_confusion(data):
    table = fed(metrics.ConfusionMatrix(), data)
    for normalize, axis in (("true", 1), ("pred", 0), ("all", None)):
        found = fed(metrics.ConfusionMatrix(normalize=normalize), data)
        total = found.sum(axis)
        assert (np.isclose(total, 1.0) | (table.sum(axis) == 0)).all()
        ratio = found[table > 0] / table[table > 0]
        assert (ratio > 0).all()
        assert not found[table == 0].any()


# --- perplexity and AUC -----------------------------------------------------------------------------------------------


@given(classified(), st.sampled_from([1.0, 300.0]), st.booleans())
def test_perplexity(data, scale, half):
    scores, targets, weight, ends = data
    scores = (scores * scale).astype(np.float16 if half else np.float64)
    total = 0.0
    for row, t, w in zip(scores.tolist(), targets, ones(data)):
        top = max(row)
        total += w * (top + math.log(sum(math.exp(s - top) for s in row)) - row[t])
    n = sum(ones(data))
    wanted = math.nan if not n else math.inf if total / n > 709.78 else math.exp(total / n)
    same(fed(metrics.get("perplexity"), (scores, targets, weight, ends)), wanted, 1e-9)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 99))
def test_perplexity_is_that_of_the_loss(sizes, seed):
    random = np.random.default_rng(seed)
    loss, by_loss, by_logits = (
        nn.CrossEntropyLoss(ignore_index=0),
        metrics.Perplexity(),
        metrics.Perplexity(ignore_index=0),
    )
    for n in sizes:
        logits, targets = random.standard_normal((n, 4, 5)), random.integers(0, 5, (n, 4))
        by_logits.update(logits, targets)
        by_loss.add_loss(loss(mg.asarray(logits), mg.asarray(targets)).item(), (targets != 0).sum())
    assert by_loss.result() == pytest.approx(by_logits.result(), rel=1e-12, nan_ok=True)


def test_perplexity_takes_many_rows_and_infinite_logits(monkeypatch):
    random = np.random.default_rng(0)
    logits, targets = random.standard_normal((50, 7)), random.integers(0, 7, 50)
    whole, parts, masked = metrics.Perplexity(), metrics.Perplexity(), metrics.Perplexity()
    whole.update(logits, targets)
    monkeypatch.setattr("minigrad.train.metrics.perplexity.CHUNK", 20)
    parts.update(logits, targets)
    assert parts.result() == pytest.approx(whole.result(), rel=1e-13)
    masked.update(np.array([[0.0, -math.inf, 0.0]]), np.array([0]))
    assert masked.result() == pytest.approx(2.0)
    masked.update(np.array([[0.0, -math.inf, 0.0]]), np.array([1]))
    assert masked.result() == math.inf


def pairs(scores, targets, weight):
    """AUC by its definition, over all pairs."""
    found = total = 0.0
    for a, t, v in zip(scores, targets, weight):
        for b, u, w in zip(scores, targets, weight):
            if t and not u:
                total += v * w
                found += v * w * (1.0 if a > b else 0.5 if a == b else 0.0)
    return found / total if total else math.nan


@given(binary())
def test_auc(data):
    scores, targets, weight, ends = data
    wanted = pairs(scores, targets, ones(data))
    same(fed(metrics.get("auc"), data), wanted)
    both = np.stack([np.zeros_like(scores), scores], -1)
    same(fed(metrics.AUC(), (both, targets, weight, ends)), wanted)


@given(classified())
def test_auc_of_each_class_against_the_rest(data):
    scores, targets, weight, ends = data
    if scores.shape[1] == 2:
        return
    chances = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    chances = chances.round(6)  # ties that rounding would break
    w = ones(data)
    each = [pairs(chances[:, k], targets == k, w) for k in range(scores.shape[1])]
    given = (chances, targets, weight, ends)
    same(fed(metrics.AUC(average=None, from_logits=False), given), each if w.any() or weight is None else math.nan)
    counted = [k for k, value in enumerate(each) if not math.isnan(value)]
    mean = sum(each[k] for k in counted) / len(counted) if counted else math.nan
    same(fed(metrics.AUC(from_logits=False), given), mean)
    support = [w[targets == k].sum() for k in counted]
    weighted = sum(each[k] * s for k, s in zip(counted, support)) / sum(support) if counted else math.nan
    same(fed(metrics.AUC(average="weighted", from_logits=False), given), weighted)


def test_auc_takes_the_softmax_of_logits():
    random = np.random.default_rng(2)
    logits, targets = random.standard_normal((40, 3)) * 2, random.integers(0, 3, 40)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found, wanted, other = metrics.AUC(), metrics.AUC(from_logits=False), metrics.AUC(from_logits=False)
    found.update(logits, targets)
    wanted.update(chances, targets)
    other.update(logits, targets)
    assert found.result() == pytest.approx(wanted.result(), rel=1e-12)
    assert abs(found.result() - other.result()) > 1e-3
    found.update(np.full((1, 3), math.nan), targets[:1])
    assert math.isnan(found.result())


# --- numbers ----------------------------------------------------------------------------------------------------------


def columns_of(data):
    x, y, weight, _ = data
    weight = np.ones(x.shape) if weight is None else weight
    weight = np.broadcast_to(weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim)), x.shape)
    return [part.reshape(len(x), -1).T.tolist() for part in (x, y, weight)]


@given(numbers())
def test_mean_errors(data):
    x, y, w = (list(itertools.chain(*part)) for part in columns_of(data))
    squares = share([(a - b) ** 2 for a, b in zip(x, y)], w)
    same(fed(metrics.get("mse"), data), squares)
    same(fed(metrics.get("rmse"), data), math.sqrt(squares))
    same(fed(metrics.get("mae"), data), share([abs(a - b) for a, b in zip(x, y)], w))


@given(numbers())
def test_explained_variance_and_correlation(data):
    explained, correlation = [], []
    for x, y, w in zip(*columns_of(data)):
        xm, ym = share(x, w), share(y, w)
        if sum(v > 0 for v in w) < 2:
            explained.append(math.nan)
            correlation.append(math.nan)
            continue
        xx, yy, xy = (
            math.fsum(v * a * b for a, b, v in zip(p, q, w))
            for p, q in (
                ([a - xm for a in x], [a - xm for a in x]),
                ([b - ym for b in y], [b - ym for b in y]),
                ([a - xm for a in x], [b - ym for b in y]),
            )
        )
        explained.append(1 - math.fsum(v * (a - b) ** 2 for a, b, v in zip(x, y, w)) / yy)
        correlation.append(xy / math.sqrt(xx * yy))
    for name, values in (("r2", explained), ("pearson", correlation)):
        np.testing.assert_allclose(fed(metrics.get(name), data), np.mean(values), rtol=1e-8, atol=1e-8)


@given(st.floats(-1e6, 1e6), st.integers(1, 9), st.integers(1, 9))
def test_what_is_constant_explains_nothing(value, n, cut):
    """Rounding makes no variance where there is none, however the data are cut."""
    data = (np.arange(float(n)), np.full(n, value), None, sorted({0, min(cut, n), n}))
    assert math.isnan(fed(metrics.R2(), data))
    assert math.isnan(fed(metrics.Pearson(), data))


def test_far_from_zero():
    """The textbook's E[x^2] - E[x]^2 has no digit left here."""
    x = np.array([1.0, 2.0, 3.0, 4.0]) + 2.0**40
    y = np.array([2.0, 4.0, 6.0, 9.0]) + 2.0**40
    metric = metrics.Pearson()
    for a, b in zip(x, y):
        metric.update(np.array([a]), np.array([b]))
    assert metric.result() == pytest.approx(np.corrcoef([1, 2, 3, 4], [2, 4, 6, 9])[0, 1], rel=1e-12)


# --- laws of all ------------------------------------------------------------------------------------------------------

ALL = {
    "accuracy": lambda: metrics.Accuracy(),
    "top_2": lambda: metrics.TopKAccuracy(2),
    "precision": lambda: metrics.Precision(None),
    "recall": lambda: metrics.Recall("weighted"),
    "f1": lambda: metrics.F1("micro"),
    "confusion": lambda: metrics.ConfusionMatrix(),
    "perplexity": lambda: metrics.Perplexity(),
    "auc": lambda: metrics.AUC(average=None),
}


@pytest.mark.parametrize("name", ALL)
@given(data=classified())
def test_the_cut_into_batches_counts_for_nothing(name, data):
    scores, targets, weight, _ = data
    whole = fed(ALL[name](), (scores, targets, weight, [0, len(targets)]))
    same(fed(ALL[name](), data), whole)
    same(fed(ALL[name](), (scores, targets, weight, list(range(len(targets) + 1)))), whole)


@pytest.mark.parametrize("name", ALL)
@given(data=classified(weighted=False))
def test_a_weight_is_a_number_of_copies(name, data):
    scores, targets, _, ends = data
    copies = np.arange(len(targets)) % 3
    found = fed(ALL[name](), (scores, targets, copies, ends))
    places = np.repeat(np.arange(len(targets)), copies)
    if not len(places):
        assert np.isnan(found).all() or name == "confusion"
        return
    same(found, fed(ALL[name](), (scores[places], targets[places], None, [0, len(places)])))


@pytest.mark.parametrize("name", [*ALL, "r2", "pearson", "mse"])
def test_the_state_goes_through_a_file(name, tmp_path):
    random = np.random.default_rng(3)
    make = ALL.get(name, lambda: metrics.get(name))

    def batch(n):
        if name in ALL:
            return random.standard_normal((n, 3)), random.integers(0, 3, n)
        return random.standard_normal((n, 2)), random.standard_normal((n, 2))

    first, second = batch(5), batch(7)
    whole, before, after = make(), make(), make()
    for metric, batches in ((whole, (first, second)), (before, (first,))):
        for part in batches:
            metric.update(*part)
    io.save_checkpoint(tmp_path / "state", before.state_dict())
    before.update(*second)  # the state is a copy
    after.update(*second)  # and takes the place of what was there
    after.load_state_dict(io.load_checkpoint(tmp_path / "state"))
    after.update(*second)
    np.testing.assert_array_equal(after.result(), whole.result())
    np.testing.assert_array_equal(before.result(), whole.result())
    whole.reset()
    whole.update(*first)
    before.load_state_dict(make().state_dict())
    before.update(*first)
    np.testing.assert_array_equal(before.result(), whole.result())


@pytest.mark.parametrize("name", [name for name in metrics.known() if "<" not in name])
def test_without_data(name):
    metric = metrics.get(name)
    assert metric.name == name
    assert metric.mode in ("min", "max", None)
    result = metric.result()
    assert result.shape == (0, 0) if name == "confusion_matrix" else math.isnan(result)


def test_tensors_and_half_types():
    scores, targets = np.array([[0.25, 0.5], [2.0, 1.0], [0.0, 1.0]]), np.array([1, 0, 0])
    for dtype in (mg.float16, mg.bfloat16, mg.float32, mg.float64):
        for name in ("accuracy", "f1", "auc", "perplexity"):
            found, wanted = metrics.get(name), metrics.get(name)
            found.update(mg.tensor(scores, dtype=dtype, requires_grad=True), mg.asarray(targets))
            wanted.update(scores, targets)
            assert found.result() == pytest.approx(wanted.result(), rel=1e-6)
    x = mg.tensor([1.0, 2.5, 4.0], dtype=mg.bfloat16)
    metric = metrics.MSE()
    metric.update(x, np.array([1.0, 2.0, 3.0]))
    assert metric.result() == pytest.approx(1.25 / 3)


@given(st.integers(0, 99), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_targets_of_several_axes(seed, shape, weighted, soft):
    """As many examples as places, whatever axes they lie on."""
    random = np.random.default_rng(seed)
    scores, targets = random.standard_normal((*shape, 3)), random.integers(0, 3, shape)
    weight = random.integers(0, 3, shape[0]) if weighted else None
    flat = None if weight is None else np.repeat(weight, math.prod(shape[1:]))
    for make in ALL.values() if not soft else (metrics.Accuracy, metrics.ConfusionMatrix):
        found, wanted = make(), make()
        found.update(scores, np.eye(3)[targets] if soft else targets, weight)
        wanted.update(scores.reshape(-1, 3), targets.ravel(), flat)
        np.testing.assert_array_equal(found.result(), wanted.result())


def test_what_does_not_count_may_be_anything():
    scores = np.array([[0.0, 1.0], [math.nan, math.nan]])
    for name in ("accuracy", "auc", "f1", "perplexity", "confusion_matrix"):
        metric, wanted = metrics.get(name), metrics.get(name)
        metric.update(scores, np.array([1, 77]), np.array([1.0, 0.0]))
        wanted.update(scores[:1], np.array([1]))
        np.testing.assert_array_equal(metric.result(), wanted.result())
    for name in ("mse", "mae", "rmse", "r2", "pearson"):
        metric, wanted = metrics.get(name), metrics.get(name)
        x, y = np.array([1.0, 2.0, math.nan, 4.0]), np.array([1.0, 3.0, math.inf, 3.5])
        metric.update(x, y, np.array([1.0, 1.0, 0.0, 1.0]))
        wanted.update(x[[0, 1, 3]], y[[0, 1, 3]])
        assert metric.result() == pytest.approx(wanted.result())


# --- scikit-learn -----------------------------------------------------------------------------------------------------


@given(classified(least=2))
def test_equal_to_scikit_learn(data):
    learn = pytest.importorskip("sklearn.metrics")
    scores, targets, _, _ = data
    w, guess, n = ones(data), scores.argmax(-1), scores.shape[1]
    if not w.any():
        return
    targets_, guess_, w_ = targets[w > 0], guess[w > 0], w[w > 0]  # a class of weight 0 alone is no class to us
    for average in ("micro", "macro", "weighted"):
        wanted = learn.precision_recall_fscore_support(
            targets_, guess_, average=average, sample_weight=w_, zero_division=0
        )
        for kind, value in zip(KINDS.values(), wanted):
            same(fed(kind(average), data), value)
    same(fed(metrics.Accuracy(), data), learn.accuracy_score(targets, guess, sample_weight=w))
    for normalize in (None, "true", "pred", "all"):
        table = learn.confusion_matrix(targets, guess, labels=range(n), sample_weight=w, normalize=normalize)
        same(fed(metrics.ConfusionMatrix(normalize=normalize), data), table)
    if len(set(targets_)) == n == 2:
        wanted = learn.roc_auc_score(targets, scores[:, 1] - scores[:, 0], sample_weight=w)
        same(fed(metrics.AUC(), data), wanted)
    elif len(set(targets_)) == n:
        chances = (np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)).round(6)  # ties are ties
        for average in ("macro", "weighted"):
            wanted = learn.roc_auc_score(targets, chances, multi_class="ovr", average=average, sample_weight=w)
            found = fed(metrics.AUC(average=average, from_logits=False), (chances, *data[1:]))
            same(found, wanted)
    if n > 2 and len(set(targets_)) > 1:
        wanted = learn.top_k_accuracy_score(
            targets, scores + np.arange(n)[::-1] * 1e-9, k=2, labels=range(n), sample_weight=w
        )
        same(fed(metrics.TopKAccuracy(2), data), wanted)


@given(numbers())
def test_numbers_equal_to_scikit_learn(data):
    learn = pytest.importorskip("sklearn.metrics")
    x, y, weight, ends = data
    if weight is not None and weight.shape != (len(x),):
        return
    if weight is not None and not weight.any():
        return
    x, y = x.reshape(len(x), -1), y.reshape(len(x), -1)
    data = (x, y, weight, ends)
    same(fed(metrics.MSE(), data), learn.mean_squared_error(y, x, sample_weight=weight), 1e-9)
    same(fed(metrics.MAE(), data), learn.mean_absolute_error(y, x, sample_weight=weight), 1e-9)
    if (np.ones(len(x)) if weight is None else weight > 0).sum() > 1:
        same(fed(metrics.R2(), data), learn.r2_score(y, x, sample_weight=weight), 1e-8)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_shapes_and_values_that_do_not_fit():
    scores, targets = np.zeros((4, 3)), np.zeros(4, int)
    for metric, args, error, text in (
        (
            "accuracy",
            (scores, targets[:3]),
            mg.ShapeError,
            r"targets is int64 \(3,\), needs class indices \(4,\) or pro",
        ),
        ("accuracy", (scores, targets[:, None]), mg.ShapeError, r"Accuracy: targets is int64 \(4, 1\)"),
        ("accuracy", (scores, targets + 3), ValueError, "targets is 3 in some place, needs classes from 0 to 2"),
        ("accuracy", (scores, targets - 100), ValueError, "-100 in some place.*ignore_index= leaves a class out"),
        (
            "accuracy",
            (scores, targets * 1.0),
            TypeError,
            r"targets is float64 \(4,\), needs class indices of an integer",
        ),
        ("accuracy", (scores, scores), ValueError, "not 1 in the sum of each row.*binary_accuracy"),
        ("accuracy", (scores[:, 0], targets + 2), ValueError, r"not all in 0..1 \(int64 \(4,\)\)"),
        ("accuracy", (scores[:, 0], targets[:, None]), mg.ShapeError, r"needs of the outputs' shape \(4,\)"),
        ("accuracy", ({"a": scores}, targets), TypeError, "outputs is a dict, needs an array of real.*several outputs"),
        ("accuracy", (scores, None), TypeError, "targets is None, needs an array"),
        ("accuracy", (scores, targets, np.ones(3)), mg.ShapeError, r"weight is float64 \(3,\), needs of the targets'"),
        ("accuracy", (scores, targets, -np.ones(4)), ValueError, "weight is negative or not finite"),
        ("top_5", (scores, targets), mg.ShapeError, r"top_5: outputs is float64 \(4, 3\), needs at least 5 classes"),
        ("perplexity", (scores[:, 0], targets), mg.ShapeError, "Perplexity: outputs .* needs a logit for each class"),
        (
            "mse",
            (scores, targets),
            mg.ShapeError,
            r"MSE: targets is int64 \(4,\), needs of the outputs' shape \(4, 3\)",
        ),
        ("mse", (scores[:, :1], targets), mg.ShapeError, r"Take the last axis of 1 away"),
        ("r2", (np.zeros(()), np.zeros(())), mg.ShapeError, "R2: outputs .* at least one axis"),
    ):
        with pytest.raises(error, match=text):
            metrics.get(metric).update(*args)
    for name in ("f1", "confusion_matrix", "auc"):
        metric = metrics.get(name)
        metric.update(scores, targets)
        with pytest.raises(mg.ShapeError, match="classes"):
            metric.update(np.zeros((4, 5)), targets)
    metric = metrics.get("pearson")
    metric.update(scores, scores)
    with pytest.raises(mg.ShapeError, match="3 numbers an example, as before"):
        metric.update(scores[:, :2], scores[:, :2])
    with pytest.raises(mg.ShapeError, match="two at least"):
        metrics.F1(multilabel=True).update(np.zeros(3), np.zeros(3))


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"metric is 'accurate', needs one of accuracy, auc, .*top_<k>"):
        metrics.get("accurate")
    with pytest.raises(ValueError, match="metric is 'top_0'"):
        metrics.get("top_0")
    with pytest.raises(ValueError, match="average is 'mean', needs one of 'auto', 'binary'"):
        metrics.F1("mean")
    with pytest.raises(ValueError, match="average is 'micro', needs one of 'macro', 'weighted', None"):
        metrics.AUC(average="micro")
    with pytest.raises(ValueError, match=r"threshold is 1.0, needs a probability between 0 and 1"):
        metrics.Accuracy(threshold=1.0)
    with pytest.raises(ValueError, match="normalize is 'rows'"):
        metrics.ConfusionMatrix(normalize="rows")
    with pytest.raises(ValueError, match=r"beta is 0\.0, needs a positive number"):
        metrics.FBeta(0)
    with pytest.raises(ValueError, match=r"count is -1\.0"):
        metrics.Perplexity().add_loss(1.0, -1)


# --- in a trainer -----------------------------------------------------------------------------------------------------


def test_all_metrics_in_a_trainer():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((30, 4)).astype(np.float32), random.integers(0, 3, 30)
    y[:3] = 2
    names = ["accuracy", "top_2", "precision", "recall", "f1", "f1_micro", "auc", "perplexity"]
    mg.random.seed(0)
    model = nn.Dense(3, in_features=4)
    loss = nn.CrossEntropyLoss(ignore_index=2)
    trainer = train.Trainer(model, loss, "adam", [*names, metrics.ConfusionMatrix(), metrics.F1(None)], lr=0.01)
    history = trainer.fit((x, y), epochs=2, validation=(x, y), batch_size=7, verbose=0)
    found, logits, kept = trainer.evaluate((x, y), batch_size=4), trainer.predict(x).numpy(), y != 2
    for name in names:
        alone = metrics.get(name)
        alone.update(logits[kept], y[kept])
        assert found[name] == pytest.approx(alone.result(), rel=1e-5)
        assert history[f"val_{name}"][-1] == pytest.approx(found[name], rel=1e-5)
        assert len(history[name]) == 2
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]), rel=1e-5)
    assert found["confusion_matrix"].sum() == kept.sum()
    assert found["f1_per_class"].shape == (3,)


def test_a_metric_that_is_not_live_is_left_to_the_end_of_the_epoch():
    calls = []

    class Costly(metrics.AUC):
        name = "costly"

        def result(self):
            calls.append(len(self.scores))
            return super().result()

    random = np.random.default_rng(0)
    x, y = random.standard_normal((12, 4)).astype(np.float32), random.integers(0, 2, 12)
    train.Trainer(nn.Dense(2), optimizer="sgd", lr=0.1, metrics=[Costly()]).fit((x, y), batch_size=4, verbose=0)
    assert calls == [3]


def test_copies_share_nothing():
    metric = metrics.F1()
    metric.update(np.eye(3), np.arange(3))
    other = copy.deepcopy(metric)
    other.update(np.eye(3), np.array([1, 2, 0]))
    assert metric.result() == 1.0
    assert other.result() == 0.5
