"""Rendering without a screen. MuJoCo chooses how when it is first imported: this must come before."""

from __future__ import annotations

import os
import subprocess
import sys

from maac_ros.errors import ConfigError

BACKENDS = ("egl", "osmesa")
"""Ways of rendering without a screen, best first: on a graphics card or Mesa's drivers, and in software."""

# MuJoCo and PyOpenGL choose a backend once, when they are imported: only another process can try.
_TRIAL = """
import importlib, sys, mujoco
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(16, 16)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
"""


def choose_backend() -> None:
    """Set ``MUJOCO_GL`` to what renders here; when it is set already that is the only one tried.

    Raises:
        ConfigError: when nothing does.
    """
    wanted = os.environ.get("MUJOCO_GL")
    problems = []
    for backend in (wanted,) if wanted else BACKENDS:
        problem = _try(backend)
        if problem is None:
            os.environ["MUJOCO_GL"] = backend
            return
        problems.append(f"{backend}: {problem}")
    raise ConfigError(
        "MuJoCo cannot render on this machine. Install a software renderer, on Debian and Ubuntu: apt-get "
        "install libegl1 libgl1-mesa-dri (or libosmesa6)"
        + (f"; or unset MUJOCO_GL, now '{wanted}'" if wanted else "")
        + ". What was tried:\n"
        + "\n".join(problems)
    )


def _try(backend: str) -> str | None:
    """Why a backend does not render in a process of its own; None when it does."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL, backend],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "MUJOCO_GL": backend},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no answer in 60 s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line and not line[0].isspace()]
    return lines[-1] if lines else f"ended with {done.returncode}"
