"""The picture of recorded ticks: how long they took, and what the monitor made of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot

from maac_learning.report.style import COLOURS, GREY, STYLE, save
from maac_ros.bundle import Bundle
from maac_ros.monitor import DOUBT_SHARE, TRUST_SHARE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 60


def draw(
    columns: Mapping[str, NDArray[np.float64]],
    changed: NDArray[np.bool_],
    bundle: Bundle,
    path: Path,
) -> None:
    """Durations as a histogram with the control period, and the monitor's numbers over time.

    Args:
        columns: telemetry by name, (T,).
        changed: (T,) where the robot was another one than was learned from.
        bundle: what ran.
        path: of the picture.
    """
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(12, 4.2), gridspec_kw={"width_ratios": (2, 3)}
        )
        _draw_durations(left, columns, bundle.manifest.control_period_s * 1e3)
        _draw_monitor(right, columns, changed, bundle)
        figure.suptitle(bundle.task.name, x=0.01, ha="left", fontweight="bold")
        figure.tight_layout()
        save(figure, path)


def _draw_durations(
    axes: Axes, columns: Mapping[str, NDArray[np.float64]], period_ms: float
) -> None:
    parts = {"whole tick": columns["tick_s"] * 1e3, "planning": columns["planning_s"] * 1e3}
    parts = {name: values[np.isfinite(values)] for name, values in parts.items()}
    end = max(period_ms, *(values.max() for values in parts.values() if len(values))) * 1.05
    for colour, (name, values) in zip(COLOURS, parts.items(), strict=False):
        if len(values):
            axes.hist(
                values,
                np.linspace(0, end, _BINS).tolist(),
                histtype="step",
                lw=1.6,
                label=name,
                color=colour,
            )
    axes.axvline(period_ms, color=GREY, ls="--", lw=1.2, label="control period")
    axes.set(yscale="log", xlim=(0, end), xlabel="ms", ylabel="ticks")
    axes.legend()


def _draw_monitor(
    axes: Axes,
    columns: Mapping[str, NDArray[np.float64]],
    changed: NDArray[np.bool_],
    bundle: Bundle,
) -> None:
    seconds = np.arange(len(changed)) * bundle.manifest.control_period_s
    calibration = bundle.manifest.calibration
    if calibration is not None:
        limits = {"residual": calibration.residual, "disagreement": calibration.disagreement}
        for colour, (name, limit) in zip(COLOURS, limits.items(), strict=False):
            axes.plot(
                seconds,
                columns[name] / limit,
                color=colour,
                lw=0.5,
                alpha=0.6,
                label=f"{name} / limit",
            )
    axes.plot(
        seconds, columns["exceedance"], color="black", lw=1.6, label="share of ticks beyond a limit"
    )
    for level, text in ((DOUBT_SHARE, "doubted above"), (TRUST_SHARE, "trusted below")):
        axes.axhline(level, color=GREY, ls="--", lw=1.0)
        axes.annotate(
            text,
            (1.0, level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=GREY,
        )
    if changed.any():
        there = seconds[changed]
        axes.axvspan(there[0], there[-1], color="#f3e6c8", zorder=0, label="another robot")
    axes.set(yscale="log", ylim=(0.01, 30), xlim=(0, seconds[-1]), xlabel="s")
    axes.legend(loc="upper right", ncols=2, fontsize=8)
