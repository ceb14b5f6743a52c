"""Pairs of a lowest and a highest value, and numbers of which there is one for all or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

Interval = Annotated[tuple[float, float], Field(description="[low, high]")]


def _listed(numbers: Any) -> Any:
    """A number as a list of one; anything else as it is."""
    return [numbers] if isinstance(numbers, int | float) else numbers


Numbers = Annotated[tuple[float, ...], BeforeValidator(_listed)]
PositiveNumbers = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_listed)]


def one_each(
    field: str, numbers: tuple[float, ...], owners: Sequence[str], what: str
) -> tuple[float, ...]:
    """A number for each of ``owners``.

    Args:
        field: what the numbers are called, for the error.
        numbers: one for all, or one for each.
        owners: what they are for.
        what: they are, in the plural.

    Raises:
        ValueError: when there are neither one nor as many.
    """
    if len(numbers) not in (1, len(owners)):
        raise ValueError(
            f"{field}: got {len(numbers)} numbers; expected one for each of {len(owners)} {what}, or one for all"
        )
    return numbers if len(numbers) > 1 else numbers * len(owners)


def check_interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """``interval`` as it is.

    Raises:
        ValueError: when its ends are not in order.
    """
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"expected [low, high] with low < high, got {list(interval)}")
    return interval
