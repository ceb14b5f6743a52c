"""``maac bench lifecycle``: is the policy node as small after a thousand cycles of its life as after the first?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import onnxruntime as ort
import tyro

matplotlib.use("Agg")
from matplotlib import pyplot

from maac_learning import evidence
from maac_learning.benchmarks.ros_process import output_of, print_row
from maac_learning.report.style import COLOURS, GREY, STYLE, save
from maac_ros.bundle import load_bundle
from maac_ros.errors import ConfigError

_WARM_SHARE = 0.1
"""Of the samples, at the beginning: what is loaded once is not a leak."""


@dataclass(frozen=True)
class LifecycleArguments:
    """Configure, activate, deactivate and clean up the policy node again and again; every tenth configure fails."""

    cycles: int = 1000
    """How many."""
    bundle: str = "inverted_pendulum"
    """Shipped bundle name, or path to a bundle."""
    json: Path | None = None
    """Also write the results to this file, and a picture beside it."""


def lifecycle(arguments: Sequence[str]) -> int:
    """``maac bench lifecycle``.

    Raises:
        BundleError: when the bundle cannot be used.
        BenchmarkError: when a transition did not end as it should.
    """
    chosen = tyro.cli(LifecycleArguments, prog="maac bench lifecycle", args=list(arguments))
    if chosen.cycles < 20:
        raise ConfigError(f"--cycles: got {chosen.cycles}; expected at least 20")
    bundle = load_bundle(chosen.bundle)
    with output_of("cycles", [chosen.bundle, "--cycles", chosen.cycles], ".json") as out:
        report = json.loads(out.read_text(encoding="utf-8"))
    row = summary(report)
    print_row(row)
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            "The policy node through its lifecycle",
            shlex.join(["maac", "bench", "lifecycle", *arguments]),
            [row],
            onnxruntime=ort.__version__,
            samples=report["samples"],
            bundle=bundle.origin(),
        )
        picture = chosen.json.with_suffix(".png")
        draw(report, picture)
        print(f"picture: {picture}")
    return 0


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """A flat row: what the process held after the first cycles, and at the end."""
    samples = report["samples"]
    warm, last = samples[round(_WARM_SHARE * len(samples))], samples[-1]
    cycles = last[0] - warm[0]
    return {
        "cycles": report["cycles"],
        "failed_configures": report["failed_configures"],
        "s_a_cycle": report["seconds"] / report["cycles"],
        "memory_warm_mib": warm[1],
        "memory_last_mib": last[1],
        "growth_kib_a_cycle": 1024 * (last[1] - warm[1]) / cycles if cycles else None,
        "threads_warm": warm[2],
        "threads_last": last[2],
        "files_warm": warm[3],
        "files_last": last[3],
    }


def draw(report: dict[str, Any], path: Path) -> None:
    """Memory, threads and open files over the cycles."""
    cycles, memory, threads, files = zip(*report["samples"], strict=True)
    with matplotlib.rc_context(STYLE):
        figure, left = pyplot.subplots(figsize=(8, 4.2))
        left.plot(cycles, memory, color=COLOURS[0], lw=1.6)
        left.set(xlabel="cycles", ylabel="resident memory, MiB (solid)", ylim=(0, None))
        right = left.twinx()
        right.plot(cycles, threads, color=GREY, lw=1.2, ls="--", label="threads")
        right.plot(cycles, files, color=COLOURS[1], lw=1.2, ls=":", label="open files")
        right.set(ylim=(0, None))
        right.legend(loc="lower right")
        figure.tight_layout()
        save(figure, path)
