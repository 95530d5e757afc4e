"""The training loop and what belongs to it: ``from minigrad import train``."""

from minigrad.train.adversaries import FGSM, PGD, VAT, Free, FreeLB

__all__ = ["FGSM", "PGD", "VAT", "Free", "FreeLB"]
