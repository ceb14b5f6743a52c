"""Measure the way from ``joint_states`` to the command that answers them, over DDS, at a rate of one's own.

``python -m maac_ros.nodes.latency BUNDLE --rate R --seconds S --out FILE.npz`` runs the policy node as a process of its
own, without planning, and plays its robot: a state at each deadline of a steady clock, stamped when it is published. A
command tells, in the label of its layout, which stamp it answers. With ``--swap-every S`` the node is meanwhile given
another bundle every so often, in turn the same one again and one that is not there, which it must refuse; it goes on
after the S seconds until both have happened.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maac_ros.bundle import load_bundle
from maac_ros.errors import MaacError
from maac_ros.nodes.observer import (
    LOADING_SECONDS,
    START_SECONDS,
    NodesError,
    Probe,
    start_policy_node,
)
from maac_ros.observation import Vector


@dataclass(frozen=True)
class Measured:
    """What N states came to.

    Attributes:
        taken_s: (N,) from before a state is published to after its answer is taken in; NaN where none came.
        late_s: (N,) after its deadline that each state was published.
        cpu_share: of one core that the node's process used meanwhile.
        node_missed: deadlines that the node says it missed: commands that were not sent within a control period from
            when it had the state.
        swapping: (N,) whether the node was loading a bundle when the state was published.
        swaps: bundles that were taken.
        refusals: bundles that were refused.
    """

    taken_s: Vector
    late_s: Vector
    cpu_share: float
    node_missed: int
    swapping: NDArray[np.bool_]
    swaps: int
    refusals: int


class _Swapper:
    """Gives the policy node other bundles, in a thread of its own, from :meth:`start` to :meth:`close`.

    Args:
        bundle: that is taken each second time.
        every_s: from one answer to the next request.
    """

    def __init__(self, bundle: Path, every_s: float) -> None:
        self._probe = Probe("swapper")
        from maac_ros.nodes.remote import Remote

        self._remote = Remote(self._probe.node, "/policy_node", self._until)
        self._bundle, self._every_s = bundle, every_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swapper", daemon=True)
        self.spans_s: list[tuple[float, float]] = []
        """From each request to its answer, on the clock of ``time.perf_counter``; the first one is granted."""
        self.failure: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    @property
    def incomplete(self) -> bool:
        """Whether no bundle has been taken, or none refused, yet, and will be."""
        return len(self.spans_s) < 2 and self.failure is None

    def close(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(LOADING_SECONDS)
        self._probe.close()

    def _run(self) -> None:
        try:
            self._remote.ready("reload")
            while not self._ending.wait(self._every_s):
                begun_s = time.perf_counter()
                if len(self.spans_s) % 2:
                    self._remote.refuses_bundle("/nowhere")
                elif not self._remote.trigger("reload"):
                    raise NodesError(f"bundle '{self._bundle}' was refused")
                self.spans_s.append((begun_s, time.perf_counter()))
        except Exception as reason:  # told where it is looked for: by the measuring thread
            self.failure = reason

    def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + LOADING_SECONDS
        while not done():
            if time.monotonic() > deadline_s:
                raise NodesError(f"no {what} within {LOADING_SECONDS:g} s")
            self._probe.spin(0.02)


def measure(
    bundle: str,
    rate_hz: float,
    seconds: float,
    log: Path,
    swap_every_s: float | None = None,
    thread_priority: int = 0,
) -> Measured:
    """Send N = rate * seconds states, more where no bundle has been taken and none refused by then, and listen.

    Args:
        bundle: folder of the bundle, or the name of a shipped one.
        rate_hz: of the states.
        seconds: how long.
        log: file for the output of the node.
        swap_every_s: from the answer to one bundle to the request for the next; None for none.
        thread_priority: of the policy node; 0 for no real-time priority.

    Raises:
        BundleError: when the bundle cannot be used.
        NodesError: when the node does not answer at all, refuses the bundle later, or takes one that is not there.
    """
    verified = load_bundle(bundle)
    probe = Probe("latency")
    from diagnostic_msgs.msg import DiagnosticArray
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
    told_missed: list[int] = []

    def diagnosed(message: Any) -> None:
        pairs = (pair for status in message.status for pair in status.values)
        told_missed.extend(int(pair.value) for pair in pairs if pair.key == "missed_deadlines")

    reader.subscribe(DiagnosticArray, "/diagnostics", diagnosed, profile(depth=10))
    state = resting_state(verified.task)
    robot = StandInRobot(probe.node, verified.task, lambda: state, rate_hz)
    swapper = None if swap_every_s is None else _Swapper(verified.path, swap_every_s)
    reader.start()
    process = start_policy_node(
        log, bundle=str(verified.path), trigger="observation", thread_priority=thread_priority
    )
    try:
        deadline_s = time.monotonic() + START_SECONDS
        while not answered_s:
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise NodesError(f"no command within {START_SECONDS:g} s; see {log}")
            robot.pump()
            time.sleep(0.001)
        if swapper is not None:
            swapper.start()
        count = round(rate_hz * seconds)
        late_s: list[float] = []
        stamps: list[int] = []
        _until(lambda: bool(told_missed), "diagnosis", log)
        missed_before = told_missed[-1]
        used_s, begun_s = _cpu_s(process.pid), time.perf_counter()
        while len(stamps) < count or (swapper is not None and swapper.incomplete):
            due_s = begun_s + len(stamps) / rate_hz
            if (left_s := due_s - time.perf_counter()) > 0:
                time.sleep(left_s)
            now_s = time.perf_counter()
            stamp_ns = robot.publish()
            sent_s[stamp_ns] = now_s
            late_s.append(now_s - due_s)
            stamps.append(stamp_ns)
        end_s = time.perf_counter() + 1.0
        while stamps[-1] not in answered_s and time.perf_counter() < end_s:
            time.sleep(0.01)
        share = (_cpu_s(process.pid) - used_s) / (time.perf_counter() - begun_s)
        told = len(told_missed)
        _until(lambda: len(told_missed) > told + 1, "diagnosis", log)
        missed = told_missed[-1] - missed_before
    finally:
        if swapper is not None:
            swapper.close()
        process.send_signal(signal.SIGINT)
        process.wait(15)
        reader.close()
        probe.close()
    if failures:
        raise NodesError(f"a command could not be read: {failures[0]}")
    if swapper is not None and swapper.failure is not None:
        raise NodesError(f"bundles could not be swapped: {swapper.failure}; see {log}")
    sent = np.array([sent_s[stamp] for stamp in stamps])
    taken = np.array([answered_s.get(stamp, np.nan) for stamp in stamps]) - sent
    spans_s = swapper.spans_s if swapper is not None else []
    swapping = np.zeros(len(stamps), dtype=bool)
    for start_s, finish_s in spans_s:
        swapping |= (start_s - 1.0 / rate_hz <= sent) & (sent <= finish_s)
    swaps = -(-len(spans_s) // 2)
    return Measured(taken, np.array(late_s), share, missed, swapping, swaps, len(spans_s) // 2)


def _until(done: Callable[[], bool], what: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_SECONDS
    while not done():
        if time.monotonic() > deadline_s:
            raise NodesError(f"no {what} within {START_SECONDS:g} s; see {log}")
        time.sleep(0.01)


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
    parser.add_argument(
        "--swap-every", type=float, help="seconds between two bundles; none without"
    )
    parser.add_argument(
        "--thread-priority", type=int, default=0, help="real-time priority of the policy node"
    )
    parser.add_argument("--log", type=Path, default=Path("nodes.log"), help="output of the node")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    chosen = parser.parse_args(arguments)
    try:
        measured = measure(
            chosen.bundle,
            chosen.rate,
            chosen.seconds,
            chosen.log,
            chosen.swap_every,
            chosen.thread_priority,
        )
    except MaacError as reason:
        print(f"latency: {reason}", file=sys.stderr)
        return 2
    np.savez(chosen.out, **vars(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
