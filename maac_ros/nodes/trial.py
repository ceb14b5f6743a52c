"""Try a bundle through the real nodes: simulator and policy node as processes, planning switched while they run.

``python -m maac_ros.nodes.trial BUNDLE`` plays three episodes in real time, talking DDS: the policy alone, MPC, and
an episode in which ``use_mpc`` is switched on and off; then it prints return, latencies and missed deadlines of each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from maac_ros.bundle import load_bundle
from maac_ros.errors import MaacError
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.provenance import provenance
from maac_ros.timing import Recorder, Summary

SWITCH_TICKS = 50
"""Ticks between two switches of ``use_mpc`` in the third episode."""

_START_SECONDS = 30.0


class TrialError(MaacError):
    """The nodes did not do what the trial needs."""


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


def isolate() -> None:
    """Keep the trial's DDS traffic on this host and off the user's own domain."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(60, 99)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")  # the same, for the distribution before it


def run_trial(bundle: Path, seed: int, realtime_factor: float, log: Path) -> list[Result]:
    """Play the three episodes.

    Args:
        bundle: folder of the bundle.
        seed: of the simulator.
        realtime_factor: simulated seconds a second.
        log: file for the output of the nodes.

    Raises:
        BundleError: when the bundle cannot be used.
        TrialError: when the nodes do not come up, end early or refuse the parameter.
    """
    task = load_bundle(bundle).task  # a clear error, before anything starts
    isolate()
    episode_seconds = task.simulation.episode_steps * task.control.period_s / realtime_factor
    log.parent.mkdir(parents=True, exist_ok=True)
    task_file = log.with_name("task.yaml")  # the bundle's own task, shipped or not
    task_file.write_text(yaml.safe_dump(task.model_dump(mode="json"), sort_keys=False))
    arguments = {
        "task": task_file,
        "bundle": bundle,
        "seed": seed,
        "realtime_factor": realtime_factor,
    }
    command = [sys.executable, "-m", "maac_ros.up", "sim_deploy"]
    command += [f"{key}:={value}" for key, value in arguments.items()]
    with _Observer(episode_seconds, log) as observer:
        return observer.watch(command)


class _Observer:
    """Starts the nodes, listens to them, and switches ``use_mpc``."""

    def __init__(self, episode_seconds: float, log: Path) -> None:
        # rclpy reads the domain when it is imported, so isolate() must have come first.
        import rclpy
        from rcl_interfaces.srv import SetParameters
        from std_msgs.msg import Float64, Float64MultiArray
        from std_srvs.srv import Trigger

        from maac_ros.nodes.common import LATCHED, profile

        self._episode_seconds, self._log = episode_seconds, log
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("trial", context=self._context)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._returns: list[float] = []
        self._rows: list[list[float]] = []
        self._node.create_subscription(
            Float64, "/sim_node/episode_return", lambda m: self._returns.append(m.data), LATCHED
        )
        self._node.create_subscription(
            Float64MultiArray,
            "/policy_node/telemetry",
            lambda m: self._rows.append(list(m.data)),
            profile(depth=1000),
        )
        self._parameters = self._node.create_client(SetParameters, "/policy_node/set_parameters")
        self._resets = self._node.create_client(Trigger, "/sim_node/reset")
        self._nodes: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Observer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._nodes is not None:
            self._nodes.terminate()
            try:
                self._nodes.wait(15)
            except subprocess.TimeoutExpired:
                self._nodes.kill()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def watch(self, command: Sequence[str]) -> list[Result]:
        """Play the three episodes with the nodes that ``command`` starts."""
        with self._log.open("w", encoding="utf-8") as output:
            self._nodes = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self._until(lambda: bool(self._rows), "tick of the policy node", _START_SECONDS)
        # The first ticks went by before this process was connected to everything.
        for client in (self._parameters, self._resets):
            self._until(client.service_is_ready, f"service {client.srv_name}", _START_SECONDS)
        self._reset()
        results = [self._play("policy")]
        self._use_mpc(True)
        results.append(self._play("MPC"))
        results.append(self._play("switching", switch=True))
        return results

    def _play(self, name: str, switch: bool = False) -> Result:
        """Listen until the present episode ends."""
        first_row, played, mpc = len(self._rows), len(self._returns), True
        deadline = time.monotonic() + 3 * self._episode_seconds + _START_SECONDS
        while len(self._returns) == played:
            self._spin(f"end of the episode '{name}'", deadline)
            wanted = ((len(self._rows) - first_row) // SWITCH_TICKS) % 2 == 1
            if switch and wanted != mpc:
                mpc = wanted
                self._use_mpc(mpc)
        return summarize(name, self._returns[-1], self._rows[first_row:])

    def _use_mpc(self, value: bool) -> None:
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request()
        request.parameters = [Parameter("use_mpc", value=value).to_parameter_msg()]
        answer = self._call(self._parameters, request).results[0]
        if not answer.successful:
            raise TrialError(f"the policy node refused use_mpc: {answer.reason}")

    def _reset(self) -> None:
        from std_srvs.srv import Trigger

        self._call(self._resets, Trigger.Request())

    def _call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        self._until(future.done, f"answer of {client.srv_name}", _START_SECONDS)
        return future.result()

    def _until(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            self._spin(what, deadline)

    def _spin(self, awaited: str, deadline: float) -> None:
        assert self._nodes is not None
        if self._nodes.poll() is not None:
            raise TrialError(
                f"the nodes ended early (exit code {self._nodes.returncode}); see {self._log}"
            )
        if time.monotonic() > deadline:
            raise TrialError(f"no {awaited} in time; see {self._log}")
        self._executor.spin_once(timeout_sec=0.02)


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
