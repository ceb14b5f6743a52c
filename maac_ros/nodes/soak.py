"""Drive the policy node through random faults for a long time, and see that nothing unsafe ever leaves it.

``python -m maac_ros.nodes.soak BUNDLE --minutes N --out FILE.json`` runs the node as a process of its own, on hardware
time, and plays its robot: a simulation that moves by the node's commands, 50 times a second. Meanwhile messages are
lost, late, torn and wrong, planning is switched on and off, plans change their size, bundles are reloaded, good and
bad, the stop is pressed and cleared, the process is frozen, killed and started again.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maac_ros.bundle import Bundle, load_bundle
from maac_ros.errors import MaacError
from maac_ros.nodes.observer import (
    LOADING_SECONDS,
    START_SECONDS,
    NodesError,
    Probe,
    process_size,
    start_policy_node,
)
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.timing import Summary

if TYPE_CHECKING:
    from maac_ros.nodes.faults import MessageFault

RATE_HZ = 50.0

GRACE_S = 1.0
"""After which the safe command is due under a fault, a stale message's age included."""

RECOVERY_S = 10.0
"""After which a robot without faults must be commanded again."""

_MEAN_PAUSE_S = 2.0
_SAMPLE_EVERY_S = 10.0
_RESTARTS_UNTIL = 0.25
"""Share of the run in which processes are killed: what comes after shows whether one process stays as it is."""

_VIOLATIONS_KEPT = 50


@dataclass
class Report:
    """What a soak came to.

    Attributes:
        minutes: it took.
        ticks: of the node, by mode.
        tick_ms: summary of the durations of ticks.
        commands: that were checked.
        events: by kind.
        violations: whatever must never happen, as text with the time in seconds; the first ones.
        violation_count: of all of them.
        samples: time in s, resident memory in MiB and threads of the node's process, and its number.
    """

    minutes: float = 0.0
    ticks: Counter[str] = field(default_factory=Counter)
    tick_ms: dict[str, float] = field(default_factory=dict)
    commands: int = 0
    events: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    samples: list[tuple[float, float, int, int]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**vars(self), "ticks": dict(self.ticks), "events": dict(self.events)}


