"""Films of simulated episodes, made without a screen."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from maac_ros.errors import ConfigError

BACKENDS = ("egl", "osmesa")
"""Ways of rendering without a screen, best first: on a graphics card or Mesa's drivers, and in software."""

MAX_FPS = 60.0
"""Robots controlled at a higher rate are shown in every second frame, every third, and so on, in real time."""

_SUFFIXES = (".mp4", ".mkv", ".mov")

# MuJoCo and PyOpenGL choose a backend once, when they are imported: only another process can try.
_TRIAL = """
import importlib, sys, mujoco
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(16, 16)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
"""


def check_video(path: Path) -> None:
    """Check that a film can be made, and choose how to render it.

    ``MUJOCO_GL``, when it is set, names the only backend to try; it is set to the one that works.

    Raises:
        ConfigError: when the name has no suffix of a film, its folder does not exist, or nothing renders here.
    """
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"--video: got '{path}'; expected a name in {', '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--video: the folder '{path.parent}' does not exist")
    wanted = os.environ.get("MUJOCO_GL")
    problems = []
    for backend in (wanted,) if wanted else BACKENDS:
        problem = _try(backend)
        if problem is None:
            os.environ["MUJOCO_GL"] = backend
            return
        problems.append(f"{backend}: {problem}")
    raise ConfigError(
        "--video: MuJoCo cannot render on this machine. Install a software renderer, on Debian and Ubuntu: apt-get "
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


class Video:
    """A film in real time, H.264 where the name ends in .mp4; a context manager.

    Args:
        path: of the film.
        period_s: time from one frame to the next, seconds.
    """

    def __init__(self, path: Path, period_s: float) -> None:
        self._every = math.ceil(1.0 / (period_s * MAX_FPS) - 1e-9)
        self._frames = 0
        self._writer = imageio.get_writer(
            str(path), fps=1.0 / (period_s * self._every), macro_block_size=2
        )

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, frame: np.ndarray[Any, Any]) -> None:
        """Append a frame (height, width, 3), uint8."""
        if self._frames % self._every == 0:
            self._writer.append_data(frame)
        self._frames += 1
