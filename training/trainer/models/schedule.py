"""How the learning rate runs over a training."""

import math

WARM_UP_SHARE = 0.05
"""Share of the steps in which the cosine schedule first rises from 0."""


def learning_rate_at(step: int, total: int, peak: float, schedule: str) -> float:
    """The learning rate of a step, counted from 1 to `total`: `constant`, or `cosine`, which rises over the first
    WARM_UP_SHARE of the steps and then falls along half a cosine (Loshchilov and Hutter 2017, without restarts) to
    nearly 0."""
    if schedule == "constant":
        return peak
    rising = math.ceil(WARM_UP_SHARE * total)
    if step <= rising:
        return peak * step / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising + 1)))
