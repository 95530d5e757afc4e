"""Line search: a step length that fulfils Wolfe's strong conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from minigrad.optim.optimizer import Array

__all__ = ["Point", "cubic_minimum", "strong_wolfe"]

DECREASE = 1e-4  # the part of the descent that the slope promises which must come true
CURVATURE = 0.9  # the part of the slope that may be left
NEAR = 0.1  # of a bracket: a trial nearer to its ends makes little progress


class Point(NamedTuple):
    """A trial: the step length, the loss there, the gradient, and the slope of the loss along the direction."""

    t: float
    loss: float
    gradient: Array
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], Point], start: Point, t: float, longest: float, tolerance: float, most: int
) -> tuple[Point, int]:
    """Find a step length that lowers the loss enough and the slope too.

    ::

        loss(t) <= loss(0) + 1e-4 * t * slope(0)    and    |slope(t)| <= 0.9 * |slope(0)|

    Nocedal and Wright, "Numerical optimization", 2006, algorithms 3.5 and 3.6: steps grow until a minimum is bracketed,
    then the bracket shrinks; trials are minima of cubics. A loss that is not finite counts as too large.

    Parameters
    ----------
    evaluate : callable
        The point at a step length.
    start : Point
        That of length 0; its slope is negative.
    t : float
        The first trial.
    longest : float
        The largest element of the direction.
    tolerance : float
        The search ends where no parameter would change by more.
    most : int
        Trials after the first.

    Returns
    -------
    tuple
        The best point, and how often the loss was evaluated.
    """

    def is_high(point: Point) -> bool:
        return not point.loss <= start.loss + DECREASE * point.t * start.slope

    def is_flat(point: Point) -> bool:
        return abs(point.slope) <= -CURVATURE * start.slope

    before, point, trials = start, evaluate(t), 0
    while trials < most:
        if is_high(point) or (trials > 1 and point.loss >= before.loss):
            break
        if is_flat(point):
            return point, trials + 1
        if point.slope >= 0:
            break
        bounds = (point.t + 0.01 * (point.t - before.t), 10 * point.t)
        before, point = point, evaluate(cubic_minimum(before, point, bounds))
        trials += 1
    else:
        before = start
    ends, low = [before, point], 0 if before.loss <= point.loss or not math.isfinite(point.loss) else 1
    stuck = False
    while trials < most:
        left, right = sorted((ends[0].t, ends[1].t))
        if (right - left) * longest < tolerance:
            break
        t = cubic_minimum(ends[0], ends[1], (left, right))
        margin = NEAR * (right - left)
        if min(right - t, t - left) >= margin:
            stuck = False
        elif stuck or t >= right or t <= left:
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            stuck = False
        else:
            stuck = True  # a second one in a row will be moved
        point = evaluate(t)
        trials += 1
        if is_high(point) or point.loss >= ends[low].loss:
            ends[1 - low] = point
            low = 0 if ends[0].loss <= ends[1].loss or not math.isfinite(ends[1].loss) else 1
            continue
        if is_flat(point):
            return point, trials + 1
        if point.slope * (ends[1 - low].t - ends[low].t) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = point
    return ends[low], trials + 1


def cubic_minimum(a: Point, b: Point, bounds: tuple[float, float]) -> float:
    """Where the cubic through two points with their slopes is least, within bounds; their middle where it is nowhere.

    Nocedal and Wright, 2006, equation 3.59.
    """
    left, right = (a, b) if a.t <= b.t else (b, a)
    width = right.t - left.t
    if width > 0 and math.isfinite(a.loss) and math.isfinite(b.loss):
        first = left.slope + right.slope - 3 * (right.loss - left.loss) / width
        square = first * first - left.slope * right.slope
        root = math.sqrt(square) if square >= 0 else math.nan
        divisor = right.slope - left.slope + 2 * root
        if divisor:
            t = right.t - width * ((right.slope + root - first) / divisor)
            if math.isfinite(t):
                return min(max(t, bounds[0]), bounds[1])
    return (bounds[0] + bounds[1]) / 2
