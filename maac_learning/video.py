"""Films of simulated episodes, made without a screen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from maac_ros.errors import ConfigError
from maac_ros.rendering import choose_backend

MAX_FPS = 60.0
"""Robots controlled at a higher rate are shown in every second frame, every third, and so on, in real time."""

_SUFFIXES = (".mp4", ".mkv", ".mov")


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
    try:
        choose_backend()
    except ConfigError as reason:
        raise ConfigError(f"--video: {reason}") from reason


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
