"""The tables of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from maac_learning.report.aggregate import Summary
from maac_learning.report.published import Published
from maac_learning.report.texts import cell, steps, whole


@dataclass(frozen=True)
class Table:
    """Rows of texts. Columns of figures are aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int | Sequence[int] = 1
    """Columns of words: the first so many, or just these."""

    def aligned_left(self, column: int) -> bool:
        """Whether a column holds words."""
        return column < self.words if isinstance(self.words, int) else column in self.words

    def __str__(self) -> str:
        """The table for a terminal."""
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [
            "  ".join(
                text.ljust(width) if self.aligned_left(i) else text.rjust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in (self.columns, *self.rows)
        ]
        return "\n".join(line.rstrip() for line in lines)


def summary_table(summaries: Sequence[Summary], published: Published | None = None) -> Table:
    """A line for each preset; with ``published``, which names the tasks, for several tasks."""
    columns = [
        "preset",
        "to be reached",
        "reached",
        "seeds",
        "mean ± std",
        "IQM [95 %]",
        "last ÷ best",
        "minutes",
    ]
    rows = [
        [
            found.preset,
            str(found.bar) if found.bar else "–",
            _reached(found),
            f"{found.seeds} of {found.seeds_total}",
            _mean_and_std(found),
            _interval(found),
            "–" if found.last_over_best is None else f"{found.last_over_best:.2f}",
            "–" if found.minutes is None else f"{found.minutes:.1f}",
        ]
        for found in summaries
    ]
    if published is None:
        return Table(columns, rows, words=3)
    titles = [[published.title(found.task)] for found in summaries]
    return Table(
        ["task", *columns], [t + row for t, row in zip(titles, rows, strict=True)], words=4
    )


def _reached(found: Summary) -> str:
    if found.bar is None:
        return "–"
    if found.bar_met is None:
        return f"open: one is at {steps(found.shortest)}"
    if found.bar.kind == "reached_within" and found.bar_met:
        first, last = min(found.reached_at), max(found.reached_at)
        return f"yes, at {first}" + (f" to {last}" if last > first else "")
    return "yes" if found.bar_met else "no"


def _mean_and_std(found: Summary) -> str:
    if found.mean is None:
        return "–"
    return whole(found.mean) + (f" ± {whole(found.std)}" if found.std is not None else "")


def _interval(found: Summary) -> str:
    if found.iqm is None:
        return "–"
    if found.iqm_low is None or found.iqm_high is None:
        return whole(found.iqm)
    return f"{whole(found.iqm)} [{whole(found.iqm_low)}, {whole(found.iqm_high)}]"


def published_table(
    task: str, summaries: Sequence[Summary], published: Published
) -> tuple[Table | None, str]:
    """What other methods reach on a task, with our means over theirs at the bar's steps; and a note on it."""
    bar = published.bar(task)
    methods = [m for m in published.methods if task in m.returns or task in m.converged]
    if not methods or bar is None:
        return None, ""
    grid = sorted({step for m in methods for step in m.returns.get(task, {})})
    converged = any(task in m.converged for m in methods)
    ours = [found for found in summaries if found.mean is not None]
    columns = [
        "method",
        *(steps(step) for step in grid),
        *(["converged"] if converged else []),
        *(f"{found.preset} ÷ it" for found in ours),
    ]
    rows = []
    for method in methods:
        mark = "*" if task in method.own_rewards else ""
        values = [method.returns.get(task, {}).get(step) for step in grid]
        if converged:
            values.append(method.converged.get(task))
        theirs = method.at(task, bar.env_steps)
        ratios = [
            f"{found.mean / theirs:.2f}" if theirs and found.mean is not None else "–"
            for found in ours
        ]
        rows.append(
            [
                method.name,
                *(cell(v) + (mark if v is not None else "") for v in values),
                *ratios,
            ]
        )
    note = f"÷ it: the mean at {steps(bar.env_steps)} measured here over the method's."
    if any(task in m.own_rewards for m in methods):
        note += " *: on rewards of its own, not comparable, and not in the picture."
    return Table(columns, rows), note


def summary_row(found: Summary) -> dict[str, Any]:
    """A summary as a flat row for ``--json``."""
    row: dict[str, Any] = {field.name: getattr(found, field.name) for field in fields(found)}
    row["reached_at"] = " ".join(map(str, found.reached_at)) or None
    del row["bar"]
    if found.bar is not None:
        row["bar_return"], row["bar_env_steps"] = found.bar.eval_return, found.bar.env_steps
    return row
