"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from maac_learning import evidence
from maac_learning.report.curves import Curve
from maac_learning.report.published import Published
from maac_learning.report.tables import Table
from maac_learning.report.texts import cell

MAX_DETAILS = 20_000
"""Characters of a measurement's details that are shown; longer ones stay in their file."""


@dataclass(frozen=True)
class TaskSection:
    """A task of the page."""

    anchor: str
    title: str
    picture: Path
    table: Table
    published: Table | None
    note: str
    """On the published returns."""
    curves: Sequence[Curve]


@dataclass(frozen=True)
class MeasurementSection:
    """A benchmark, study or soak of the page."""

    anchor: str
    path: Path
    evidence: evidence.Evidence
    picture: Path | None
    table: Table
    details: str | None
    """As JSON; None where there are none, or too many."""


def read_measurement(path: Path) -> MeasurementSection:
    """Read one file of measurements, and find its picture.

    Raises:
        ResultError: when the file is malformed.
    """
    found = evidence.read(path)
    cells = [[row.get(name) for name in found.columns] for row in found.rows]
    words = [
        i
        for i, column in enumerate(zip(*cells, strict=True))
        if any(isinstance(c, str) for c in column)
    ]
    details = json.dumps(found.details, indent=2, ensure_ascii=False) if found.details else None
    picture = path.with_suffix(".png")
    return MeasurementSection(
        anchor=f"{path.parent.name}-{path.stem}",
        path=path,
        evidence=found,
        picture=picture if picture.is_file() else None,
        table=Table(found.columns, [[cell(c) for c in row] for row in cells], words),
        details=details if details and len(details) <= MAX_DETAILS else None,
    )


def write_page(
    path: Path,
    summary: Table | None,
    overview: Path | None,
    tasks: Sequence[TaskSection],
    measurements: Mapping[str, Sequence[MeasurementSection]],
    published: Published,
) -> None:
    """Write the page. ``measurements`` are by heading; ``published`` says where its figures come from."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["pretty_json"] = lambda value: json.dumps(value, indent=2)
    text = environment.get_template("page.html").render(
        summary=summary,
        overview=overview,
        tasks=tasks,
        measurements={heading: list(found) for heading, found in measurements.items() if found},
        published=published,
    )
    path.write_text(text, encoding="utf-8")


def _data_uri(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
