"""Files of measurements: one JSON schema for every benchmark, study and soak, so that all of them can be shown.

``results/bench/<name>.json`` and ``results/studies/<name>.json`` hold one object each::

    {
      "schema_version": 1,
      "title":      "Update time by horizon",           heading of its section in the report
      "command":    "python bench/update.py --json …",  what was run, to run it again
      "provenance": {"maac_ros": …, "git_revision": …, "cpu": …},   maac_ros.provenance
      "rows":       [{"horizon": 5, "p50_ms": 1.9}, …], one flat table, columns in the order they come
      "details":    {"seed": 0, "raw_ms": [[…], …]}     anything else, as deep as it likes
    }

A picture of the same stem beside it (``<name>.png``) belongs to it. Where nothing was measured a cell is null or
absent; NaN and infinities, which JSON does not have, are refused. Units belong in the names of the columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from maac_ros import schema
from maac_ros.errors import ResultError
from maac_ros.provenance import provenance


def _check_cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(
        "expected a text, a finite number, true, false, or null where nothing was measured"
    )


Cell = Annotated[str | int | float | bool | None, BeforeValidator(_check_cell)]


class Evidence(schema.Description):
    """One file of measurements, validated."""

    schema_version: Literal[1]
    title: str = Field(min_length=1)
    """Heading, without a full stop."""
    command: str = Field(min_length=1)
    """Command line that measures again."""
    provenance: dict[str, str | int | None]
    """Version, revision, time and machine, as :func:`maac_ros.provenance.provenance` gives them."""
    rows: list[dict[str, Cell]] = Field(min_length=1)
    """The table: flat rows, which may lack columns."""
    details: dict[str, Any] = Field(default={})
    """Whatever else is worth keeping: settings, raw figures."""

    @property
    def columns(self) -> list[str]:
        """Every column of any row, in the order they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row))


def write(
    path: Path, title: str, command: str, rows: Sequence[Mapping[str, Any]], **details: Any
) -> Evidence:
    """Write one file of measurements, with version, revision and machine added; folders are made.

    Args:
        path: the file to write, usually the command's ``--json``.
        title: heading of its section in the report.
        command: command line that measures again.
        rows: flat table of texts, numbers, booleans and None; NumPy scalars count as numbers.
        details: anything else that JSON can hold.

    Raises:
        ResultError: when a cell or a detail cannot be written as JSON; nothing is written then.
    """
    evidence = schema.parse(
        {
            "schema_version": 1,
            "title": title,
            "command": command,
            "provenance": provenance(),
            "rows": [{name: _plain(cell) for name, cell in row.items()} for row in rows],
            "details": details,
        },
        Evidence,
        str(path),
        ResultError,
    )
    try:
        text = json.dumps(
            evidence.model_dump(), indent=2, ensure_ascii=False, allow_nan=False, default=_plain
        )
    except (TypeError, ValueError) as reason:
        raise ResultError(f"{path}: details: cannot be written as JSON: {reason}") from reason
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return evidence


def read(path: Path) -> Evidence:
    """Read and validate one file of measurements.

    Raises:
        ResultError: when the file is missing, not JSON, or not of the schema; one line a problem.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as reason:
        raise ResultError(f"{path}: cannot be read: {reason.strerror}") from reason
    except (ValueError, RecursionError) as reason:
        raise ResultError(f"{path}: not valid JSON: {reason}") from reason
    return schema.parse(data, Evidence, str(path), ResultError)


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays as Python's own; everything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
