"""``maac bench nodes``: deadlines and latencies of the policy node, and what it thinks of its model."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import tyro
from numpy.typing import NDArray

from maac_learning import evidence
from maac_learning.benchmarks.nodes_picture import draw
from maac_learning.benchmarks.ros_process import output_of
from maac_ros.bundle import load_bundle
from maac_ros.errors import ConfigError
from maac_ros.monitor import DOUBT_SHARE
from maac_ros.timing import Summary

_STEADY_SHARE = 1 / 3
"""Of a part, at its end: the robot has been what it is for a while."""


@dataclass(frozen=True)
class NodesArguments:
    """Run simulator and policy node as processes, in real time over DDS, and look at every tick.

    With a factor other than 1 the robot is another one, than the model was learned from, in the middle third.
    """

    bundle: str = "half_cheetah"
    """Shipped bundle name, or path to a bundle."""
    ticks: int = 20_000
    """Control periods."""
    policy_only: bool = False
    """Do not plan."""
    mass_factor: float = 1.0
    """Masses of the robot in the middle third, relative to the task's."""
    friction_factor: float = 1.0
    """Friction of all surfaces in the middle third, relative to the task's."""
    thread_priority: int = 0
    """Real-time priority of the policy node, 1 to 99; 0 for none."""
    seed: int = 0
    """Seed of simulator and planner."""
    json: Path | None = None
    """Also write the results to this file, and a picture beside it."""


@dataclass(frozen=True)
class Recording:
    """Telemetry of T ticks.

    Attributes:
        columns: by name, (T,).
        modes: names of the values of the column ``mode``.
        changed: (T,) where the robot was another one.
    """

    columns: dict[str, NDArray[np.float64]]
    modes: tuple[str, ...]
    changed: NDArray[np.bool_]

    @classmethod
    def read(cls, path: Path) -> Recording:
        """What ``python -m maac_ros.nodes.record`` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            names = [str(name) for name in archive["columns"]]
            columns = dict(zip(names, archive["rows"].T, strict=True))
            modes = tuple(str(mode) for mode in archive["modes"])
            return cls(columns, modes, archive["changed"] > 0)

    def of_mode(self, mode: str) -> NDArray[np.bool_]:
        """Where the ticks were of ``mode``, (T,)."""
        there: NDArray[np.bool_] = self.columns["mode"] == self.modes.index(mode)
        return there

    def parts(self) -> list[slice]:
        """Runs of ticks over which the robot stayed the same."""
        edges = np.flatnonzero(np.diff(self.changed.astype(int))) + 1
        bounds = [0, *edges.tolist(), len(self.changed)]
        return [slice(a, b) for a, b in itertools.pairwise(bounds)]

    def row(self, part: slice) -> dict[str, Any]:
        """A flat row for the table and the file."""
        own = {name: values[part] for name, values in self.columns.items()}
        planned = own["planning_s"][np.isfinite(own["planning_s"])]
        ticks = len(own["mode"])
        steady = own["exceedance"][-max(1, round(_STEADY_SHARE * ticks)) :]
        missed = int(own["missed"].sum())
        return {
            "robot": "another" if self.changed[part.start] else "as learned",
            "ticks": ticks,
            **{f"{mode}_ticks": int(self.of_mode(mode)[part].sum()) for mode in self.modes},
            "missed_deadlines": missed,
            "missed_share": missed / ticks,
            **_percentiles("tick", own["tick_s"]),
            **_percentiles("planning", planned),
            "model_exceedance_max": float(own["exceedance"].max()),
            "doubted_share_at_the_end": float((steady > DOUBT_SHARE).mean()),
        }


def nodes(arguments: Sequence[str]) -> int:
    """``maac bench nodes``.

    Raises:
        BundleError: when the bundle cannot be used.
        BenchmarkError: when the nodes did not run.
    """
    chosen = tyro.cli(NodesArguments, prog="maac bench nodes", args=list(arguments))
    if chosen.ticks < 30:
        raise ConfigError(f"--ticks: got {chosen.ticks}; expected at least 30")
    bundle = load_bundle(chosen.bundle)
    period_ms = bundle.manifest.control_period_s * 1e3
    seconds = chosen.ticks * bundle.manifest.control_period_s
    print(f"{bundle.task.name}, {1e3 / period_ms:g} Hz, {seconds:.0f} s", flush=True)
    recording = _record(chosen)
    rows = [recording.row(part) for part in recording.parts()]
    print(_HEADING)
    for row in rows:
        print(_line(row))
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            f"Ticks of the policy node, {bundle.task.name}, {1e3 / period_ms:g} Hz",
            shlex.join(["maac", "bench", "nodes", *arguments]),
            rows,
            onnxruntime=ort.__version__,
            period_ms=period_ms,
            thread_priority=chosen.thread_priority,
            planner=None if chosen.policy_only else bundle.task.planner.model_dump(),
            bundle=bundle.origin(),
        )
        picture = chosen.json.with_suffix(".png")
        draw(recording.columns, recording.changed, bundle, picture)
        print(f"picture: {picture}")
    return 0


def _record(chosen: NodesArguments) -> Recording:
    options = {
        "--ticks": chosen.ticks,
        "--seed": chosen.seed,
        "--thread-priority": chosen.thread_priority,
        "--mass-factor": chosen.mass_factor,
        "--friction-factor": chosen.friction_factor,
        "--log": "{log}",
    }
    words = [chosen.bundle, *(part for pair in options.items() for part in pair)]
    words += ["--policy-only"] if chosen.policy_only else []
    with output_of("record", words, ".npz") as out:
        return Recording.read(out)


def _percentiles(name: str, seconds: NDArray[np.float64]) -> dict[str, float | None]:
    """The summary as cells; null where nothing was measured."""
    summary = asdict(Summary.of(seconds))
    del summary["count"]
    return {f"{name}_{key}": value if len(seconds) else None for key, value in summary.items()}


_HEADING = (
    f"{'robot':<12}{'ticks':>7}{'mpc':>7}{'policy':>8}{'safe':>6}{'missed':>14}"
    f"{'tick p50':>10}{'p99':>8}{'p99.9':>8}{'max ms':>8}{'exceedance':>12}{'doubted':>9}"
)


def _line(row: dict[str, Any]) -> str:
    text = f"{row['robot']:<12}{row['ticks']:>7}{row['mpc_ticks']:>7}{row['policy_ticks']:>8}"
    text += f"{row['safe_ticks']:>6}{row['missed_deadlines']:>6} ({row['missed_share']:.2%})"
    text += f"{row['tick_p50_ms']:>10.2f}{row['tick_p99_ms']:>8.2f}{row['tick_p999_ms']:>8.2f}"
    text += f"{row['tick_max_ms']:>8.2f}{row['model_exceedance_max']:>12.3f}"
    return text + f"{row['doubted_share_at_the_end']:>9.1%}"
