"""Measurements through ROS 2 run in a process of their own: only that imports ROS."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maac_ros.errors import BenchmarkError


def print_row(row: Mapping[str, Any]) -> None:
    """One line for each cell."""
    for name, value in row.items():
        print(f"{name:<24}{value:.4g}" if isinstance(value, float) else f"{name:<24}{value}")


@contextmanager
def output_of(module: str, arguments: Sequence[object], suffix: str) -> Iterator[Path]:
    """The file that ``python -m maac_ros.nodes.<module> <arguments> --out FILE`` writes, while the context lasts.

    Args:
        module: of :mod:`maac_ros.nodes`.
        arguments: without ``--out``; where ``{log}`` is one of them, a file for the nodes' own output.
        suffix: of the file.

    Raises:
        BenchmarkError: when there is no file, with the end of what the nodes said.
    """
    with tempfile.TemporaryDirectory(prefix=f"maac_{module}_") as folder:
        out, log = Path(folder, f"out{suffix}"), Path(folder, "nodes.log")
        words = [str(log) if word == "{log}" else str(word) for word in arguments]
        command = [sys.executable, "-m", f"maac_ros.nodes.{module}", *words, "--out", str(out)]
        done = subprocess.run(command, check=False)
        if not out.exists():
            said = log.read_text(encoding="utf-8")[-2000:] if log.exists() else ""
            raise BenchmarkError(f"the nodes did not run (code {done.returncode})\n{said}".strip())
        yield out