class Soak:
    """One run. Use as a context: the node ends with it.

    Args:
        bundle: a verified bundle.
        seed: of the faults and the robot.
        log: file for the output of the node.
    """

    def __init__(self, bundle: Bundle, seed: int, log: Path) -> None:
        self._probe = Probe("soak")
        from std_msgs.msg import Float64MultiArray

        from maac_ros.nodes.common import profile
        from maac_ros.nodes.faults import STATE_FAULTS, StandInRobot
        from maac_ros.nodes.remote import Remote
        from maac_ros.nodes.simulated_robot import SimulatedRobot
        from maac_ros.simulation import Simulation

        self._bundle, self._log = bundle, log
        self._random = np.random.default_rng(seed)
        action = bundle.manifest.action
        self._low, self._high = (
            np.array([a.low for a in action]),
            np.array([a.high for a in action]),
        )
        self._safe = np.array([a.safe for a in action])
        self._simulated = SimulatedRobot(Simulation(bundle.task), seed)
        self._command = self._safe.copy()
        self._tick_s: list[float] = []
        self._safe_due_s = np.inf  # from when on only the safe command may come
        self._why_safe = ""
        self._moved_s = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._lives = 0
        node = self._probe.node
        self._robot = StandInRobot(node, bundle.task, self._move, RATE_HZ)
        sources = bundle.task.sources()
        self._faults = [fault for fault in STATE_FAULTS if fault.source in sources]
        for topic, take in (
            ("policy_controller/commands", self._on_command),
            ("/policy_node/telemetry", self._on_telemetry),
        ):
            node.create_subscription(Float64MultiArray, topic, take, profile(depth=1000))
        self._remote = Remote(node, "/policy_node", self._until)
        self._loader = Remote(
            node, "/policy_node", lambda done, what: self._until(done, what, LOADING_SECONDS)
        )
        self.report = Report()
        self._begun_s = time.monotonic()

    def __enter__(self) -> Soak:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._end_process(signal.SIGINT)
        self._probe.close()

    def run(self, minutes: float) -> Report:
        """Soak for so long.

        Raises:
            NodesError: when the node does not come up in the first place.
        """
        self._start()
        self._begun_s = time.monotonic()
        end_s = self._begun_s + 60.0 * minutes
        restarts_end_s = self._begun_s + _RESTARTS_UNTIL * 60.0 * minutes
        sample_due_s = self._begun_s
        kinds = self._kinds()
        names = list(kinds)
        weights = np.array([kinds[name][0] for name in names])
        while time.monotonic() < end_s:
            self._spin_for(self._random.exponential(_MEAN_PAUSE_S))
            now_s = time.monotonic()
            if now_s >= sample_due_s:
                self._sample()
                sample_due_s += _SAMPLE_EVERY_S
            allowed = weights.copy()
            if now_s > restarts_end_s:
                allowed[[names.index("kill"), names.index("restart")]] = 0.0
            name = str(self._random.choice(names, p=allowed / allowed.sum()))
            self.report.events[name] += 1
            for part in (kinds[name][1], self._require_recovery):
                try:
                    part()
                except NodesError as reason:
                    self._violate(f"{name}: {reason}")
                self._require_alive()
        self._sample()
        self._require_alive()
        self.report.minutes = (time.monotonic() - self._begun_s) / 60.0
        self.report.tick_ms = asdict(Summary.of(np.array(self._tick_s)))
        return self.report

    # Events

    def _kinds(self) -> dict[str, tuple[float, Callable[[], None]]]:
        """Kinds of events: how often, relatively, and what is done."""
        return {
            "message fault": (6.0, self._message_fault),
            "planning switched": (3.0, self._switch_planning),
            "plans resized": (1.0, self._resize_plans),
            "bad parameter": (1.0, self._bad_parameter),
            "reload": (1.0, self._reload),
            "bad reload": (1.0, self._bad_reload),
            "stop": (1.0, self._press_stop),
            "freeze": (1.0, self._freeze),
            "restart": (0.3, lambda: self._restart(signal.SIGINT)),
            "kill": (0.3, lambda: self._restart(signal.SIGKILL)),
        }

    def _message_fault(self) -> None:
        fault: MessageFault = self._faults[self._random.integers(len(self._faults))]
        self.report.events[f"fault: {fault.name}"] += 1
        self._robot.befall(fault)
        if fault.effect == "safe":
            self._demand_safe(fault.name)
        self._spin_for(self._random.uniform(0.2, 3.0))
        self._safe_due_s = np.inf
        self._robot.befall(None)

    def _switch_planning(self) -> None:
        self._set_parameter("use_mpc", bool(self._random.random() < 0.6))

    def _resize_plans(self) -> None:
        self._set_parameter("mpc.candidates", int(self._random.choice([0, 16, 64, 512])))

    def _bad_parameter(self) -> None:
        if not self._remote.set("mpc.horizon", -3):
            raise NodesError("mpc.horizon = -3 was taken")

    def _reload(self) -> None:
        if not self._loader.trigger("reload"):
            raise NodesError("the good bundle was refused")

    def _bad_reload(self) -> None:
        self._loader.refuses_bundle("/nowhere")

    def _press_stop(self) -> None:
        if not self._remote.trigger("stop"):
            raise NodesError("the stop was refused")
        self._demand_safe("stop", grace_s=0.3)
        self._spin_for(self._random.uniform(0.3, 1.5))
        self._safe_due_s = np.inf

    def _freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._spin_for(self._random.uniform(0.1, 0.8))
        self._process.send_signal(signal.SIGCONT)

    def _restart(self, number: signal.Signals) -> None:
        self._end_process(number)
        self._start()

    # What must hold

    def _demand_safe(self, why: str, grace_s: float = GRACE_S) -> None:
        self._safe_due_s, self._why_safe = time.monotonic() + grace_s, why

    def _on_command(self, message: Any) -> None:
        values = np.array(message.data)
        self.report.commands += 1
        if values.shape != self._low.shape or not np.isfinite(values).all():
            self._violate(f"a command that is not one: {values.tolist()}")
            return
        if (values < self._low).any() or (values > self._high).any():
            self._violate(f"a command beyond its limits: {values.tolist()}")
        if not np.array_equal(values, self._safe):
            self._moved_s = time.monotonic()
            if self._moved_s > self._safe_due_s:
                self._violate(f"a command that is not the safe one: {self._why_safe}")
        self._command = values

    def _on_telemetry(self, message: Any) -> None:
        row = dict(zip(COLUMNS, message.data, strict=True))
        self.report.ticks[MODES[int(row["mode"])]] += 1
        self._tick_s.append(row["tick_s"])

    def _require_recovery(self) -> None:
        """Without faults the robot must be commanded, after the latched stop is cleared where there is one."""
        start_s = time.monotonic()
        clear_due_s = start_s
        while self._moved_s <= start_s:
            now_s = time.monotonic()
            if now_s > start_s + RECOVERY_S:
                self._violate(f"not commanded again within {RECOVERY_S:g} s")
                return
            if now_s >= clear_due_s:
                self._remote.trigger("clear_stop")
                clear_due_s = now_s + 1.0
            self._spin()

    def _require_alive(self) -> None:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            self._violate(f"the node ended with code {code}; see {self._log}")
            self._start()

    def _violate(self, what: str) -> None:
        self.report.violation_count += 1
        if len(self.report.violations) < _VIOLATIONS_KEPT:
            self.report.violations.append(f"{time.monotonic() - self._begun_s:.1f} s: {what}")

    # The node, and the robot it thinks it has

    def _start(self) -> None:
        self._process = start_policy_node(
            self._log,
            bundle=str(self._bundle.path),
            trigger="observation",
            mpc__model_fallback=False,
        )
        self._lives += 1
        ticks = self.report.ticks.total()
        self._until(lambda: self.report.ticks.total() > ticks, "tick of the node")

    def _end_process(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._until(lambda: self._process is None or self._process.poll() is not None, "end")
        expected = -signal.SIGKILL if number is signal.SIGKILL else 0
        if self._process.returncode != expected:
            self._violate(f"{number.name} ended the node with code {self._process.returncode}")

    def _move(self) -> Any:
        self._simulated.step(self._command)
        return self._simulated.state

    def _sample(self) -> None:
        assert self._process is not None
        try:
            mebibytes, threads = process_size(self._process.pid)
        except (OSError, KeyError):
            return  # it has just ended, or this system does not tell
        now_s = time.monotonic() - self._begun_s
        self.report.samples.append((now_s, mebibytes, threads, self._lives))

    def _set_parameter(self, name: str, value: bool | int | str) -> None:
        if reason := self._remote.set(name, value):
            raise NodesError(f"{name} = {value!r} was refused: {reason}")

    def _until(self, done: Callable[[], bool], what: str, limit_s: float = START_SECONDS) -> None:
        deadline = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > deadline:
                raise NodesError(f"no {what} within {limit_s:g} s; see {self._log}")
            self._spin()

    def _spin_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._spin()

    def _spin(self) -> None:
        self._robot.pump()
        self._probe.spin(0.002)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak from the command line. Returns 0 when nothing was violated."""
    parser = argparse.ArgumentParser(
        prog="python -m maac_ros.nodes.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", help="folder of the bundle, or the name of a shipped one")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=0, help="seed of faults and robot")
    parser.add_argument("--log", type=Path, default=Path("nodes.log"), help="output of the node")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    chosen = parser.parse_args(arguments)
    if not 0 < chosen.minutes < float("inf"):
        parser.error(f"--minutes: got {chosen.minutes}; expected more than 0")
    try:
        with Soak(load_bundle(chosen.bundle), chosen.seed, chosen.log) as soak:
            report = soak.run(chosen.minutes)
    except MaacError as reason:
        print(f"soak: {reason}", file=sys.stderr)
        return 2
    chosen.out.write_text(json.dumps(report.plain()), encoding="utf-8")
    return 1 if report.violation_count else 0


if __name__ == "__main__":
    sys.exit(main())
