"""``maac report``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from maac_learning import evidence
from maac_learning.report.aggregate import aggregate, summarise
from maac_learning.report.curves import Curve, find_curves
from maac_learning.report.page import TaskSection, read_measurement, write_page
from maac_learning.report.plots import Panel, draw_overview, draw_task
from maac_learning.report.published import Published, load_published
from maac_learning.report.style import looks_of
from maac_learning.report.tables import published_table, summary_row, summary_table
from maac_ros.errors import ResultError

MEASUREMENTS = {"bench": "Benchmarks", "studies": "Studies"}
"""Folders of measurements, and their headings on the page."""


@dataclass(frozen=True)
class ReportArguments:
    """Draw the learning curves and measurements below a folder of results: pictures, tables, one page."""

    results: Path = Path("results")
    """Holds <task>/<preset>/seed<k>.csv, bench/*.json and studies/*.json."""
    out: Path = Path("results/report")
    """Folder for index.html and the pictures."""
    json: Path | None = None
    """Also write the table of learning curves to this file."""


def report(arguments: Sequence[str]) -> int:
    """``maac report``. The same results give the same pictures and the same page, byte for byte.

    Raises:
        ResultError: when there are no results, or one is malformed; nothing is drawn then.
    """
    chosen = tyro.cli(ReportArguments, prog="maac report", args=list(arguments))
    published = load_published()
    curves = find_curves(chosen.results)
    measurements = {
        heading: [
            read_measurement(path) for path in sorted((chosen.results / folder).glob("*.json"))
        ]
        for folder, heading in MEASUREMENTS.items()
    }
    if not curves and not any(measurements.values()):
        raise ResultError(
            f"{chosen.results}: no results; expected <task>/<preset>/seed<k>.csv, bench/*.json or studies/*.json"
        )
    if not curves and chosen.json is not None:
        raise ResultError(f"{chosen.results}: no <task>/<preset>/seed<k>.csv to write a table of")
    chosen.out.mkdir(parents=True, exist_ok=True)
    summaries = []
    overview = None
    sections = []
    if curves:
        by_task = _grouped(curves, published)
        looks = looks_of(_presets(curves))
        panels = []
        for task, by_preset in by_task.items():
            panels.append(
                Panel(task, by_preset, {p: aggregate(found) for p, found in by_preset.items()})
            )
            here = [summarise(found, published.bar(task)) for found in by_preset.values()]
            summaries += here
            picture = chosen.out / f"{task}.png"
            draw_task(panels[-1], looks, published, picture)
            table, note = published_table(task, here, published)
            sections.append(
                TaskSection(
                    anchor=task,
                    title=published.title(task),
                    picture=picture,
                    table=summary_table(here),
                    published=table,
                    note=note,
                    curves=[curve for found in by_preset.values() for curve in found],
                )
            )
        overview = chosen.out / "overview.png"
        draw_overview(panels, looks, published, overview)
    summary = summary_table(summaries, published) if summaries else None
    page = chosen.out / "index.html"
    write_page(page, summary, overview, sections, measurements, published)
    if summary is not None:
        print(summary)
    print(f"page: {page}")
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            title="Learning curves",
            command=shlex.join(["maac", "report", *arguments]),
            rows=[summary_row(found) for found in summaries],
            published={
                task: {m.name: m.returns[task] for m in published.methods if task in m.returns}
                for task in by_task
            },
        )
    return 0


def _presets(curves: Sequence[Curve]) -> list[str]:
    """The default preset first, as it has the same place and colour everywhere; then by name."""
    return sorted({curve.preset for curve in curves}, key=lambda name: (name != "default", name))


def _grouped(curves: Sequence[Curve], published: Published) -> dict[str, dict[str, list[Curve]]]:
    """Curves by task, in the order of the benchmark, and by preset."""
    tasks = {curve.task for curve in curves}
    known = [task for task in published.tasks if task in tasks]
    order = [*known, *sorted(tasks - set(known))]
    grouped: dict[str, dict[str, list[Curve]]] = {}
    for task in order:
        here = [curve for curve in curves if curve.task == task]
        grouped[task] = {p: [c for c in here if c.preset == p] for p in _presets(here)}
    return grouped
