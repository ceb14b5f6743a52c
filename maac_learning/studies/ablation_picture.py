"""The picture of an ablation: a learning curve for each variant, named beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from maac_learning.report.published import Published
from maac_learning.report.style import (
    GREY,
    STYLE,
    Label,
    label_right,
    looks_of,
    save,
    set_axes,
)
from maac_learning.report.texts import whole
from maac_learning.studies.ablation_results import Outcome
from maac_learning.studies.variants import FULL, VARIANTS

_WIDTH, _HEIGHT = 9.5, 4.8
"""Inches of a panel."""


def draw(
    by_task: Mapping[str, Sequence[Outcome]], preset: str, published: Published, path: Path
) -> None:
    """One panel a task: means over seeds thick, seeds thin, and each variant's name and last mean at the right."""
    present = {found.variant.name for outcomes in by_task.values() for found in outcomes}
    looks = looks_of([name for name in VARIANTS if name in present])
    with matplotlib.rc_context(STYLE):
        size = (_WIDTH, _HEIGHT * len(by_task))
        figure, grid = pyplot.subplots(len(by_task), figsize=size, squeeze=False)
        for axes, (task, outcomes) in zip(grid[:, 0], by_task.items(), strict=True):
            labels = []
            for found in outcomes:
                look = looks[found.variant.name]
                for returns in found.returns:
                    axes.plot(found.env_steps, returns, color=look["color"], lw=0.7, alpha=0.4)
                first = found.variant is FULL
                width, order = (3.0, 4) if first else (1.8, 3)
                axes.plot(found.env_steps, found.mean, lw=width, zorder=order, **look)
                end = found.mean[-1]
                text = f"{found.variant.label}  {whole(end)}"
                labels.append(Label(found.env_steps[-1], end, text, look["color"]))
            set_axes(axes, max(int(found.env_steps[-1]) for found in outcomes))
            label_right(axes, labels)
            title = f"{published.title(task)}, preset {preset}"
            axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
            axes.set_title(
                "thick: mean over seeds; thin: each seed", loc="right", fontsize=9, color=GREY
            )
            axes.set(xlabel="environment steps", ylabel="evaluation return")
        height = size[1]
        figure.subplots_adjust(
            left=0.09, right=0.75, top=1 - 0.4 / height, bottom=0.55 / height, hspace=0.28
        )
        save(figure, path)
