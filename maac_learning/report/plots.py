"""Pictures of learning curves: one a task, and an overview of all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from maac_learning.report.aggregate import Aggregate
from maac_learning.report.curves import Curve
from maac_learning.report.published import Published
from maac_learning.report.style import (
    GREY,
    STYLE,
    Label,
    Look,
    label_right,
    save,
    set_axes,
)
from maac_learning.report.texts import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """What there is to draw of one task."""

    task: str
    curves: Mapping[str, Sequence[Curve]]
    """By preset."""
    aggregates: Mapping[str, Aggregate]
    """By preset."""


def draw_task(panel: Panel, looks: Mapping[str, Look], published: Published, path: Path) -> None:
    """One task: every seed, the aggregates, the bar, and what is published, named at the right."""
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(9, 5))
        end = _end(panel, published)
        _draw_seeds(axes, panel, looks, published)
        _draw_aggregates(axes, panel, looks, published)
        labels = _draw_published(axes, panel.task, published, end, joined=True)
        _draw_bar(axes, panel.task, published)
        set_axes(axes, end)
        axes.set(xlabel="environment steps", ylabel="evaluation return")
        label_right(axes, labels)
        single = _ends_when_solved(panel.task, published)
        kinds = ["seed", "bar"] if single else ["iqm", "interval", "mean", "partial", "seed", "bar"]
        top = _draw_heading(figure, published.title(panel.task), list(panel.curves), looks, kinds)
        figure.subplots_adjust(left=0.085, right=0.78 if labels else 0.97, top=top, bottom=0.105)
        save(figure, path)


def draw_overview(
    panels: Sequence[Panel], looks: Mapping[str, Look], published: Published, path: Path
) -> None:
    """All tasks side by side: the aggregates, the bars, and what is published, unnamed."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (1.0 + 3.7 * max(columns, 2), 1.4 + 2.9 * rows)
    with matplotlib.rc_context(STYLE):
        figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            # Tasks judged at the same number of steps are drawn over the same steps.
            judged = _judged(panel, published)
            end = max(_end(p, published) for p in panels if _judged(p, published) == judged)
            if _ends_when_solved(panel.task, published):
                _draw_seeds(axes, panel, looks, published)
            _draw_aggregates(axes, panel, looks, published)
            _draw_published(axes, panel.task, published, end, joined=False)
            _draw_bar(axes, panel.task, published)
            set_axes(axes, end)
            axes.set_title(published.title(panel.task), loc="left", fontweight="bold", fontsize=11)
        for axes in grid[:, 0]:
            axes.set_ylabel("evaluation return")
        for column in range(columns):
            lowest = (len(panels) - 1 - column) // columns
            grid[lowest, column].set_xlabel("environment steps")
        presets = list(dict.fromkeys(preset for panel in panels for preset in panel.curves))
        kinds = ["iqm", "interval", "mean", "partial", "bar", "published"]
        top = _draw_heading(figure, "Learning curves", presets, looks, kinds)
        width, height = size
        figure.subplots_adjust(
            left=0.75 / width,
            right=1 - 0.25 / width,
            top=top - 0.25 / height,
            bottom=0.55 / height,
            wspace=0.24,
            hspace=0.38,
        )
        save(figure, path)


def _ends_when_solved(task: str, published: Published) -> bool:
    """Whether runs end one by one, so that a mean over those that go on says little: seeds are drawn instead."""
    bar = published.bar(task)
    return bar is not None and bar.kind == "reached_within"


def _draw_seeds(axes: Axes, panel: Panel, looks: Mapping[str, Look], published: Published) -> None:
    single = _ends_when_solved(panel.task, published)
    style: Look = {"lw": 1.4, "marker": "o", "ms": 4, "markevery": [-1]} if single else {"lw": 0.7}
    for preset, curves in panel.curves.items():
        for curve in curves:
            axes.plot(
                curve.env_steps,
                curve.returns,
                color=looks[preset]["color"],
                alpha=0.8 if single else 0.45,
                **style,
            )


def _draw_aggregates(
    axes: Axes, panel: Panel, looks: Mapping[str, Look], published: Published
) -> None:
    if _ends_when_solved(panel.task, published):
        return
    for preset, found in panel.aggregates.items():
        look = looks[preset]
        color = look["color"]
        axes.fill_between(found.env_steps, found.low, found.high, color=color, alpha=0.16, lw=0)
        axes.plot(found.env_steps, found.mean, color=color, lw=1.2, ls=":")
        # Where some seeds are missing a line may jump for that reason alone.
        whole = found.seeds == len(panel.curves[preset])
        axes.plot(found.env_steps, found.iqm, color=color, lw=1.0, ls="--")
        axes.plot(found.env_steps, np.where(whole, found.iqm, np.nan), lw=2.2, **look)


