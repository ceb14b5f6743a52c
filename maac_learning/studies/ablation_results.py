"""What became of each variant of an ablation: statistics over seeds, beside the full algorithm and the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maac_learning.benchmarks.runs import Run
from maac_learning.report.published import Bar
from maac_learning.studies.variants import Effect, Variant

SIMILAR = 0.1
"""Shares of the full algorithm's area that are no nearer to 1 than this are a drop or a gain."""
SEVERE = 0.5
"""Shares below this are a severe drop."""
STANDARD_ERRORS = 2.0
"""Differences within so many standard errors, over seeds, are not clear."""


@dataclass(frozen=True)
class Outcome:
    """One variant on one task: S seeds, at the P evaluations that all of them have.

    Attributes:
        setting: what differs from the full algorithm, as text.
        seeds: those that were evaluated at all.
        env_steps: (P,).
        returns: (S, P) evaluation returns, undiscounted.
        seconds: wall-clock time of each seed's run so far.
        finished: whether all of its runs are at their end.
    """

    task: str
    variant: Variant
    setting: str
    seeds: tuple[int, ...]
    env_steps: np.ndarray
    returns: np.ndarray
    seconds: tuple[float, ...]
    finished: bool

    @property
    def mean(self) -> np.ndarray:
        """(P,) mean over seeds."""
        mean: np.ndarray = self.returns.mean(axis=0)
        return mean

    def solved_at(self, bar: Bar) -> list[int | None]:
        """Environment steps at which each seed first reached the bar's return."""
        reached = self.returns >= bar.eval_return
        return [int(self.env_steps[row.argmax()]) if row.any() else None for row in reached]

    def averages(self, env_steps: np.ndarray) -> np.ndarray:
        """(S,) area under each curve at ``env_steps``, some of its own, over their range: the average return."""
        returns = self.returns[:, np.isin(self.env_steps, env_steps)]
        if len(env_steps) == 1:
            return np.asarray(returns[:, 0])
        areas = 0.5 * (returns[:, 1:] + returns[:, :-1]) * np.diff(env_steps)
        return np.asarray(areas.sum(axis=1) / (env_steps[-1] - env_steps[0]))


def outcome(variant: Variant, setting: str, runs: Sequence[Run]) -> Outcome | None:
    """What the ``runs``, one a seed, have come to; None before the first evaluation."""
    curves = {run: {p.env_steps: p for p in run.curve()} for run in runs}
    begun = {run: points for run, points in curves.items() if points}
    if not begun:
        return None
    steps = sorted(set.intersection(*(set(points) for points in begun.values())))
    return Outcome(
        task=runs[0].task,
        variant=variant,
        setting=setting,
        seeds=tuple(run.seed for run in begun),
        env_steps=np.array(steps),
        returns=np.array([[points[s].eval_return for s in steps] for points in begun.values()]),
        seconds=tuple(max(p.seconds for p in points.values()) for points in begun.values()),
        finished=all(run.finished() for run in runs),
    )


def share_of_area(found: Outcome, full: Outcome) -> float | None:
    """Area under the mean curve over that of the full algorithm, where both have evaluations.

    None where the full algorithm's is not above 0.
    """
    ours, theirs = _averages(found, full)
    return float(ours.mean() / theirs.mean()) if theirs.mean() > 0 else None


def effect_of(found: Outcome, full: Outcome) -> Effect | None:
    """The difference from the full algorithm in words; None where there is no share of an area to judge by.

    With two seeds or more of each, a difference must exceed :data:`STANDARD_ERRORS` of it to be called one.
    """
    share = share_of_area(found, full)
    if share is None:
        return None
    both = _averages(found, full)
    noise = 0.0
    if min(map(len, both)) > 1:
        noise = STANDARD_ERRORS * np.sqrt(sum(x.var(ddof=1) / len(x) for x in both))
    if abs(both[0].mean() - both[1].mean()) <= noise or abs(share - 1) <= SIMILAR:
        return "no clear difference"
    if share > 1:
        return "gain"
    return "severe drop" if share < SEVERE else "drop"


def _averages(found: Outcome, full: Outcome) -> tuple[np.ndarray, np.ndarray]:
    shared = np.intersect1d(found.env_steps, full.env_steps)
    return found.averages(shared), full.averages(shared)


def row(found: Outcome, full: Outcome | None, bar: Bar | None) -> dict[str, Any]:
    """The table's row of one variant.

    Args:
        found: its outcome.
        full: that of the full algorithm; None before its first evaluation.
        bar: return that solves the task, for tasks that can be solved.
    """
    last = found.returns[:, -1]
    result: dict[str, Any] = {
        "task": found.task,
        "variant": found.variant.label,
        "setting": found.setting,
        "seeds": len(found.seeds),
        "env_steps": int(found.env_steps[-1]),
        "final_return": last.mean(),
        "final_return_std": last.std(ddof=1) if len(last) > 1 else None,
        "best_return": found.mean.max(),
    }
    if bar is not None:
        steps = found.solved_at(bar)
        result["solved_at"] = ", ".join("never" if step is None else str(step) for step in steps)
    result["area_share_of_full"] = share_of_area(found, full) if full else None
    reference = full is not None and found.variant is full.variant
    effect = effect_of(found, full) if full and not reference else None
    said = found.variant.finding(found.task)
    result["effect"] = effect
    result["paper"] = said.text if said else None
    result["as_in_paper"] = effect in said.effects if said and effect else None
    result["finished"] = found.finished
    return result


def seed_rows(found: Outcome, bar: Bar | None) -> list[dict[str, Any]]:
    """The same, seed by seed."""
    solved = found.solved_at(bar) if bar else [None] * len(found.seeds)
    averages = found.averages(found.env_steps)
    return [
        {
            "task": found.task,
            "variant": found.variant.name,
            "seed": seed,
            "final_return": found.returns[i, -1],
            "best_return": found.returns[i].max(),
            "average_return": averages[i],
            "solved_at": solved[i],
            "wall_clock_s": found.seconds[i],
        }
        for i, seed in enumerate(found.seeds)
    ]
