"""Statistics over seeds: mean, interquartile mean with its bootstrap interval, and how a bar is met.

After Agarwal et al., *Deep Reinforcement Learning at the Edge of the Statistical Precipice* (NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rliable import library

from maac_learning.report.curves import Curve
from maac_learning.report.published import Bar

REPLICATIONS = 2000
"""Bootstrap resamples of an interval."""


@dataclass(frozen=True)
class Aggregate:
    """Statistics at P points; NaN where there are too few seeds for one."""

    env_steps: np.ndarray
    """(P,) environment steps."""
    seeds: np.ndarray
    """(P,) seeds that were evaluated there."""
    mean: np.ndarray
    """(P,) mean over seeds."""
    std: np.ndarray
    """(P,) sample standard deviation over seeds; NaN for one seed."""
    iqm: np.ndarray
    """(P,) interquartile mean: the mean without the quarter of seeds at either end, rounded down.

    Of three seeds a quarter is none, so that it equals the mean; four are the first it trims.
    """
    low: np.ndarray
    """(P,) lower end of the 95 % interval of ``iqm``; NaN for one seed."""
    high: np.ndarray
    """(P,) upper end."""


def aggregate(curves: Sequence[Curve]) -> Aggregate:
    """Statistics at every evaluation of any seed, over the seeds that have it (one task, one preset)."""
    steps = np.unique(np.concatenate([curve.env_steps for curve in curves]))
    present = np.array([np.isin(steps, curve.env_steps) for curve in curves])  # (seeds, P)
    returns = np.full(present.shape, np.nan)
    for row, has, curve in zip(returns, present, curves, strict=True):
        row[has] = curve.returns
    table = np.full((5, len(steps)), np.nan)
    # Points with the same seeds are resampled together.
    for pattern in np.unique(present, axis=1).T:
        where = (present == pattern[:, None]).all(axis=0)
        table[:, where] = _statistics(returns[np.ix_(pattern, where)])
    return Aggregate(steps, present.sum(axis=0), *table)


def _statistics(returns: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, IQM and its interval, (5, P), of returns (seeds, P)."""
    mean, iqm = returns.mean(axis=0), _iqm(returns[:, None, :])
    if len(returns) == 1:
        nothing = np.full_like(mean, np.nan)
        return np.stack([mean, nothing, iqm, nothing, nothing])
    low, high = _interval(returns)
    return np.stack([mean, returns.std(axis=0, ddof=1), iqm, low, high])


def _iqm(scores: np.ndarray) -> np.ndarray:
    """``rliable.metrics.aggregate_iqm`` at every point: scores (seeds, tasks, P) to (P,)."""
    ordered = np.sort(scores.reshape(-1, scores.shape[-1]), axis=0)
    trimmed = len(ordered) // 4
    mean: np.ndarray = ordered[trimmed : len(ordered) - trimmed].mean(axis=0)
    return mean


def _interval(returns: np.ndarray) -> np.ndarray:
    """95 % stratified bootstrap interval, (2, P), of the IQM of returns (seeds, P).

    The stratum is the task, here always one: seeds are resampled within it, with replacement. With three seeds each of
    the two extremes is drawn three times over in more than 2.5 % of the resamples: the interval is their whole range.
    """
    # rliable's resampling draws from NumPy's global stream, whatever random_state it is given:
    # set it, so that a report can be drawn again as it was, and put it back.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        _, intervals = library.get_interval_estimates(
            {"": returns[:, None, :]}, _iqm, reps=REPLICATIONS
        )
    finally:
        np.random.set_state(state)  # noqa: NPY002
    ends: np.ndarray = intervals[""]
    return ends


@dataclass(frozen=True)
class Summary:
    """A preset on a task, in one line. None where there is nothing to say yet."""

    task: str
    preset: str
    bar: Bar | None
    env_steps: int | None
    """Environment steps the figures are for; see :func:`summarise`."""
    seeds: int
    """Seeds the figures are over."""
    seeds_total: int
    mean: float | None
    std: float | None
    iqm: float | None
    iqm_low: float | None
    iqm_high: float | None
    minutes: float | None
    """Wall-clock minutes up to that evaluation, mean over the seeds."""
    last_over_best: float | None
    """Last evaluation divided by the best one, of the seed where that is least: well below 1 is a collapse."""
    bar_met: bool | None
    """None while runs are too short to tell."""
    reached_at: tuple[int, ...]
    """Environment steps at which each seed first reached the bar's return; only seeds that did."""
    shortest: int
    """Environment steps of the shortest run."""


def summarise(curves: Sequence[Curve], bar: Bar | None) -> Summary:
    """Sum up the seeds of one task and preset.

    The figures are those at the bar's environment steps. Where the bar is to be reached *within* them a run may end
    early, and counts with its last evaluation until then. Without a bar they are those at the last evaluation that all
    seeds have.
    """
    points = [_judged_at(curve, bar, curves) for curve in curves]
    counted = [(c, p) for c, p in zip(curves, points, strict=True) if p is not None]
    figures: list[float | None] = [None] * 5
    minutes = env_steps = None
    if counted:
        values = np.array([[curve.returns[point]] for curve, point in counted])
        figures = [None if np.isnan(x) else float(x) for x in _statistics(values)[:, 0]]
        minutes = float(np.mean([curve.seconds[point] for curve, point in counted])) / 60
        env_steps = bar.env_steps if bar else int(counted[0][0].env_steps[counted[0][1]])
    reached = [_first_reached(curve, bar) for curve in curves] if bar else []
    kept = [c.returns[-1] / c.returns.max() for c in curves if c.returns.max() > 0]
    mean, std, iqm, low, high = figures
    return Summary(
        task=curves[0].task,
        preset=curves[0].preset,
        bar=bar,
        env_steps=env_steps,
        seeds=len(counted),
        seeds_total=len(curves),
        mean=mean,
        std=std,
        iqm=iqm,
        iqm_low=low,
        iqm_high=high,
        minutes=minutes,
        last_over_best=float(min(kept)) if kept else None,
        bar_met=_met(curves, bar, len(counted) == len(curves), mean, reached),
        reached_at=tuple(step for step in reached if step is not None),
        shortest=min(int(curve.env_steps[-1]) for curve in curves),
    )


def _judged_at(curve: Curve, bar: Bar | None, curves: Sequence[Curve]) -> int | None:
    """Index of the evaluation that counts."""
    if bar is None:
        shared = set.intersection(*(set(c.env_steps.tolist()) for c in curves))
        where = np.flatnonzero(curve.env_steps == max(shared)) if shared else np.array([])
    elif bar.kind == "mean_at":
        where = np.flatnonzero(curve.env_steps == bar.env_steps)
    else:
        where = np.flatnonzero(curve.env_steps <= bar.env_steps)
    return int(where[-1]) if len(where) else None


def _first_reached(curve: Curve, bar: Bar) -> int | None:
    there = np.flatnonzero(curve.returns >= bar.eval_return)
    return int(curve.env_steps[there[0]]) if len(there) else None


def _met(
    curves: Sequence[Curve],
    bar: Bar | None,
    all_there: bool,
    mean: float | None,
    reached: Sequence[int | None],
) -> bool | None:
    if bar is None:
        return None
    if bar.kind == "mean_at":
        return mean >= bar.eval_return if all_there and mean is not None else None
    in_time = [step is not None and step <= bar.env_steps for step in reached]
    if all(in_time):
        return True
    late = [
        not ok and c.env_steps[-1] >= bar.env_steps for ok, c in zip(in_time, curves, strict=True)
    ]
    return False if any(late) else None
