"""``maac check``: whether task, robot, bundle and, where they run, the robot's topics go together. Free of ROS."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from maac_ros.binding import ODOM_FRAME, Binding, Demand, Robot, load_robot, misfits
from maac_ros.bundle import load_bundle, require_same_task
from maac_ros.errors import BundleError, ConfigError, MaacError
from maac_ros.task import Task, load_task

Verdict = Literal["ok", "note", "MISMATCH"]

AGE_PERIODS = 5.0
"""Control periods after which the policy node calls a message stale, where it is not told otherwise."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: it was, such as ``joint elbow: effort``.
        verdict: ``note`` for what cannot be told, or need not be wrong.
        told: values found and expected, with their units.
    """

    what: str
    verdict: Verdict
    told: str


def compare(task: Task, robot: Robot | None, bundle: str | None) -> list[Finding]:
    """Everything that descriptions alone can tell, whatever else is wrong."""
    found = []
    if bundle is not None:
        found.append(_bundle(task, bundle))
    if robot is None:
        return found
    problems = misfits(task, robot)
    prefix = f"robot '{robot.name}': "
    for problem in problems:
        what, _, told = problem.removeprefix(prefix).partition(": ")
        found.append(Finding(what, "MISMATCH", told))
    if not problems:
        binding = Binding(task, robot)
        names = ", ".join(
            f"{ours} = {theirs}"
            for ours, theirs in zip(task.robot.joints, binding.names, strict=True)
        )
        found.append(Finding("joint names", "ok", names))
        order = ", ".join(binding.command_names)
        found.append(
            Finding(
                "controller",
                "ok",
                f"{binding.controller.interface} on {binding.controller.topic}: {order}",
            )
        )
    for entry in task.action_entries():
        demand = Demand.of(entry, robot.wiring(entry.joint))
        if demand.fits:  # else it is among the problems
            verdict: Verdict = "note" if demand.allowed is None else "ok"
            found.append(Finding(f"joint {entry.joint}: {entry.quantity}", verdict, str(demand)))
    found.extend(_rates(task, robot))
    if task.goal is not None:
        source = "joy" if robot.joystick else task.goal.source
        asked = robot.joystick.axes if robot.joystick else task.goal.ranges
        topic = getattr(robot.topics, source)
        found.append(Finding("goal", "ok", f"{', '.join(asked)} from {topic}"))
    if task.robot.base is not None:
        frame = robot.base_frame or task.robot.base.frame
        found.append(Finding("base frame", "ok", f"odom's child_frame_id is to be '{frame}'"))
        world = ODOM_FRAME if robot.odom_frame is None else robot.odom_frame
        told = f"is to be '{world}'" if world else "may be any"
        found.append(Finding("odom frame", "ok", f"odom's header.frame_id {told}"))
        if "imu" in task.sources():
            frame = robot.imu_frame or task.robot.base.imu_frame
            found.append(Finding("imu frame", "ok", f"imu's header.frame_id is to be '{frame}'"))
    return found


def _bundle(task: Task, name: str) -> Finding:
    try:
        bundle = load_bundle(name)
        require_same_task(bundle, task)
    except BundleError as reason:
        return Finding("bundle", "MISMATCH", str(reason))
    period_ms = bundle.manifest.control_period_s * 1e3
    return Finding(
        "bundle", "ok", f"{bundle.path} is for task '{task.name}', {period_ms:g} ms a tick"
    )


def _rates(task: Task, robot: Robot) -> list[Finding]:
    found = []
    period_s = task.control.period_s
    rates: dict[str, float] = {str(source): rate for source, rate in robot.rates_hz.items()}
    for source in sorted(task.sources()):
        rate = rates.get(source)
        needed = f"the policy acts at {1 / period_s:g} Hz"
        if rate is None:
            found.append(Finding(f"rate of {source}", "note", f"not given; {needed}"))
        elif rate * period_s * AGE_PERIODS < 1.0:
            told = f"{rate:g} Hz; {needed}, and calls a message of {AGE_PERIODS:g} periods stale"
            found.append(Finding(f"rate of {source}", "MISMATCH", told))
        else:
            slower = rate * period_s < 1.0
            told = f"{rate:g} Hz; {needed}" + (", some ticks on an old message" if slower else "")
            found.append(Finding(f"rate of {source}", "note" if slower else "ok", told))
    return found


def table(findings: Sequence[Finding]) -> str:
    """One line for each finding."""
    width = max((len(finding.what) for finding in findings), default=0)
    return "\n".join(
        f"{finding.verdict:<9} {finding.what:<{width}}  "
        + finding.told.replace("\n", f"\n{'':<{width + 12}}")
        for finding in findings
    )


def check(arguments: Sequence[str]) -> int:
    """``maac check``. Returns 0 when nothing mismatches, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="maac check", description=__doc__.partition(": ")[2])
    parser.add_argument(
        "--task", required=True, help="task: a shipped name, or path to a YAML file"
    )
    parser.add_argument(
        "--robot", help="how the robot is wired: a shipped name, or path to a YAML file"
    )
    parser.add_argument("--bundle", help="folder of a bundle, or the name of a shipped one")
    parser.add_argument(
        "--live",
        type=float,
        metavar="SECONDS",
        help="also listen to the robot's topics for so long (needs ROS 2)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.live is not None and not chosen.live > 0:
        parser.error(f"--live: got {chosen.live}; expected more than 0")
    if not (chosen.robot or chosen.bundle or chosen.live):
        parser.error("nothing to compare the task with: give --robot, --bundle or --live")
    task = load_task(chosen.task)
    robot = load_robot(chosen.robot) if chosen.robot else None
    findings = compare(task, robot, chosen.bundle)
    if chosen.live is not None:
        findings += _live(task, robot, chosen.live)
    print(table(findings))
    wrong = sum(finding.verdict == "MISMATCH" for finding in findings)
    print(f"{wrong} mismatches" if wrong else "everything that could be told goes together")
    return 1 if wrong else 0


def _live(task: Task, robot: Robot | None, seconds: float) -> list[Finding]:
    try:
        from maac_ros.nodes.live_check import listen
    except ImportError as reason:
        raise ConfigError(f"--live: ROS 2 is not installed ({reason.name})") from reason
    try:
        binding = Binding(task, robot)
    except ConfigError:
        return [Finding("live topics", "note", "not listened to before the above is mended")]
    return listen(binding, seconds)


if __name__ == "__main__":
    try:
        sys.exit(check(sys.argv[1:]))
    except MaacError as problem:
        print(f"maac check: {problem}", file=sys.stderr)
        sys.exit(2)