def _draw_heading(
    figure: Figure,
    title: str,
    presets: Sequence[str],
    looks: Mapping[str, Look],
    kinds: Sequence[str],
) -> float:
    """Title, presets, and what kinds of line there are. Returns where the axes may begin, as a share of the height."""
    width, height = figure.get_size_inches()
    ink = "#444444"
    known = {
        "iqm": Line2D([], [], color=ink, lw=2.2, label="interquartile mean"),
        "interval": Patch(color=ink, alpha=0.2, lw=0, label="its 95 % interval"),
        "mean": Line2D([], [], color=ink, lw=1.2, ls=":", label="mean"),
        "partial": Line2D([], [], color=ink, lw=1.0, ls="--", label="not all seeds"),
        "seed": Line2D([], [], color=ink, lw=0.9, alpha=0.7, label="a seed"),
        "bar": Line2D([], [], color="black", marker="*", ms=9, lw=0, label="to be reached"),
        "published": Line2D(
            [], [], color=GREY, mfc="white", marker="o", ms=4.5, lw=0, label="published"
        ),
    }
    lines = [
        Line2D([], [], lw=2.2, label=p, **{k: v for k, v in looks[p].items() if k != "markevery"})
        for p in presets
    ]
    figure.text(0.13 / width, 1 - 0.3 / height, title, fontsize=14, fontweight="bold")
    top = height - 0.36
    for handles in (lines, [known[kind] for kind in kinds]):
        columns = _columns([str(handle.get_label()) for handle in handles], width)
        rows = -(-len(handles) // columns)
        figure.legend(
            # Matplotlib fills column by column; people read row by row.
            handles=[handle for i in range(columns) for handle in handles[i::columns]],
            loc="upper left",
            bbox_to_anchor=(0.08 / width, top / height),
            ncols=columns,
            columnspacing=1.4,
            handlelength=1.8,
            borderaxespad=0.2,
            borderpad=0.2,
        )
        top -= 0.23 * rows + 0.04
    return float((top - 0.12) / height)


def _columns(labels: Sequence[str], width: float) -> int:
    """Columns of a legend that fit into so many inches, at about 0.08 inches a letter."""
    columns = len(labels)
    while columns > 1:
        letters = sum(max(map(len, labels[i::columns])) for i in range(columns))
        if letters * 0.08 + columns * 0.55 < width:
            break
        columns -= 1
    return columns


def _judged(panel: Panel, published: Published) -> int | None:
    bar = published.bar(panel.task)
    return bar.env_steps if bar else None


def _end(panel: Panel, published: Published) -> int:
    """Last step of the x axis: the longest run, and at least the steps the task is judged at."""
    longest = max(int(found.env_steps[-1]) for found in panel.aggregates.values())
    return max(longest, _judged(panel, published) or 0)


def _draw_published(
    axes: Axes, task: str, published: Published, end: int, joined: bool
) -> list[Label]:
    """Markers for published means up to ``end``; a method's are ``joined`` or not."""
    labels = []
    for method in published.methods:
        points = [(x, y) for x, y in sorted(method.returns.get(task, {}).items()) if x <= end]
        if not points or task in method.own_rewards:
            continue
        x, y = zip(*points, strict=True)
        style: Look = {"marker": "o", "ms": 4.5, "mfc": "white", "clip_on": False, "zorder": 4}
        axes.plot(x, y, color=GREY, lw=0.7 if joined else 0, ls=(0, (1, 2)), **style)
        labels.append(Label(x[-1], y[-1], f"{method.name}  {whole(y[-1])}"))
    return labels


def _draw_bar(axes: Axes, task: str, published: Published) -> None:
    bar = published.bar(task)
    if bar is None:
        return
    line: Look = {"color": "black", "lw": 0.8, "ls": (0, (6, 3)), "zorder": 1.5}
    axes.plot([0, bar.env_steps], [bar.eval_return] * 2, **line)
    axes.plot(bar.env_steps, bar.eval_return, "*", color="black", ms=11, clip_on=False, zorder=3)
    axes.annotate(
        whole(bar.eval_return),
        (0, bar.eval_return),
        (4, 3),
        textcoords="offset points",
        fontsize=9,
    )
