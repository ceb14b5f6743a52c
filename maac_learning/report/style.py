"""How pictures look: colours, axes, and texts beside the lines they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, MaxNLocator

from maac_learning.report.texts import steps, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision; less their yellow, too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("", "o", "s", "^")
"""For lines beyond the colours."""
GREY = "#767676"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


Look = dict[str, Any]
"""How a line is drawn: keyword arguments of matplotlib's ``plot``."""


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """Colour and marker of each line, the same in every picture of a report."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i // len(COLOURS) % len(MARKERS)],
            "markersize": 4,
            "markevery": 0.1,
        }
        for i, name in enumerate(names)
    }


def set_axes(axes: Axes, end: int) -> None:
    """Environment steps from 0 to ``end`` and returns, with the figures as people read them."""
    axes.set_xlim(0, end * 1.015)
    if axes.dataLim.y0 >= 0:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: steps(x)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: whole(y)))


@dataclass(frozen=True)
class Label:
    """A text for the right margin, and the point it belongs to."""

    x: float
    y: float
    text: str
    color: str = GREY


def label_right(axes: Axes, labels: Sequence[Label]) -> None:
    """Put each text beside the axes, as near its point's height as the others leave room."""
    labels = sorted(labels, key=lambda label: label.y)
    low, high = axes.get_ylim()
    wanted = [(label.y - low) / (high - low) for label in labels]
    for label, height in zip(labels, spread(wanted, gap=0.052), strict=True):
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(1.06, height),
            textcoords=axes.transAxes,
            va="center",
            fontsize=9,
            color=label.color,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.color,
                "lw": 0.5,
                "alpha": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights at least ``gap`` apart, in the order given (ascending), near those wanted and within 0…1 if they fit.

    Neighbours that would overlap are joined into a block around their common centre, until no two blocks overlap.
    """
    blocks: list[tuple[float, int]] = []  # centre, members
    for height in wanted:
        centre, members = height, 1
        while True:
            half = gap * (members - 1) / 2
            centre = min(max(centre, half), max(1 - half, half))
            if not blocks or blocks[-1][0] + gap * (blocks[-1][1] + members) / 2 <= centre:
                break
            other, more = blocks.pop()
            centre = (centre * members + other * more) / (members + more)
            members += more
        blocks.append((centre, members))
    return [
        centre + gap * (i - (members - 1) / 2) for centre, members in blocks for i in range(members)
    ]


def save(figure: Figure, path: Path) -> None:
    """Write the picture, and let go of it."""
    # No date or program name within: the same curves give the same bytes.
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
