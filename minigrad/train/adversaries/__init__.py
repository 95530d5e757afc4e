"""Adversaries: training on inputs, or embeddings, that are moved to where the loss is large.

An adversary is called in place of the forward and backward pass of a step::

    loss = adversary(compute, inputs, backward, update)

``compute(inputs)`` gives the loss, a scalar tensor; ``backward(loss, weight=1.0)`` adds its gradient, times the weight,
to that of the parameters; ``update()`` takes a step of the optimizer and drops the gradients, which only `Free` asks
for. ``adversary.perturb(compute, inputs)`` gives what the inputs become, and leaves the gradients of parameters alone.
"""

from minigrad.train.adversaries.embeddings import FreeLB
from minigrad.train.adversaries.free import Free
from minigrad.train.adversaries.inputs import FGSM, PGD
from minigrad.train.adversaries.virtual import VAT

__all__ = ["FGSM", "PGD", "VAT", "Free", "FreeLB"]
