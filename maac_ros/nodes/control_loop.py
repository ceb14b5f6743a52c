"""The control thread: decides when to tick the controller, and sees that the last thing sent is the safe command."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from maac_ros.controller import Command, Controller, ControllerSettings
from maac_ros.errors import ObservationError
from maac_ros.modes import Mode, Transition
from maac_ros.nodes.inbox import Inbox, Sample, Wake
from maac_ros.nodes.telemetry import TickRecord
from maac_ros.nodes.watchdog import Watchdog
from maac_ros.observation import JointReading, Vector
from maac_ros.planner import CemPlanner
from maac_ros.recording import FlightRecorder, RecordedTick
from maac_ros.terms import Source
from maac_ros.timing import Deadlines, Recorder, Summary

Trigger = Literal["timer", "observation"]

_JOIN_SECONDS = 2.0

_RETIREMENT_S = 0.2
"""After which a controller that was replaced is freed."""

_SILENCE_S = 5.0
"""Without a message for so long, simulated time is no excuse: no simulator that runs is so slow."""

_CLOCK_LAG_S = 1.0
"""``/clock`` and the states travel apart, and it may come at a low rate of its own."""

_RECORDED = 8192
"""Ticks whose durations are kept for statistics."""


@dataclass(frozen=True)
class RosTime:
    """The node's clock.

    Attributes:
        now_ns: present ROS time.
        simulated: whether ROS time comes from ``/clock``.
    """

    now_ns: Callable[[], int]
    simulated: Callable[[], bool]


class _Wanted(NamedTuple):
    """What the next tick is to be done with."""

    controller: Controller
    settings: ControllerSettings
    planner: CemPlanner | None = None


@dataclass(frozen=True)
class LoopReport:
    """What the loop did.

    Attributes:
        command: the first of the worst commands since the previous report, or the last one when there was none.
        tick: durations of whole ticks, publishing included.
        period: times from the beginning of one tick to that of the next.
        age: of the observations that were answered.
        missed_deadlines: see :class:`TickRecord`.
        missed_now: those since the previous report.
        observation_age_s: at the last tick; NaN without an observation.
        overtaken: messages dropped because a newer one of their source had come before them.
        observation_period: times between the stamps of observations that were answered.
        hangs_in_sending_s: for how long a command has been on its way out; 0 for none.
        ages_s: of each source now; NaN where it has never been heard.
    """

    command: Command | None
    tick: Summary
    period: Summary
    age: Summary
    missed_deadlines: int
    missed_now: int
    observation_age_s: float
    overtaken: int
    observation_period: Summary
    hangs_in_sending_s: float
    ages_s: dict[Source, float]


class ControlLoop:
    """Ticks a controller in a thread of its own, until :meth:`stop`.

    With the trigger ``timer`` it ticks at absolute deadlines on the steady clock, on the newest messages. With
    ``observation`` it ticks when all sources have arrived with one and the same new stamp. A stamp that comes
    again gets its answer again, not a new one: a simulator in lockstep repeats a state that it has no answer to.

    A tick that takes longer than ``settings.tick_limit_s``, with all that is done around it, is overruled: a second
    thread sends the safe command, once a period until the tick ends, and what the tick would have sent is dropped.

    Ages are in ROS time, and a stamp from the future is refused like a stale one. In simulated time, which may stand
    still, a state that ticks are triggered by is of age 0 when it arrives. A clock that was never heard, or silence
    that no simulator explains, leads to the safe command too.

    Args:
        controller: warmed up.
        inbox: where the messages come in.
        ros_time: for ages.
        send: publishes a command, with the stamp of the observation it answers (0 for none).
        measured: is told of each tick after it.
        failed: is told of an exception that ended the thread.
        trigger: see above.
        recorder: takes every tick down.
    """

    def __init__(
        self,
        controller: Controller,
        inbox: Inbox,
        ros_time: RosTime,
        send: Callable[[Command, int], None],
        measured: Callable[[TickRecord], None],
        failed: Callable[[Exception], None],
        trigger: Trigger,
        recorder: FlightRecorder | None = None,
    ) -> None:
        self._controller = controller
        self._recorder = recorder
        self._wanted = _Wanted(controller, controller.settings)
        self._inbox, self._ros_time = inbox, ros_time
        self._send, self._measured, self._failed = send, measured, failed
        self.trigger = trigger
        self._run_ticks = self._run_timer if trigger == "timer" else self._run_observation
        self._period_s = controller.bundle.manifest.control_period_s
        self._thread: threading.Thread | None = None
        self._sending = threading.Lock()
        self._stopping = threading.Event()
        self._watchdog = Watchdog(
            self._overrule, self._period_s, lambda: self._wanted.settings.tick_limit_s
        )
        self._begin()

    def _begin(self) -> None:
        self._answered: int | None = None
        self._last: Command | None = None
        self._worst: Command | None = None
        self._worst_told: Command | None = None
        self._age_s = float("nan")
        self._ticks, self._periods, self._ages, self._stamp_periods = (
            Recorder(_RECORDED) for _ in range(4)
        )
        self._begun_s: float | None = None
        self._missed = self._missed_reported = self._skipped = 0
        self._overruled = ""
        self._send_began_s: float | None = None

    @property
    def controller(self) -> Controller:
        """The controller that ticks, or will at the next tick."""
        return self._wanted.controller

    @property
    def running(self) -> bool:
        return self._thread is not None

    def start(self) -> None:
        """Begin to command, with fresh statistics."""
        self._adopt()
        self._controller.reset()
        self._begin()
        self._stopping.clear()
        self._watchdog.start()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop commanding. The safe command is the last one sent."""
        if self._thread is None:
            return
        self._stopping.set()
        if self._sending.acquire(timeout=_JOIN_SECONDS):
            try:
                last = Command(self._controller.safe.blind, Mode.SAFE, "the controller stops")
                self._transmit(last, self._answered or 0)
            finally:
                self._sending.release()
        else:
            self._failed(
                RuntimeError("the safe command cannot be sent: another one hangs in sending")
            )
        self._watchdog.stop()
        self._inbox.interrupt()
        self._thread.join(_JOIN_SECONDS)
        if self._thread.is_alive():
            self._failed(RuntimeError(f"a tick has not ended within {_JOIN_SECONDS:g} s"))
        self._thread = None

    def close(self) -> None:
        """Stop commanding for good."""
        self.stop()
        self._controller.close()
        self.controller.close()

    def configure(self, settings: ControllerSettings) -> None:
        """Change the settings between two ticks; a planner of another size is made and tried out before."""
        controller = self._wanted.controller
        self._wanted = _Wanted(controller, settings, controller.prepare(settings))

    def swap(self, controller: Controller, settings: ControllerSettings) -> None:
        """Go on with another controller, for the same task, after the present tick."""
        if stopped := self.controller.stopped:
            controller.stop(stopped)
        self._wanted = _Wanted(controller, settings, controller.prepare(settings))

    def latch_stop(self, reason: str) -> None:
        """Command the safe values, at once and until :meth:`clear_stop`."""
        for controller in (self._controller, self._wanted.controller):
            controller.stop(reason)
        self._inbox.interrupt()

    def clear_stop(self) -> None:
        for controller in (self._controller, self._wanted.controller):
            controller.clear_stop()

    def report(self) -> LoopReport:
        """What happened, and what was worst since the previous report."""
        # Ticks go on meanwhile: what they write is not cleared here, but remembered as told.
        worst = self._worst
        command = self._last if worst is self._worst_told else worst
        self._worst_told = worst
        missed, began_s = self._missed, self._send_began_s
        missed_now, self._missed_reported = missed - self._missed_reported, missed
        return LoopReport(
            command=command,
            tick=self._ticks.summary(),
            period=self._periods.summary(),
            age=self._ages.summary(),
            missed_deadlines=missed,
            missed_now=missed_now,
            observation_age_s=self._age_s,
            overtaken=self._inbox.overtaken.total(),
            observation_period=self._stamp_periods.summary(),
            hangs_in_sending_s=time.perf_counter() - began_s if began_s is not None else 0.0,
            ages_s={
                source: math.nan if stamp_ns is None else self._age(stamp_ns, arrived=False)
                for source, stamp_ns in self._inbox.stamps().items()
            },
        )

    def transitions(self) -> list[Transition]:
        """Changes of mode since the last call; of many, the newest."""
        news, taken = self.controller.ladder.news, []
        while news:
            taken.append(news.popleft())
        return taken

    def _run(self) -> None:
        try:
            self._run_ticks()
        except (
            Exception
        ) as reason:  # a thread that dies silently would leave the last command in force
            self._failed(reason)

    def _run_timer(self) -> None:
        deadlines = Deadlines(self._period_s, time.perf_counter())
        while not self._stopping.is_set():
            due, skipped = deadlines.next(time.perf_counter())
            self._skipped = skipped
            while self._inbox.wait(due) is not Wake.DEADLINE:
                if self._stopping.is_set():
                    return
                self._tick_if_stopped()
            self._tick_sample(self._newest(), due, arrived=False)

    def _run_observation(self) -> None:
        while not self._stopping.is_set():
            limit_s = self._wanted.settings.max_observation_age_s
            wake = self._inbox.wait(time.perf_counter() + limit_s)
            if wake is Wake.MATCH:
                sample = self._newest()
                answered = self._answered
                if answered is None or sample.stamp_ns != answered or not self._last:
                    self._tick_sample(sample, sample.received_s, arrived=True)
                elif self._age(answered, arrived=False) <= limit_s:
                    self._publish(self._last, answered)
                else:
                    self._tick_if_silent(limit_s)
            elif wake is Wake.INTERRUPT:
                self._tick_if_stopped()
            else:
                self._tick_if_silent(limit_s)

    def _tick_if_stopped(self) -> None:
        if self._controller.stopped and not self._stopping.is_set():
            self._tick(ObservationError("stopped"), float("nan"), time.perf_counter())

    def _newest(self) -> Sample:
        return self._inbox.newest(self._wanted.settings.age_limit_s)

    def _tick_if_silent(self, limit_s: float) -> None:
        sample = self._newest()
        if isinstance(sample.observation, ObservationError):
            reason = sample.observation
        elif self._answered is None:
            sources = " and ".join(self._inbox.sources)
            reason = ObservationError(f"{sources} have not come with one and the same stamp yet")
        elif deaf := self._deaf(sample):
            reason = ObservationError(deaf)
        else:
            age_s = self._age(self._answered, arrived=False)
            if age_s <= limit_s:
                return  # simulated time stands still
            reason = ObservationError(
                f"no new observation for {age_s * 1e3:.0f} ms; limit {limit_s * 1e3:.0f} ms"
            )
        self._tick(reason, float("nan"), time.perf_counter())

    def _deaf(self, sample: Sample) -> str:
        """Why ages in simulated time say nothing; empty where they do."""
        if not self._ros_time.simulated():
            return ""
        silent_s = time.perf_counter() - sample.received_s
        limit_s = self._wanted.settings.max_observation_age_s
        if self._ros_time.now_ns() == 0 and silent_s > limit_s:
            return "use_sim_time is set, and nothing has been heard on /clock"
        if silent_s > _SILENCE_S:
            return f"nothing has been heard for {silent_s:.0f} s, whatever simulated time it is"
        return ""

    def _tick_sample(self, sample: Sample, triggered_s: float, arrived: bool) -> None:
        if sample.stamp_ns is None:
            self._tick(sample.observation, float("nan"), triggered_s)
            return
        stamp_s = sample.stamp_ns * 1e-9
        observation = sample.observation
        age_s = self._age(sample.stamp_ns, arrived)
        limit_s = self._wanted.settings.age_limit_s(sample.oldest)
        if isinstance(observation, ObservationError):
            pass  # that is the reason
        elif deaf := "" if arrived else self._deaf(sample):
            observation = ObservationError(deaf)
        elif age_s < -limit_s:
            observation = ObservationError(
                f"{sample.oldest} is stamped {-age_s * 1e3:.0f} ms in the future; limit {limit_s * 1e3:.0f} ms; "
                "are the clocks of robot and controller synchronised?"
            )
        if self._answered is not None and sample.stamp_ns > self._answered:
            self._stamp_periods.add((sample.stamp_ns - self._answered) * 1e-9)
        self._answered = sample.stamp_ns
        self._tick(observation, age_s, triggered_s, stamp_s, sample.oldest)

    def _age(self, stamp_ns: int, arrived: bool) -> float:
        if not self._ros_time.simulated():
            return (self._ros_time.now_ns() - stamp_ns) * 1e-9
        if arrived:
            return 0.0
        age_s = (self._ros_time.now_ns() - stamp_ns) * 1e-9
        return age_s if age_s < -_CLOCK_LAG_S else max(0.0, age_s)

    def _tick(
        self,
        observation: Vector | ObservationError,
        age_s: float,
        triggered_s: float,
        stamp_s: float = float("nan"),
        source: str = "observation",
    ) -> None:
        self._watchdog.tick_begins()
        self._adopt()
        number = self._ticks.count
        statistics = self._controller.statistics
        inferences, plans = statistics.inference.count, statistics.planning.count
        begun = time.perf_counter()
        if self._begun_s is not None:
            self._periods.add(begun - self._begun_s)
        self._begun_s = begun
        if not math.isnan(age_s):
            self._ages.add(age_s)
        joints = self._joints()
        command = self._controller.tick(observation, age_s, stamp_s, source, joints=joints)
        self._publish(command, self._answered or 0)
        ended = time.perf_counter()
        self._controller.assess()
        missed = self._skipped + (ended - triggered_s > self._period_s)
        self._skipped = 0
        self._missed += missed
        monitor = self._controller.monitor
        nan = float("nan")
        self._measured(
            TickRecord(
                stamp_ns=self._answered or 0,
                mode=Mode.SAFE if self._overruled else command.mode,
                tick_s=ended - begun,
                inference_s=statistics.inference.last_s
                if statistics.inference.count > inferences
                else nan,
                planning_s=statistics.planning.last_s if statistics.planning.count > plans else nan,
                observation_age_s=age_s,
                missed=missed,
                disagreement=monitor.disagreement,
                residual=monitor.residual,
                exceedance=monitor.exceedance,
            )
        )
        with self._sending:
            self._watchdog.tick_ends()
            overruled, self._overruled = self._overruled, ""
        settled_s = self._controller.settled_s
        if overruled:
            command = self._controller.overrule(command, overruled)
        self._ticks.add(ended - begun)
        self._last, self._age_s = command, age_s
        worst = self._worst
        if worst is None or worst is self._worst_told or _severity(command) > _severity(worst):
            self._worst = command
        if self._recorder is not None:
            self._recorder.take(
                RecordedTick(
                    number=number,
                    observation=str(observation)
                    if isinstance(observation, ObservationError)
                    else tuple(observation.tolist()),
                    age_s=age_s,
                    stamp_s=stamp_s,
                    source=source,
                    clears=self._controller.clears_before,
                    stopped=self._controller.stopped_before,
                    settled_s=settled_s,
                    plan_iterations=self._controller.plan_iterations,
                    overruled=overruled,
                    overruled_s=self._controller.settled_s,
                    values=tuple(command.values.tolist()),
                    joints=None
                    if joints is None
                    else tuple(np.concatenate((joints.position, joints.velocity)).tolist()),
                    mode=command.mode,
                    reason=command.reason,
                ),
                self._controller,
            )

    def _joints(self) -> JointReading | None:
        """The joints' state for a safe command that follows them, unless it is too old."""
        if not self._controller.safe.follows or (known := self._inbox.joints()) is None:
            return None
        stamp_ns, reading = known
        limit_s = self._wanted.settings.age_limit_s("joint_states")
        return reading if abs(self._age(stamp_ns, arrived=False)) <= limit_s else None

    def _adopt(self) -> None:
        controller, settings, planner = self._wanted
        if controller is not self._controller:
            controller.take_over(self._controller)
            # Its sessions take milliseconds to be freed: not within a tick, nor beside the end of a load.
            retired = threading.Timer(_RETIREMENT_S, self._controller.close)
            retired.daemon = True
            retired.start()
        if settings is not controller.settings:
            controller.configure(settings, planner)
        self._controller = controller

    def _publish(self, command: Command, answers_ns: int) -> None:
        with self._sending:
            if not (self._stopping.is_set() or self._overruled):
                self._transmit(command, answers_ns)

    def _transmit(self, command: Command, answers_ns: int) -> None:
        # There is no safe position target before anything is known of the joints.
        if np.isfinite(command.values).all():
            self._send_began_s = time.perf_counter()
            self._send(command, answers_ns)
            self._send_began_s = None

    def _overrule(self, begun_s: float) -> None:
        """Send the safe command in place of a tick that hangs; called by the watchdog."""
        # Whoever holds the lock for a period hangs in sending: nothing can be sent, and the next period tries again.
        if not self._sending.acquire(timeout=self._period_s):
            return
        try:
            if self._stopping.is_set() or not self._watchdog.still_ticks(begun_s):
                return
            took_s, limit_s = time.perf_counter() - begun_s, self._wanted.settings.tick_limit_s
            self._overruled = (
                f"a tick has taken {took_s * 1e3:.0f} ms; limit {limit_s * 1e3:.0f} ms"
            )
            self._worst = Command(self._controller.safe.blind, Mode.SAFE, self._overruled)
            self._transmit(self._worst, self._answered or 0)
        except Exception as reason:  # else the watchdog would die in silence
            self._failed(reason)
        finally:
            self._sending.release()


def _severity(command: Command) -> int:
    if command.mode is Mode.STOPPED:
        return 3
    if command.mode is Mode.SAFE:
        return 2
    return 1 if command.reason else 0
