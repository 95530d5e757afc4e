"""Tools that check derivatives: for minigrad's own ops, and for yours. Nothing else in minigrad imports them."""

from minigrad.testing.gradcheck import GradcheckError, gradcheck

__all__ = ["GradcheckError", "gradcheck"]
