"""Committed learning curves: ``results/<task>/<preset>/seed<k>.csv``, each a copy of a run's ``curve.csv``."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maac_ros.errors import ResultError

REQUIRED_COLUMNS = ("env_steps", "eval_return", "eval_return_std", "seconds")
"""What every curve has, a baseline's too; a run's further columns (losses) are not read."""
REQUIRED_HEADER = ("maac_ros", "git_revision", "created", "system")
"""Provenance without which a curve is no evidence."""

_FILE_NAME = re.compile(r"seed(0|[1-9]\d*)\.csv")


@dataclass(frozen=True)
class Curve:
    """One seed: P evaluations of one training run."""

    path: Path
    task: str
    preset: str
    seed: int
    header: Mapping[str, str]
    """Provenance, less the settings."""
    settings: Mapping[str, Any] | None
    """The run's settings, where the file has them."""
    env_steps: np.ndarray
    """(P,) environment steps at each evaluation, strictly increasing."""
    returns: np.ndarray
    """(P,) mean evaluation return, undiscounted."""
    seconds: np.ndarray
    """(P,) wall-clock time from the start of the run, s."""


def find_curves(results: Path) -> list[Curve]:
    """Read every ``<task>/<preset>/seed<k>.csv`` below ``results``, by task, preset and seed.

    Raises:
        ResultError: when a file is malformed, or a ``seed*.csv`` is not named after a seed.
    """
    curves = [read_curve(path) for path in results.glob("*/*/seed*.csv")]
    return sorted(curves, key=lambda curve: (curve.task, curve.preset, curve.seed))


def read_curve(path: Path) -> Curve:
    """Read and check one curve; task, preset and seed follow from its place.

    Raises:
        ResultError: naming file, line and column of what is wrong.
    """
    name = _FILE_NAME.fullmatch(path.name)
    if name is None:
        raise ResultError(f"{path}: expected a name like seed0.csv, seed<number>.csv")
    task, preset, seed = path.parent.parent.name, path.parent.name, int(name[1])
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as reason:
        raise ResultError(f"{path}: cannot be read: {reason.strerror}") from reason
    except UnicodeDecodeError as reason:
        raise ResultError(f"{path}: not UTF-8 text: {reason}") from reason
    comments = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header = _header(path, lines[:comments])
    settings = _settings(path, header.pop("settings", None), task, seed)
    rows = _rows(path, lines, comments)
    return Curve(
        path=path,
        task=task,
        preset=preset,
        seed=seed,
        header=header,
        settings=settings,
        env_steps=rows[:, 0].astype(np.int64),
        returns=rows[:, 1],
        seconds=rows[:, 3],
    )


def _header(path: Path, lines: list[str]) -> dict[str, str]:
    header = {}
    for number, line in enumerate(lines, 1):
        key, colon, value = line[1:].partition(":")
        if not colon:
            raise ResultError(f"{path}, line {number}: got {line!r:.80}; expected '# key: value'")
        header[key.strip()] = value.strip()
    missing = [key for key in REQUIRED_HEADER if key not in header]
    if missing:
        raise ResultError(
            f"{path}: the header lacks {', '.join(missing)}; expected lines '# key: value' for "
            + ", ".join(REQUIRED_HEADER)
        )
    return header


def _settings(path: Path, text: str | None, task: str, seed: int) -> Mapping[str, Any] | None:
    """The settings line; it must not contradict the place that the file was copied to."""
    if text is None:
        return None
    try:
        settings = json.loads(text)
    except ValueError as reason:
        raise ResultError(f"{path}: settings: not valid JSON: {reason}") from reason
    if not isinstance(settings, dict):
        raise ResultError(f"{path}: settings: got {text!r:.60}; expected a JSON object")
    if "task" in settings and Path(str(settings["task"])).stem != task:
        raise ResultError(
            f"{path}: settings: task: got {settings['task']!r}; expected '{task}', the name of the folder"
        )
    if "seed" in settings and settings["seed"] != seed:
        raise ResultError(
            f"{path}: settings: seed: got {settings['seed']!r}; expected {seed}, as in the file's name"
        )
    return settings


def _rows(path: Path, lines: list[str], start: int) -> np.ndarray:
    """(P, 4): the required columns of every row, checked."""
    if start == len(lines):
        raise ResultError(f"{path}: no line with the names of the columns")
    columns = next(csv.reader([lines[start]]), [])
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise ResultError(
            f"{path}, line {start + 1}: no column {', '.join(map(repr, missing))} among {lines[start]!r:.120}"
        )
    where = [columns.index(name) for name in REQUIRED_COLUMNS]
    rows: list[list[float]] = []
    for number, line in enumerate(lines[start + 1 :], start + 2):
        cells = next(csv.reader([line]), [])
        if len(cells) != len(columns):
            raise ResultError(
                f"{path}, line {number}: {len(cells)} cells; expected {len(columns)}, "
                f"the columns of line {start + 1}"
            )
        row = [
            _number(cells[i], f"{path}, line {number}, column '{name}'")
            for i, name in zip(where, REQUIRED_COLUMNS, strict=True)
        ]
        least = rows[-1][0] if rows else -1
        if not (row[0].is_integer() and row[0] > least):
            raise ResultError(
                f"{path}, line {number}, column 'env_steps': got {cells[where[0]]!r}; expected a whole "
                + (f"number above {least:.0f}, the line before" if rows else "number, 0 or more")
            )
        rows.append(row)
    if not rows:
        raise ResultError(
            f"{path}: no evaluation; expected at least one row below line {start + 1}"
        )
    return np.array(rows)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ResultError(f"{where}: got {text!r:.40}; expected a finite number")
    return value
