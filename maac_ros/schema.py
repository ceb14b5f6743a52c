"""Validated, frozen descriptions read from YAML, with errors that name file, field and value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from maac_ros.errors import MaacError

MAX_YAML_BYTES = 1 << 20
"""A description is a page or two of text; anything larger is refused before it is read."""


class Description(BaseModel):
    """Base of every description: unknown keys are refused, values cannot change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


DescriptionT = TypeVar("DescriptionT", bound=BaseModel)


def read_yaml(path: Path, error: type[MaacError]) -> Any:
    """Read one YAML document with the safe loader.

    Raises:
        MaacError: of the given type, when the file is missing, too large or not YAML.
    """
    try:
        size = path.stat().st_size
        if size > MAX_YAML_BYTES:
            raise error(f"{path}: {size} bytes; expected at most {MAX_YAML_BYTES}")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror}") from reason
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as reason:
        raise error(f"{path}: not valid YAML: {reason}") from reason


def parse(
    data: Any, model: type[DescriptionT], origin: str, error: type[MaacError]
) -> DescriptionT:
    """Validate ``data`` as ``model``; ``origin`` (usually a file name) opens every message.

    Raises:
        MaacError: of the given type, with one line for each wrong field.
    """
    if not isinstance(data, dict):
        raise error(
            f"{origin}: expected a mapping at the top level, got {type(data).__name__} {data!r:.60}"
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
    lines = []
    for problem in reason.errors():
        field = ".".join(str(part) for part in problem["loc"]) or "(whole document)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{origin}: {field}: unknown key (value {problem['input']!r:.60})")
        elif problem["type"] == "missing":
            lines.append(f"{origin}: {field}: missing key; it is required")
        else:
            lines.append(f"{origin}: {field}: got {problem['input']!r:.80}; {problem['msg']}")
    return lines
