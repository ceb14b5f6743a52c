"""``maac bench latency``: from ``joint_states`` to the command, over DDS."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnxruntime as ort
import tyro
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot

from maac_learning import evidence
from maac_learning.benchmarks.ros_process import output_of, print_row
from maac_learning.report.style import COLOURS, GREY, STYLE, save
from maac_ros.bundle import load_bundle
from maac_ros.errors import ConfigError
from maac_ros.timing import Summary


@dataclass(frozen=True)
class LatencyArguments:
    """Send states at a steady rate to the policy node, a process of its own that does not plan; time its answers.

    Where bundles are swapped meanwhile, deadlines that are missed while one is loaded are counted apart.
    """

    rate_hz: float = 500.0
    """States a second."""
    minutes: float = 10.0
    """How long; with --swap-every-s, until a bundle has been taken and another refused."""
    bundle: str = "inverted_pendulum"
    """Shipped bundle name, or path to a bundle."""
    swap_every_s: float | None = None
    """Give the node the bundle anew, and one that is not there, in turn, so long after the last one."""
    thread_priority: int = 0
    """Real-time priority of the policy node, 1 to 99; 0 for none."""
    json: Path | None = None
    """Also write the results to this file, and a picture beside it."""


def latency(arguments: Sequence[str]) -> int:
    """``maac bench latency``.

    Raises:
        BundleError: when the bundle cannot be used.
        BenchmarkError: when the node did not answer.
    """
    chosen = tyro.cli(LatencyArguments, prog="maac bench latency", args=list(arguments))
    if not 1.0 <= chosen.rate_hz <= 10_000.0:
        raise ConfigError(f"--rate-hz: got {chosen.rate_hz}; expected 1 to 10000")
    if not 0.0 < chosen.minutes < float("inf"):
        raise ConfigError(f"--minutes: got {chosen.minutes}; expected more than 0")
    if chosen.swap_every_s is not None and not 0.0 < chosen.swap_every_s < float("inf"):
        raise ConfigError(f"--swap-every-s: got {chosen.swap_every_s}; expected more than 0")
    bundle = load_bundle(chosen.bundle)
    print(f"{bundle.task.name}, {chosen.rate_hz:g} Hz, {chosen.minutes:g} minutes", flush=True)
    words = [chosen.bundle, "--rate", chosen.rate_hz, "--seconds", 60.0 * chosen.minutes]
    words += ["--thread-priority", chosen.thread_priority]
    if chosen.swap_every_s is not None:
        words += ["--swap-every", chosen.swap_every_s]
    with (
        output_of("latency", [*words, "--log", "{log}"], ".npz") as out,
        np.load(out, allow_pickle=False) as archive,
    ):
        measured = dict(archive)
    row = summary(measured, 1.0 / chosen.rate_hz)
    print_row(row)
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            f"From joint_states to the command, {bundle.task.name}, {chosen.rate_hz:g} Hz",
            shlex.join(["maac", "bench", "latency", *arguments]),
            [row],
            onnxruntime=ort.__version__,
            thread_priority=chosen.thread_priority,
            bundle=bundle.origin(),
        )
        picture = chosen.json.with_suffix(".png")
        draw(measured["taken_s"], 1.0 / chosen.rate_hz, picture)
        print(f"picture: {picture}")
    return 0


def summary(measured: Mapping[str, NDArray[Any]], period_s: float) -> dict[str, Any]:
    """A flat row.

    Args:
        measured: the fields of :class:`maac_ros.nodes.latency.Measured`, as arrays.
        period_s: between two states.
    """
    taken_s, swapping = measured["taken_s"], measured["swapping"]
    came = taken_s[np.isfinite(taken_s)]
    times = Summary.of(came)
    missed = ~(taken_s <= period_s)
    row: dict[str, Any] = {
        "states": len(taken_s),
        "unanswered": len(taken_s) - len(came),
        "missed_deadlines": int(missed.sum()),
        "missed_share": float(missed.mean()),
        "latency_p50_ms": times.p50_ms,
        "latency_p99_ms": times.p99_ms,
        "latency_p999_ms": times.p999_ms,
        "latency_max_ms": times.max_ms,
        "sender_late_p99_ms": Summary.of(measured["late_s"]).p99_ms,
        "node_cpu_share": float(measured["cpu_share"]),
        "node_missed_deadlines": int(measured["node_missed"]),
    }
    if swapping.any():
        row["swaps"], row["refusals"] = int(measured["swaps"]), int(measured["refusals"])
        for name, part in (("swapping", swapping), ("otherwise", ~swapping)):
            row[f"states_{name}"] = int(part.sum())
            row[f"missed_share_{name}"] = float(missed[part].mean()) if part.any() else None
    return row


def draw(taken_s: NDArray[np.float64], period_s: float, path: Path) -> None:
    """Latencies as a histogram, with the period."""
    came = taken_s[np.isfinite(taken_s)] * 1e3
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(8, 4.2))
        bins = np.geomspace(max(came.min(), 1e-3), came.max() * 1.01, 80).tolist()
        axes.hist(came, bins, histtype="step", lw=1.6, color=COLOURS[0])
        axes.axvline(period_s * 1e3, color=GREY, ls="--", lw=1.2, label="period")
        axes.set(xscale="log", yscale="log", xlabel="ms", ylabel="commands")
        axes.legend()
        figure.tight_layout()
        save(figure, path)
