"""Validated, frozen descriptions read from YAML, with errors that name file, field and value."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from maac_ros import plain_yaml
from maac_ros.errors import MaacError
from maac_ros.files import read_regular

MAX_YAML_BYTES = 1 << 20
"""A description is a page or two of text; anything larger is refused before it is read."""

MAX_PROBLEMS = 20
"""Lines of a message; the first few say what is wrong with a description."""
MAX_LINE = 2000
"""Characters of one, which may list what was expected."""


class Description(BaseModel):
    """Base of every description: unknown keys are refused, values cannot change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


DescriptionT = TypeVar("DescriptionT", bound=BaseModel)


def read_yaml(path: Path, error: type[MaacError]) -> Any:
    """Read one document of :mod:`maac_ros.plain_yaml`.

    Raises:
        MaacError: of the given type, when the file is missing, no regular file, too large or not plain YAML.
    """
    data = read_regular(path, MAX_YAML_BYTES, error)
    try:
        return plain_yaml.load(data.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as reason:
        raise error(f"{path}: not valid YAML: {reason!s:.400}") from reason


def brief(value: object, width: int = 60) -> str:
    """``repr(value)`` cut to ``width``, without the whole of it being made first: values may be large."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = width
    return short.repr(value)[:width]


def parse(
    data: Any, model: type[DescriptionT], origin: str, error: type[MaacError]
) -> DescriptionT:
    """Validate ``data`` as ``model``; ``origin`` (usually a file name) opens every message.

    Raises:
        MaacError: of the given type, with one line for each wrong field.
    """
    if not isinstance(data, dict):
        raise error(
            f"{origin}: expected a mapping at the top level, got {type(data).__name__} {brief(data)}"
        )
    try:
        return model.model_validate(data)
    except ValidationError as reason:
        raise error("\n".join(describe_problems(reason, origin))) from reason


def load(path: Path, model: type[DescriptionT], error: type[MaacError]) -> DescriptionT:
    """Read and validate one YAML file. Raises as :func:`read_yaml` and :func:`parse` do."""
    return parse(read_yaml(path, error), model, str(path), error)


def describe_problems(reason: ValidationError, origin: str) -> list[str]:
    """One line a problem: origin, field, value, expectation."""
    problems = reason.errors(include_url=False)
    lines = []
    for problem in problems[:MAX_PROBLEMS]:
        field = ".".join(str(part) for part in problem["loc"]) or "(whole document)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{origin}: {field}: unknown key (value {brief(problem['input'])})")
        elif problem["type"] == "missing":
            lines.append(f"{origin}: {field}: missing key; it is required")
        else:
            lines.append(f"{origin}: {field}: got {brief(problem['input'], 80)}; {problem['msg']}")
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"{origin}: and {len(problems) - MAX_PROBLEMS} more of the kind")
    return [line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} ..." for line in lines]
