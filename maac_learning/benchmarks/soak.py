"""``maac soak``: hours of random faults, and what the policy node made of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
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

_SETTLING_S = 60.0
"""In which a process takes the memory that it works with."""


@dataclass(frozen=True)
class SoakArguments:
    """Run the policy node on a simulated robot, 50 times a second, through random faults and switches.

    Ends with code 1 when an unsafe command was ever sent, the node ended by itself, or the robot was not commanded
    again after a fault.
    """

    minutes: float = 60.0
    """How long."""
    bundle: str = "inverted_pendulum"
    """Shipped bundle name, or path to a bundle."""
    seed: int = 0
    """Seed of faults and robot."""
    json: Path | None = None
    """Also write the results to this file, and a picture beside it."""


def soak(arguments: Sequence[str]) -> int:
    """``maac soak``.

    Raises:
        BundleError: when the bundle cannot be used.
        BenchmarkError: when the node did not run.
    """
    chosen = tyro.cli(SoakArguments, prog="maac soak", args=list(arguments))
    if not 0 < chosen.minutes < float("inf"):
        raise ConfigError(f"--minutes: got {chosen.minutes}; expected more than 0")
    bundle = load_bundle(chosen.bundle)
    print(f"{bundle.task.name}, {chosen.minutes:g} minutes", flush=True)
    report = _run(chosen)
    row = summary(report)
    print_row(row)
    for violation in report["violations"]:
        print(f"VIOLATION at {violation}")
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            f"The policy node under random faults, {bundle.task.name}",
            shlex.join(["maac", "soak", *arguments]),
            [row],
            onnxruntime=ort.__version__,
            events=report["events"],
            violations=report["violations"],
            samples=report["samples"],
            bundle=bundle.origin(),
        )
        picture = chosen.json.with_suffix(".png")
        draw(report, picture)
        print(f"picture: {picture}")
    return 1 if report["violation_count"] else 0


def _run(chosen: SoakArguments) -> dict[str, Any]:
    options = ["--minutes", chosen.minutes, "--seed", chosen.seed, "--log", "{log}"]
    with output_of("soak", [chosen.bundle, *options], ".json") as out:
        report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """A flat row: the counts, and how the longest-lived process changed after its first minute."""
    ticks = report["ticks"]
    total = sum(ticks.values())
    life = max(_lives(report), key=len, default=[])
    settled = [sample for sample in life if sample[0] >= life[0][0] + _SETTLING_S] or life
    first, last = (settled[0], settled[-1]) if settled else (None, None)
    return {
        "minutes": report["minutes"],
        "ticks": total,
        "ticks_per_s": total / (60.0 * report["minutes"]),
        **{f"{mode}_ticks": ticks.get(mode, 0) for mode in ("mpc", "policy", "safe", "stopped")},
        "commands_checked": report["commands"],
        "violations": report["violation_count"],
        "message_faults": report["events"].get("message fault", 0),
        "planning_switched": report["events"].get("planning switched", 0),
        "restarts": report["events"].get("restart", 0) + report["events"].get("kill", 0),
        "tick_p50_ms": report["tick_ms"]["p50_ms"],
        "tick_p99_ms": report["tick_ms"]["p99_ms"],
        "tick_p999_ms": report["tick_ms"]["p999_ms"],
        "longest_life_minutes": (last[0] - first[0]) / 60.0 if first and last else None,
        "memory_first_mib": first[1] if first else None,
        "memory_last_mib": last[1] if last else None,
        "threads_first": first[2] if first else None,
        "threads_last": last[2] if last else None,
    }


def _lives(report: dict[str, Any]) -> list[list[list[float]]]:
    """Samples (time in s, MiB, threads, number) of each process."""
    return [list(life) for _, life in groupby(report["samples"], key=lambda sample: sample[3])]


def draw(report: dict[str, Any], path: Path) -> None:
    """Memory and threads of the node's processes over time, and how often each thing befell them."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5.2))
        threads = left.twinx()
        for life in _lives(report):
            minutes = [sample[0] / 60.0 for sample in life]
            left.plot(minutes, [sample[1] for sample in life], color=COLOURS[0], lw=1.6)
            threads.plot(minutes, [sample[2] for sample in life], color=GREY, lw=1.2, ls="--")
        left.set(xlabel="minutes", ylabel="resident memory, MiB (solid)", ylim=(0, None))
        threads.set(ylabel="threads (dashed)", ylim=(0, None))
        events = sorted(report["events"].items(), key=lambda item: item[1])
        right.barh([name for name, _ in events], [count for _, count in events], color=COLOURS[1])
        right.tick_params(axis="y", labelsize=7)
        right.set(xlabel="times")
        told = f"{report['commands']} commands checked, {report['violation_count']} violations"
        figure.suptitle(told, x=0.01, ha="left", fontweight="bold")
        figure.tight_layout()
        save(figure, path)
