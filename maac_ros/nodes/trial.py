"""Try a bundle through the real nodes: simulator and policy node as processes, planning switched while they run.

``python -m maac_ros.nodes.trial BUNDLE`` plays three episodes in real time, talking DDS: the policy alone, MPC, and
an episode in which ``use_mpc`` is switched on and off; then it prints return, latencies and missed deadlines of each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from maac_ros.bundle import load_bundle
from maac_ros.conditions import Conditions
from maac_ros.errors import ConfigError, MaacError
from maac_ros.nodes.observer import START_SECONDS, Observer
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.provenance import provenance
from maac_ros.timing import Recorder, Summary

_LOCKSTEP_TICK_SECONDS = 0.2
"""A tick in lockstep takes a few milliseconds; where none comes for so long on average, none will."""

_NO_TICK_LIMIT_MS = 60_000.0
"""The simulator waits in lockstep: a machine that is busy for a moment must not change the episode."""

SWITCH_TICKS = 50
"""Ticks between two switches of ``use_mpc`` in the third episode."""


@dataclass(frozen=True)
class Result:
    """One episode through the nodes.

    Attributes:
        name: what was tried.
        episode_return: undiscounted, on the task's reward scale.
        ticks: ticks by mode.
        switches: times that the mode changed from one tick to the next.
        tick: a whole tick, from its start until the command is published.
        planning: the planner's share of it.
        missed_deadlines: ticks that ended more than a control period after their observation arrived.
    """

    name: str
    episode_return: float
    ticks: dict[str, int]
    switches: int
    tick: Summary
    planning: Summary
    missed_deadlines: int


def summarize(name: str, episode_return: float, rows: Sequence[Sequence[float]]) -> Result:
    """Sum up the telemetry ``rows`` of one episode."""
    column = {key: index for index, key in enumerate(COLUMNS)}
    modes = [MODES[int(row[column["mode"]])] for row in rows]
    tick, planning = Recorder(), Recorder()
    for row in rows:
        tick.add(row[column["tick_s"]])
        if not math.isnan(row[column["planning_s"]]):
            planning.add(row[column["planning_s"]])
    return Result(
        name=name,
        episode_return=episode_return,
        ticks={mode: modes.count(mode) for mode in MODES if mode in modes},
        switches=sum(a != b for a, b in itertools.pairwise(modes)),
        tick=tick.summary(),
        planning=planning.summary(),
        missed_deadlines=int(sum(row[column["missed"]] for row in rows)),
    )


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""

    def milliseconds(summary: Summary) -> str:
        if not summary.count:
            return "– | –"
        return f"{summary.p50_ms:.2f} ms | {summary.p99_ms:.2f} ms"

    lines = [
        "| mode | return | ticks | tick p50 | tick p99 | planner p50 | planner p99 | missed deadlines |",
        "|-|-|-|-|-|-|-|-|",
    ]
    for result in results:
        ticks = ", ".join(f"{count} {mode}" for mode, count in result.ticks.items())
        lines.append(
            f"| {result.name} | {result.episode_return:.0f} | {ticks} | {milliseconds(result.tick)} "
            f"| {milliseconds(result.planning)} | {result.missed_deadlines} |"
        )
    return "\n".join(lines)


def run_trial(bundle: Path, seed: int, realtime_factor: float, log: Path) -> list[Result]:
    """Play the three episodes.

    Args:
        bundle: folder of the bundle.
        seed: of the simulator.
        realtime_factor: simulated seconds a second.
        log: file for the output of the nodes.

    Raises:
        BundleError: when the bundle cannot be used.
        NodesError: when the nodes do not come up, end early or refuse the parameter.
    """
    task = load_bundle(bundle).task  # a clear error, before anything starts
    episode_seconds = task.simulation.episode_steps * task.control.period_s / realtime_factor
    patience = 3 * episode_seconds + START_SECONDS
    arguments = {"seed": seed, "realtime_factor": realtime_factor}
    with Observer(bundle, task, arguments, log) as observer:
        observer.begin()
        results = [_play(observer, "policy", patience)]
        observer.set_parameter("policy_node", "use_mpc", True)
        results.append(_play(observer, "MPC", patience))
        results.append(_play(observer, "switching", patience, switch=True))
    return results


def play_in_lockstep(
    bundle: Path | str, seed: int, episodes: int, conditions: Conditions, log: Path
) -> dict[int, float]:
    """Returns of the policy through the nodes, the simulator waiting for each command, by number of the episode.

    The first episode, number 1, is that of a simulation which is reset with ``seed``, the next ones of the same reset
    without a seed. The first ones may be over before this process is connected, and are not among them then.

    Args:
        bundle: folder of the bundle, or the name of a shipped one.
        seed: of the simulator.
        episodes: that are played.
        conditions: of the robot; noise on joints only.
        log: file for the output of the nodes.

    Raises:
        ConfigError: for noise that the simulator node does not make.
        NodesError: when the nodes do not come up, or end early.
    """
    task = load_bundle(bundle).task
    noise = conditions.noise.model_dump()
    joints = {f"{name}_noise": noise.pop(name) for name in ("joint_position", "joint_velocity")}
    if others := [name for name, std in noise.items() if std]:
        raise ConfigError(
            f"robot.noise.{others[0]}: the nodes have noise on joint_position and joint_velocity only"
        )
    arguments = {
        "seed": seed,
        "mode": "lockstep",
        "tick_limit_ms": _NO_TICK_LIMIT_MS,
        **{f"{name}_factor": getattr(conditions, name) for name in ("mass", "friction", "gain")},
        "delay_steps": conditions.delay_steps,
        **joints,
    }
    patience = START_SECONDS + _LOCKSTEP_TICK_SECONDS * task.simulation.episode_steps
    with Observer(bundle, task, arguments, log) as observer:
        observer.launch()
        for count in range(1, episodes + 1):
            observer.until(partial(_reached, observer.episodes, count), "episode", patience)
        return dict(sorted(observer.episodes.items())[:episodes])


def _reached(episodes: Mapping[int, float], count: int) -> bool:
    return len(episodes) >= count


def _play(observer: Observer, name: str, seconds: float, switch: bool = False) -> Result:
    """Listen until the present episode ends, or for ``seconds`` at most."""
    first_row, played, mpc = len(observer.rows), len(observer.returns), True
    deadline = time.monotonic() + seconds
    while len(observer.returns) == played:
        observer.spin(f"end of the episode '{name}'", deadline)
        wanted = ((len(observer.rows) - first_row) // SWITCH_TICKS) % 2 == 1
        if switch and wanted != mpc:
            mpc = wanted
            observer.set_parameter("policy_node", "use_mpc", mpc)
    return summarize(name, observer.returns[-1], observer.rows[first_row:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a trial from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m maac_ros.nodes.trial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulator")
    parser.add_argument(
        "--realtime-factor",
        type=float,
        default=1.0,
        help="simulated seconds a second; the planner's budget and deadlines are for 1",
    )
    parser.add_argument("--log", type=Path, default=Path("nodes.log"), help="output of the nodes")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    chosen = parser.parse_args(arguments)
    try:
        results = run_trial(chosen.bundle, chosen.seed, chosen.realtime_factor, chosen.log)
    except MaacError as reason:
        print(f"trial: {reason}", file=sys.stderr)
        return 2
    print(table(results))
    if chosen.json is not None:
        document = {
            "provenance": provenance(),
            "seed": chosen.seed,
            "realtime_factor": chosen.realtime_factor,
            "episodes": [asdict(r) for r in results],
        }
        chosen.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
