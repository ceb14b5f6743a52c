"""Find the data that ships with the package (``config/``, ``bundles/``), in a source tree or installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from maac_ros.errors import BundleError, ConfigError

_MENAGERIE = "menagerie:"

_SOURCE_ROOT = Path(__file__).resolve().parent.parent


def share_directory() -> Path:
    """Return the folder that holds ``config/`` and ``launch/``.

    The source tree wins where the package runs from one (editable install, ``--symlink-install``);
    otherwise it is ``share/maac_ros`` below the install prefix.

    Raises:
        ConfigError: when neither place has the package's data.
    """
    # Installed below <prefix>/lib/pythonX.Y/site-packages: colcon's prefix is not sys.prefix.
    prefixes = [_SOURCE_ROOT.parents[i] for i in range(min(4, len(_SOURCE_ROOT.parents)))]
    candidates = [
        _SOURCE_ROOT,
        *(prefix / "share" / "maac_ros" for prefix in [*prefixes, Path(sys.prefix)]),
    ]
    for candidate in candidates:
        if (candidate / "config" / "tasks").is_dir():
            return candidate
    raise ConfigError(
        "the data files of maac_ros were not found; looked for config/tasks in: "
        + ", ".join(str(c) for c in candidates)
    )


def named_file(folder: str, name: str, kind: str) -> Path:
    """Resolve ``name`` to a YAML file: a path as it stands, or the stem of a shipped file.

    Args:
        folder: folder below ``config/``, for example ``tasks``.
        name: a path to a YAML file, or a shipped name such as ``hopper``.
        kind: what it is, for the error message.

    Raises:
        ConfigError: when there is no such file; the message lists the shipped names.
    """
    path = _expanded(name)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if os.path.isfile(path):
            return path
        raise ConfigError(f"{kind} file '{name:.200}' does not exist")
    directory = share_directory() / "config" / folder
    shipped = directory / f"{name}.yaml"
    if os.path.isfile(shipped):
        return shipped
    known = ", ".join(sorted(p.stem for p in directory.glob("*.yaml"))) or "none"
    raise ConfigError(
        f"unknown {kind} '{name:.200}': expected a path to a YAML file, or one of: {known}"
    )


def world_file(name: str) -> Path:
    """Resolve ``name`` to an MJCF file: a path as it stands, the name of a file of ``sim/``, or ``menagerie:<robot>``.

    The last is a robot of MuJoCo Menagerie, with ``/<entry>`` one of its other XML files; its package downloads it on
    first use.

    Raises:
        ConfigError: when there is no such file; the message lists the shipped names.
    """
    if name.startswith(_MENAGERIE):
        return _menagerie_file(name)
    path = _expanded(name)
    shipped = share_directory() / "sim"
    if os.path.isfile(path):
        return path
    if len(path.parts) == 1 and os.path.isfile(shipped / name):
        return shipped / name
    known = ", ".join(sorted(p.name for p in shipped.glob("*.xml"))) or "none"
    raise ConfigError(
        f"world file '{name:.200}' does not exist; expected a path to an MJCF file, or one of: {known}"
    )


def _menagerie_file(name: str) -> Path:
    robot, _, entry = name.removeprefix(_MENAGERIE).partition("/")
    try:
        import mujoco_menagerie
    except ImportError as reason:
        raise ConfigError(
            f"world file '{name}' needs the package mujoco-menagerie: pip install mujoco-menagerie"
        ) from reason
    try:
        return Path(mujoco_menagerie.get(robot).xml(entry or None))
    except mujoco_menagerie.MenagerieError as reason:
        raise ConfigError(f"world file '{name}': {reason}") from reason


def bundle_folder(name: str) -> Path:
    """Resolve ``name`` to a bundle's folder: a path as it stands, or the name of a shipped bundle, its task's.

    Raises:
        BundleError: when there is no such folder; the message lists the shipped names.
    """
    folder = _expanded(name)
    if name and os.path.isdir(folder):
        return folder
    shipped = share_directory() / "bundles"
    if name and len(folder.parts) == 1 and os.path.isdir(shipped / name):
        return shipped / name
    known = ", ".join(sorted(p.name for p in shipped.glob("*"))) or "none"
    raise BundleError(
        f"bundle '{name:.200}' is not a folder; expected a path to one, or a shipped bundle: {known}"
    )


def _expanded(name: str) -> Path:
    """``name`` as a path, with a leading ``~`` for what it stands for where there is such a user.

    What cannot be a path, being too long or having a NUL in it, is one at which nothing exists: ``os.path`` says so
    where :class:`~pathlib.Path` raises.
    """
    try:
        return Path(name).expanduser()
    except (RuntimeError, ValueError):
        return Path(name)
