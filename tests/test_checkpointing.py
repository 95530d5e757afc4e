"""Activation checkpointing by layer: the same bits, the same names, less memory."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.models import GPT, GPTConfig


def encoder(**options):
    return nn.TransformerEncoder(2, 2, 16, features=8, **options)


def convolutions():
    layers = [nn.Conv2D(4, 3, padding="same", in_channels=2), nn.BatchNorm2D(4), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential([nn.Sequential(layers), nn.Sequential([nn.Conv2D(2, 3, in_channels=4), nn.BatchNorm2D(2)])])


def images():
    return mg.random.normal((3, 2, 6, 6))


def tokens():
    return mg.random.normal((3, 5, 8))


MODELS = {
    "encoder": (lambda: encoder(dropout=0.2), tokens, (nn.TransformerEncoderLayer,)),
    "post-norm": (lambda: encoder(dropout=0.2, norm="post"), tokens, (nn.TransformerEncoderLayer,)),
    "nested": (lambda: encoder(dropout=0.2), tokens, (nn.TransformerEncoderLayer, nn.FeedForward)),
    "whole": (lambda: encoder(dropout=0.2), tokens, ()),
    "batch norm": (convolutions, images, (nn.Sequential,)),
    "leaves": (convolutions, images, (nn.Conv2D, nn.BatchNorm2D)),
    "recurrent": (lambda: nn.Sequential([nn.Dense(6, in_features=8), nn.Dropout(0.5)]), tokens, (nn.Dense, nn.Dropout)),
}


def trained(make, draw, kinds, steps=2):
    """Outputs, gradients, input gradients, buffers and random state of some steps, as bytes."""
    mg.random.seed(0)
    model = make()
    if kinds is not None:
        nn.checkpointed(model, *kinds)
    found = []
    for _ in range(steps):
        x = draw().requires_grad_()
        weight = mg.random.normal(model(x).shape)
        model.zero_grad()
        y = model(x)
        (y * weight).sum().backward()
        found += [y.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()]
    return [t.numpy().tobytes() for t in found], mg.random.get_state(), list(model.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_everything_is_the_same_bit_for_bit(name):
    make, draw, kinds = MODELS[name]
    assert trained(make, draw, kinds) == trained(make, draw, None)


def test_a_language_model_with_checkpointed_layers():
    config = GPTConfig(vocab_size=11, max_length=8, features=8, num_layers=2, num_heads=2)
    ids = mg.asarray(np.arange(16).reshape(2, 8) % 11)
    found = []
    for kinds in ((), (nn.TransformerDecoderLayer,)):
        mg.random.seed(0)
        model = GPT(config)
        if kinds:
            nn.checkpointed(model, *kinds)
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        found.append([loss.item(), *(p.grad.numpy().tobytes() for p in model.parameters())])
    assert found[0] == found[1]


def test_second_derivatives():
    found = []
    for on in (False, True):
        mg.random.seed(0)
        model = nn.checkpointed(nn.Sequential([nn.Dense(4, activation="tanh", in_features=3), nn.Dense(1)]), enabled=on)
        x = mg.random.normal((2, 3)).requires_grad_()
        model(x)
        (g,) = mg.grad(model(x).sum(), [x], create_graph=True)
        (g * g).sum().backward()
        found.append([x.grad.numpy(), *(p.grad.numpy() for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_under_autocast():
    amp = pytest.importorskip("minigrad.amp")
    found = []
    for kinds in (None, (nn.TransformerEncoderLayer,)):
        with amp.autocast(mg.bfloat16):
            mg.random.seed(0)
            model = encoder(dropout=0.2)
            if kinds:
                nn.checkpointed(model, *kinds)
            loss = (model(tokens()) ** 2).astype(mg.float32).sum()
        loss.backward()  # outside, as usual
        found.append([p.grad.numpy().tobytes() for p in model.parameters()])
    assert found[0] == found[1]


def peak(kinds):
    """What a step needs at most, in bytes, beyond what the model holds anyway."""
    model = nn.TransformerEncoder(8, 2, 256, features=64, dropout=0.1)
    if kinds is not None:
        nn.checkpointed(model, *kinds)
    x = mg.random.normal((8, 32, 64))
    model(x).sum().backward()  # the gradients are there from now on
    tracemalloc.start()
    try:
        model(x).sum().backward()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_peak_falls():
    plain, layers = peak(None), peak((nn.TransformerEncoderLayer,))
    assert layers < plain / 2, (plain, layers)


def test_modes_hooks_copies_and_switching_off():
    block = nn.checkpointed(nn.Sequential([nn.Dense(4, in_features=4), nn.Dropout(0.5)]))
    calls = []
    block.register_forward_hook(lambda module, args, output: calls.append("after"))
    remove = block.register_forward_pre_hook(lambda module, args: calls.append("before"))
    x = mg.ones((2, 4))
    block(x).sum().backward()
    assert calls == ["before", "after"]
    remove()
    block(x)
    assert calls == ["before", "after", "after"]
    for other in (
        copy.deepcopy(nn.checkpointed(nn.Dense(4, in_features=4))),
        pickle.loads(pickle.dumps(nn.checkpointed(nn.Dense(4)))),
    ):
        assert other.is_checkpointed
        assert other(x).grad_fn is not None
    block.eval()
    with mg.no_grad():
        np.testing.assert_array_equal(block(x).numpy(), block[0](x).numpy())
    assert not nn.checkpointed(block, enabled=False).is_checkpointed
    plain = nn.Dense(4)
    nn.checkpointed(plain)
    nn.checkpointed(plain, enabled=False)
    assert plain._is_plain


def test_the_batch_that_completes_shapes_gives_right_gradients():
    """To draw weights takes random numbers, so the second run would drop other elements."""
    found = []
    for on in (False, True):
        mg.random.seed(0)
        model = nn.checkpointed(nn.Sequential([nn.Dense(16), nn.Dropout(0.5)]), enabled=on)
        x = mg.ones((4, 3), requires_grad=True)
        model(x).sum().backward()
        found.append(x.grad.tolist())
    assert found[0] == found[1]


def test_refused():
    with pytest.raises(TypeError, match="checkpointed: module is 3, needs a layer or a model"):
        nn.checkpointed(3)
    with pytest.raises(TypeError, match="checkpointed: module is"):
        nn.checkpointed(nn.Dense)
    with pytest.raises(ValueError, match="layers is LSTM, GRU, needs types of layers that Dense has"):
        nn.checkpointed(nn.Dense(3), nn.LSTM, nn.GRU)
