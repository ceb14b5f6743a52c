"""Figures as people read them."""

from __future__ import annotations


def whole(value: float) -> str:
    """Rounded to a whole number; thousands set apart from five digits on, as in 10 000."""
    text = f"{value:.0f}"
    return text if len(text.lstrip("-")) < 5 else f"{value:,.0f}".replace(",", "\u202f")


def steps(value: float) -> str:
    """Environment steps: 500, 3k, 2.5k."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def cell(value: str | int | float | bool | None) -> str:
    """A cell of a table: four significant digits, or as many as a whole number has."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return whole(value)
    return f"{value:.4g}"
