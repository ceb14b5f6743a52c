"""What the documentation site makes by itself: its start page, its reference, and links out of the docs folder."""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]

COPIED = "repository"
"""Folder of the site for what pages link to outside of the docs folder."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")

NODES = ("policy_node", "sim_node", "camera_node", "trainer_node")

DESCRIPTIONS = {
    "A task": ("maac_ros.task", ["Task", "Control", "TerminationTerm", "PlannerSettings"]),
    "The robot of a task": ("maac_ros.robot", ["Robot", "Joint", "FloatingBase", "Mirror"]),
    "Its simulated world": ("maac_ros.world_terms", ["Simulation", "JointReset", "BaseReset"]),
    "What the robot is like": ("maac_ros.conditions", ["Randomization", "Conditions", "Noise"]),
    "Observation terms": ("maac_ros.observation_terms", None),
    "Action terms": ("maac_ros.action_terms", None),
    "Reward terms": ("maac_ros.reward_terms", None),
    "A robot's binding": ("maac_ros.binding", None),
}
"""Modules whose descriptions are listed, and which of them: None for all."""

SETTINGS = ("TrainConfig", "ModelConfig", "RolloutConfig", "AgentConfig", "EvaluationConfig")

PYTHON = (
    "maac_ros.terms",
    "maac_ros.task",
    "maac_ros.simulation",
    "maac_ros.bundle",
    "maac_ros.controller",
    "maac_ros.planner",
    "maac_ros.monitor",
    "maac_ros.memory",
    "maac_learning.trainer",
    "maac_learning.agent",
    "maac_learning.dynamics",
    "maac_learning.fitting",
    "maac_learning.objectives",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the start page, the reference, and the files that pages link to."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {
        "index.md": readme,
        "reference/parameters.md": _parameters(),
        "reference/descriptions.md": _descriptions(),
        "reference/settings.md": _settings(),
        "reference/python.md": _python(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    written = {
        p.relative_to(ROOT / "docs").as_posix(): p.read_text() for p in ROOT.glob("docs/*.md")
    }
    linked = {path for name, text in {**written, **pages}.items() for path in _outside(name, text)}
    for path in sorted(linked):
        source = str(ROOT / path)
        files.append(File.generated(config, f"{COPIED}/{path}", abs_src_path=source))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their targets are in the site."""
    name = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        path = _repository_path(name, target)
        if path is None:
            return match[0]
        if (ROOT / path).is_dir():
            return f"{text} (`{path}`)"
        if path.startswith("docs/"):
            place = path.removeprefix("docs/")
        else:
            place = f"{COPIED}/{path}"
        place = posixpath.relpath(place, posixpath.dirname(name) or ".")
        return f"{mark}[{text}]({place}{anchor or ''})"

    return _LINK.sub(moved, markdown)


def _repository_path(page: str, target: str) -> str | None:
    """Where in the repository a link of ``page`` leads; None for one to another place."""
    if "://" in target or target.startswith("mailto:"):
        return None
    folder = "" if page == "index.md" else "docs"
    path = posixpath.normpath(posixpath.join(folder, target))
    return path if (ROOT / path).exists() else None


def _outside(page: str, text: str) -> Iterator[str]:
    """Files outside of the docs folder that ``text`` links to."""
    for match in _LINK.finditer(text):
        path = _repository_path(page, match[3])
        if path is not None and not path.startswith("docs/") and (ROOT / path).is_file():
            yield path


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _prose(text: str | None) -> str:
    """A docstring as Markdown: code in double backticks, roles without their marks."""
    text = inspect.cleandoc(text or "").replace("``", "`")
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)


def _table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["-"] * len(head), *([_cell(v) for v in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _parameters() -> str:
    parts = ["# Parameters of the nodes"]
    for name in NODES:
        module = importlib.import_module(f"maac_ros.nodes.{name}")
        specs = getattr(module, "SPECS", None)
        specs = specs.values() if specs else module.PARAMETERS
        rows = [
            [
                f"`{spec.name}`",
                f"`{spec.default!r}`",
                _limits(spec),
                "at start" if spec.fixed else "while it runs",
                _prose(spec.description),
            ]
            for spec in specs
        ]
        head = ["parameter", "default", "values", "set", "what it does"]
        parts += [f"## {name}", _prose(module.__doc__), _table(head, rows)]
    return "\n\n".join(parts) + "\n"


def _limits(spec: Any) -> str:
    if spec.choices:
        return ", ".join(f"`{choice}`" for choice in spec.choices)
    return "" if spec.low is None else f"{spec.low:g} to {spec.high:g}"


def _descriptions() -> str:
    parts = ["# Tasks and robots", "What YAML files of `config/tasks/` and `config/robots/` hold."]
    for title, (place, names) in DESCRIPTIONS.items():
        module = importlib.import_module(place)
        classes = [
            each
            for each in vars(module).values()
            if inspect.isclass(each)
            and issubclass(each, BaseModel)
            and each.__module__ == place
            and not each.__name__.startswith("_")
            and (names is None or each.__name__ in names)
        ]
        parts.append(f"## {title}")
        parts += [_model(each) for each in classes]
    return "\n\n".join(parts) + "\n"


def _settings() -> str:
    module = importlib.import_module("maac_learning.config")
    parts = [
        "# Learning settings",
        "As options of `maac train` (`--agent.horizon 3`), and in a preset's YAML file (`agent: {horizon: 3}`).",
    ]
    parts += [_model(getattr(module, name)) for name in SETTINGS]
    return "\n\n".join(parts) + "\n"


def _model(model: type[BaseModel]) -> str:
    """A description's fields, with their types, defaults and docstrings."""
    rows: list[list[object]] = []
    for name, field in model.model_fields.items():
        default: object = "required" if field.is_required() else f"`{_plain(field.default)}`"
        rows.append([f"`{name}`", _type(field.annotation), default, _prose(field.description)])
    name = _term(model) or model.__name__
    return f"### {name}\n\n{_prose(model.__doc__)}\n\n" + _table(
        ["field", "type", "default", "meaning"], rows
    )


def _term(model: type[BaseModel]) -> str:
    field = model.model_fields.get("term")
    names = get_args(field.annotation) if field else ()
    return str(names[0]) if len(names) == 1 else ""


def _plain(value: object) -> object:
    return "as below" if isinstance(value, BaseModel) else value


def _type(annotation: Any) -> str:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation.__name__
    text = re.sub(r"\b(?:typing|maac_ros|maac_learning|types)\.(?:\w+\.)*", "", str(annotation))
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    # A bar would end the table's cell.
    text = text.replace(" | ", " or ")
    return f"`{text}`" if len(text) < 80 else "one of those below"


def _python() -> str:
    return "# Python\n\n" + "\n\n".join(f"::: {module}" for module in PYTHON) + "\n"
