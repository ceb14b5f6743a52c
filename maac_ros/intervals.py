"""Pairs of a lowest and a highest value."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Interval = Annotated[tuple[float, float], Field(description="[low, high]")]


def check_interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """``interval`` as it is.

    Raises:
        ValueError: when its ends are not in order.
    """
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"expected [low, high] with low < high, got {list(interval)}")
    return interval
