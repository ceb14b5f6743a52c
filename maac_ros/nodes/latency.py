"""Measure the way from ``joint_states`` to the command that answers them, over DDS, at a rate of one's own.

``python -m maac_ros.nodes.latency BUNDLE --rate R --seconds S --out FILE.npz`` runs the policy node as a process of its
own, without planning, and plays its robot: a state at each deadline of a steady clock, stamped when it is published. A
command tells, in the label of its layout, which stamp it answers.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maac_ros.bundle import load_bundle
from maac_ros.errors import MaacError
from maac_ros.nodes.observer import START_SECONDS, NodesError, Probe, start_policy_node
from maac_ros.observation import Vector


def measure(bundle: str, rate_hz: float, seconds: float, log: Path) -> tuple[Vector, Vector, float]:
    """Send N states and listen to the answers.

    Args:
        bundle: folder of the bundle, or the name of a shipped one.
        rate_hz: of the states.
        seconds: N / rate.
        log: file for the output of the node.

    Returns:
        Times (N,) in s from before a state is published to after its answer is taken in, NaN where none came; how late
        (N,) in s each state was published; and the share of one core that the node's process used meanwhile.

    Raises:
        BundleError: when the bundle cannot be used.
        NodesError: when the node does not answer at all.
    """
    verified = load_bundle(bundle)
    probe = Probe("latency")
    from std_msgs.msg import Float64MultiArray

    from maac_ros.nodes.common import profile
    from maac_ros.nodes.faults import StandInRobot, resting_state
    from maac_ros.nodes.messages import read_command
    from maac_ros.nodes.reader import Reader

    failures: list[Exception] = []
    sent_s: dict[int, float] = {}
    answered_s: dict[int, float] = {}
    size = len(verified.manifest.action)

    def take(message: Any) -> None:
        _, stamp_ns = read_command(message, size)
        if stamp_ns:
            answered_s.setdefault(stamp_ns, time.perf_counter())

    reader = Reader(probe.node, failures.append)
    reader.subscribe(Float64MultiArray, "policy_controller/commands", take, profile(depth=100))
    state = resting_state(verified.task)
    robot = StandInRobot(probe.node, verified.task, lambda: state, rate_hz)
    reader.start()
    process = start_policy_node(log, bundle=str(verified.path), trigger="observation")
    try:
        deadline_s = time.monotonic() + START_SECONDS
        while not answered_s:
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise NodesError(f"no command within {START_SECONDS:g} s; see {log}")
            robot.pump()
            time.sleep(0.001)
        count = round(rate_hz * seconds)
        late_s, stamps = np.empty(count), []
        used_s, begun_s = _cpu_s(process.pid), time.perf_counter()
        for number in range(count):
            due_s = begun_s + number / rate_hz
            if (left_s := due_s - time.perf_counter()) > 0:
                time.sleep(left_s)
            now_s = time.perf_counter()
            stamp_ns = robot.publish()
            sent_s[stamp_ns], late_s[number] = now_s, now_s - due_s
            stamps.append(stamp_ns)
        end_s = time.perf_counter() + 1.0
        while stamps[-1] not in answered_s and time.perf_counter() < end_s:
            time.sleep(0.01)
        share = (_cpu_s(process.pid) - used_s) / (time.perf_counter() - begun_s)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(15)
        reader.close()
        probe.close()
    if failures:
        raise NodesError(f"a command could not be read: {failures[0]}")
    taken = [answered_s.get(stamp, np.nan) - sent_s[stamp] for stamp in stamps]
    return np.array(taken), late_s, share


def _cpu_s(process: int) -> float:
    """Processor time of a process so far, all threads."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m maac_ros.nodes.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", help="folder of the bundle, or the name of a shipped one")
    parser.add_argument("--rate", type=float, default=500.0, help="states a second")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long")
    parser.add_argument("--log", type=Path, default=Path("nodes.log"), help="output of the node")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    chosen = parser.parse_args(arguments)
    try:
        taken_s, late_s, share = measure(chosen.bundle, chosen.rate, chosen.seconds, chosen.log)
    except MaacError as reason:
        print(f"latency: {reason}", file=sys.stderr)
        return 2
    np.savez(chosen.out, taken_s=taken_s, late_s=late_s, cpu_share=share)
    return 0


if __name__ == "__main__":
    sys.exit(main())
