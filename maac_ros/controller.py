"""The controller core: one place that decides between MPC, the policy and the safe command. Free of ROS."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from maac_ros.bundle import Bundle
from maac_ros.command_range import CommandRange
from maac_ros.errors import ObservationError
from maac_ros.inference import Array
from maac_ros.memory import FORGET_S, Memory
from maac_ros.modes import Ladder, Mode, Rules
from maac_ros.monitor import ModelMonitor
from maac_ros.observation import JointReading, ObservationBuilder, Vector
from maac_ros.planner import CemPlanner, Plan
from maac_ros.plausibility import PlausibleRange
from maac_ros.safe_command import SafeCommand
from maac_ros.task import PlannerSettings
from maac_ros.timing import Recorder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ControllerSettings:
    """What may be changed while the controller runs.

    Attributes:
        use_mpc: refine the policy by planning.
        planner: size of the search.
        planner_threads: that share out the candidates of a plan; see :class:`CemPlanner`.
        mpc_budget_s: time a plan may take; the planner stops early, or the policy acts alone.
        plausible_margin: how far an observation entry may lie outside the range of the training data, as a share of
            the width of that range; infinite for no limit.
        max_observation_age_s: an older observation leads to the safe command.
        max_odom_age_s, max_imu_age_s: the same for odom and imu; None for no limit of its own.
        action_rate_limit: largest change of a command entry per second, in command units, against the previous
            command; infinite for none.
        engage_s: time over which the command moves from the safe one to the policy's, when it begins to act.
        model_fallback: let the policy act alone while the model does not describe the robot.
        tick_limit_s: a tick that takes longer is overruled by the safe command.
        rules: what ends the safe command, and what latches the stop.
    """

    planner: PlannerSettings
    mpc_budget_s: float
    planner_threads: int = 1
    use_mpc: bool = False
    plausible_margin: float = np.inf
    max_observation_age_s: float = np.inf
    action_rate_limit: float = np.inf
    engage_s: float = 0.0
    model_fallback: bool = True
    tick_limit_s: float = np.inf
    rules: Rules = field(default_factory=Rules)
    max_odom_age_s: float | None = None
    max_imu_age_s: float | None = None

    def age_limit_s(self, source: str) -> float:
        """The age beyond which ``source`` leads to the safe command."""
        own_s = {"odom": self.max_odom_age_s, "imu": self.max_imu_age_s}.get(source)
        return self.max_observation_age_s if own_s is None else own_s


_ACTING = (Mode.MPC, Mode.POLICY)


@dataclass(frozen=True)
class Command:
    """Outcome of a tick.

    Attributes:
        values: (A,) in command units, within the bundle's limits. Always finite, but for safe commands of a task with
            position targets before its joints were ever known: those must not be sent.
        mode: what produced them.
        reason: why it is not the mode that was asked for; empty when it is.
        plan: the plan, in MPC mode.
    """

    values: Vector
    mode: Mode
    reason: str = ""
    plan: Plan | None = None


@dataclass
class Statistics:
    """What happened since the last reset.

    Attributes:
        ticks: by mode.
        fallbacks: ticks that did not do what was asked for, by cause.
        doubted: ticks at which the model did not describe the robot, whatever was asked for.
        inference, planning: durations.
    """

    ticks: Counter[Mode] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    doubted: int = 0
    inference: Recorder = field(default_factory=Recorder)
    planning: Recorder = field(default_factory=Recorder)


class Controller:
    """Turns observations into commands.

    Args:
        bundle: a verified bundle.
        settings: see :class:`ControllerSettings`.
        seed: of the planner.
        clock: steady seconds.

    Attributes:
        seed: see above.
        safe: what is commanded when nothing else may be.
        settled_s: when the mode of the last tick was decided, by ``clock``.
        plan_iterations: how many the plan of the last tick did; None where nothing was planned.
        stopped_before, clears_before: why a stop was latched when the last tick began, and how often one was cleared.
    """

    _previous: Vector
    """The last command."""
    _replaced: Vector
    """The one before."""
    _seen: Vector | None
    """The last usable observation, with what it recalled."""
    _seen_s: float | None
    """Its stamp."""
    _stamp_s: float
    """Of the last tick; NaN where it had none."""
    _engaged_s: float
    """For how long the policy has acted."""
    _engaged_from: Vector
    """The command before that; NaN where a joint had none."""
    statistics: Statistics

    def __init__(
        self,
        bundle: Bundle,
        settings: ControllerSettings,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.bundle = bundle
        self.builder = ObservationBuilder(bundle.task)
        self.seed = seed
        self._clock = clock
        self._range = CommandRange(bundle.task)
        self.safe = SafeCommand(bundle.task)
        self._memory = Memory(bundle.task)
        self._joints: JointReading | None = None
        self._plausible = PlausibleRange(bundle.manifest)
        self._policy_observation = np.zeros((1, len(bundle.manifest.observation)), np.float32)
        self._policy_action = np.zeros((1, len(bundle.manifest.action)), np.float32)
        self._ask_policy = bundle.policy.bind(
            {"observation": self._policy_observation}, {"action": self._policy_action}
        )
        self.ladder = Ladder()
        self.settled_s = 0.0
        self.plan_iterations: int | None = None
        self.stopped_before, self.clears_before = "", 0
        self._settings = settings
        self._planner = self._new_planner(settings)
        self.reset()

    @property
    def settings(self) -> ControllerSettings:
        return self._settings

    @property
    def stopped(self) -> str:
        """Why :meth:`stop` holds the safe command; empty when it does not."""
        return self.ladder.stopped

    def stop(self, reason: str) -> None:
        """Latch the stop, from any thread: a tick under way ends with the safe command too."""
        self.ladder.stop(reason)

    def clear_stop(self) -> None:
        """Let the next tick command again."""
        self.ladder.clear_stop()

    def take_over(self, other: Controller) -> None:
        """Go on where ``other``, for the same task, has come to: its mode, its counts, the command it gave last.

        Durations begin anew: those of another bundle's networks say nothing of this one's.
        """
        self.ladder = other.ladder
        counts = other.statistics
        self.statistics = Statistics(counts.ticks, counts.fallbacks, counts.doubted)
        self._previous = other._previous
        self.safe.take_over(other.safe)
        self._seen, self._seen_s = other._seen, other._seen_s
        self._stamp_s = other._stamp_s
        self._engaged_s, self._engaged_from = other._engaged_s, other._engaged_from

    def reset(self, settings: ControllerSettings | None = None) -> None:
        """Forget the past, but not :meth:`stop`: statistics, previous command, the planner's random stream."""
        if settings is not None:
            self.configure(settings)
        self.ladder.forget()
        self.statistics = Statistics()
        self.safe.forget()
        self._previous = self._replaced = self._engaged_from = self.safe.blind
        self._stamp_s, self._engaged_s = math.nan, 0.0
        self._planner.restart()
        self.monitor = ModelMonitor(self.bundle)
        self._answered: Array | None = None
        self._seen = self._seen_s = None

    def close(self) -> None:
        """End the planner's threads; not to be ticked any more."""
        self._planner.close()

    def begin_anew(self) -> None:
        """The robot was put elsewhere: what was predicted, and what is recalled, is of another episode."""
        self.monitor.skip()
        self._seen = self._seen_s = None

    def configure(self, settings: ControllerSettings, planner: CemPlanner | None = None) -> None:
        """Change the settings between two ticks, with the ``planner`` that :meth:`prepare` made for them."""
        self._planner = planner or self.prepare(settings) or self._planner
        self._settings = settings

    def prepare(self, settings: ControllerSettings) -> CemPlanner | None:
        """A planner for ``settings``, which has been tried out; None where that of now will do.

        Takes as long as a plan may, and may be called while another thread ticks.
        """
        now = self._settings
        if (settings.planner, settings.planner_threads) == (now.planner, now.planner_threads):
            return None
        return self._tried_planner(settings)

    def _tried_planner(self, settings: ControllerSettings) -> CemPlanner:
        planner = self._new_planner(settings)
        planner.try_out(settings.mpc_budget_s)
        return planner

    def _new_planner(self, settings: ControllerSettings) -> CemPlanner:
        return CemPlanner(
            self.bundle, settings.planner, self.seed, self._clock, settings.planner_threads
        )

    def warm_up(self, ticks: int = 5, pause_s: float = 0.0) -> None:
        """Run every path once or more, since first calls are slow, then reset.

        Args:
            ticks: with planning, and without.
            pause_s: before each of them, for another controller that commands meanwhile.
        """
        observation = np.zeros(len(self.builder.entries))
        for use_mpc in (False, True):
            for _ in range(ticks):
                time.sleep(pause_s)
                self._act(observation.astype(np.float32), use_mpc, np.inf)
                self._answered = observation.astype(np.float32)
                self.assess()
        # How long the first plans took says nothing of later ones.
        self._planner = self._tried_planner(self._settings)
        self.reset()

    def tick(
        self,
        observation: Vector | ObservationError | None,
        age_s: float,
        stamp_s: float | None = None,
        source: str = "observation",
        plan_iterations: int | None = None,
        joints: JointReading | None = None,
    ) -> Command:
        """Decide the command for one control period.

        Args:
            observation: (O,) float64 in the bundle's units, with anything for what is recalled; or why there is none;
                or None when a source has never been heard.
            age_s: age of the source that comes nearest to its limit, or is furthest beyond it.
            stamp_s: when it was taken, on any clock; None for one control period after the last one.
            source: name of that source.
            plan_iterations: how many a plan does, to repeat a recorded tick; by default what settings and budget allow.
            joints: what is known of them, for a safe command that follows them, whatever is wrong with the observation.

        Never raises on bad input: the safe command comes with the reason instead.
        """
        self._answered = self.plan_iterations = None
        joints = self._joints = self._believed(joints)
        # Read once: a stop may be latched, or cleared, from another thread at any moment.
        self.clears_before, self.stopped_before = self.ladder.clears, self.stopped
        if self.stopped_before:
            command = Command(self.safe.values(joints), Mode.SAFE, self.stopped_before)
        else:
            command = self._decide(observation, age_s, stamp_s, source, plan_iterations)
        command = self._settle(command)
        if command.mode in _ACTING:
            self.safe.release(command.values)
        else:
            self._engaged_s = 0.0
        self._replaced, self._previous = self._previous, command.values
        self._stamp_s = math.nan if stamp_s is None else stamp_s
        self.statistics.ticks[command.mode] += 1
        return command

    def overrule(
        self, command: Command, reason: str, joints: JointReading | None = None
    ) -> Command:
        """Take note that the safe command was sent in place of the last tick's ``command``, or after it; returns it."""
        self._joints = self._believed(joints)
        if command.mode in _ACTING:
            self.safe.release(self._replaced)  # it was not sent
        safe = self._settle(self._safe(reason, "hang"))
        self.statistics.ticks[command.mode] -= 1
        self.statistics.ticks[safe.mode] += 1
        self._previous, self._answered = safe.values, None
        self._engaged_s = 0.0
        return safe

    def assess(self) -> None:
        """Have the model predict what the last tick leads to, for the next one to compare.

        Apart from :meth:`tick`, so that the command can be sent first. Never raises.
        """
        try:
            if self._answered is None:
                self.monitor.skip()
            else:
                self.monitor.predict(self._answered, self._previous.astype(np.float32))
        except Exception:
            logger.exception("the model could not be asked what comes next")
            self.monitor.skip()

    def _believed(self, joints: JointReading | None) -> JointReading | None:
        """What of ``joints`` a safe command may go by."""
        if joints is None:
            return None
        return self._plausible.believed(joints, self._settings.plausible_margin)

    def _settle(self, command: Command) -> Command:
        """What the ladder of modes makes of ``command``."""
        self.settled_s = self._clock()
        mode, reason = self.ladder.settle(
            command.mode, command.reason, self.settled_s, self._settings.rules
        )
        if mode is Mode.STOPPED:
            self._answered = None  # a stop is the same before a tick and in the midst of one
        if mode is command.mode:
            return command
        self.statistics.fallbacks["stop" if mode is Mode.STOPPED else "recovery"] += 1
        return Command(self.safe.values(self._joints), mode, reason)

    def _decide(
        self,
        observation: Vector | ObservationError | None,
        age_s: float,
        stamp_s: float | None,
        source: str,
        plan_iterations: int | None,
    ) -> Command:
        settings = self._settings
        try:
            if self._memory and isinstance(observation, np.ndarray):
                observation = self._recalling(observation, stamp_s)
            usable = self._usable(observation, age_s, source, settings)
            if isinstance(observation, np.ndarray):
                self._seen, self._seen_s = observation, stamp_s
            self.monitor.compare(usable, stamp_s)
            doubt = self.monitor.doubt
            self.statistics.doubted += bool(doubt)
            trusted = not (doubt and settings.model_fallback)
            command = self._act(
                usable, settings.use_mpc and trusted, settings.mpc_budget_s, plan_iterations
            )
            if settings.use_mpc and not trusted:
                self.statistics.fallbacks["model"] += 1
                command = replace(command, reason=doubt)
            self._answered = usable
            return self._limit(command, settings, stamp_s, usable)
        except ObservationError as reason:
            return self._safe(str(reason), "observation")
        except Exception as reason:  # whatever fails inside, the robot must get a command
            logger.exception("the controller failed; commanding the safe values")
            return self._safe(f"internal error: {reason}", "error")

    def _recalling(self, observation: Vector, stamp_s: float | None) -> Vector:
        """``observation`` with what it recalls of the last usable one, and of the command that was sent then."""
        last, last_s = self._seen, self._seen_s
        elapsed_s = 0.0 if stamp_s is None or last_s is None else stamp_s - last_s
        if last is None or not 0.0 <= elapsed_s <= FORGET_S:
            return self._memory.begin(observation, self.safe.values(self._joints))
        return self._memory.go_on(observation, last, self._previous)

    def _usable(
        self,
        observation: Vector | ObservationError | None,
        age_s: float,
        source: str,
        settings: ControllerSettings,
    ) -> Array:
        if observation is None:
            raise ObservationError("no observation yet")
        if isinstance(observation, ObservationError):
            # Not itself: with this frame in its own traceback it would keep all of this alive, tick after tick, until
            # the garbage collector comes by.
            raise ObservationError(str(observation))
        limit_s = settings.age_limit_s(source)
        if not age_s <= limit_s:
            raise ObservationError(
                f"{source} is {age_s * 1e3:.0f} ms old; limit {limit_s * 1e3:.0f} ms"
            )
        single = self.builder.single(observation)
        self._plausible.require(single, settings.plausible_margin)
        return single

    def _act(
        self,
        observation: np.ndarray,
        use_mpc: bool,
        budget_s: float,
        plan_iterations: int | None = None,
    ) -> Command:
        start = self._clock()
        self._policy_observation[0] = observation
        self._ask_policy()
        command = Command(self._policy_action[0].astype(np.float64), Mode.POLICY)
        self.statistics.inference.add(self._clock() - start)
        if not use_mpc:
            self._planner.forget()
            return command
        start = self._clock()
        plan = self._planner.plan(observation, budget_s, plan_iterations)
        self.statistics.planning.add(self._clock() - start)
        self.plan_iterations = plan.iterations
        if plan.iterations == 0:
            self.statistics.fallbacks["budget"] += 1
            return Command(command.values, Mode.POLICY, f"no plan fits {budget_s * 1e3:.1f} ms")
        if not np.isfinite(plan.actions).all():
            self.statistics.fallbacks["plan"] += 1
            return Command(command.values, Mode.POLICY, "the plan is not finite")
        return Command(plan.actions[0].astype(np.float64), Mode.MPC, plan=plan)

    def _limit(
        self,
        command: Command,
        settings: ControllerSettings,
        stamp_s: float | None,
        observation: Array,
    ) -> Command:
        """Move over to the policy's command, limit its change against the one before, and clip it to the limits."""
        if not np.isfinite(command.values).all():
            return self._safe(f"the policy's action is not finite: {command.values}", "action")
        elapsed_s = self._elapsed_s(stamp_s)
        values = command.values
        if self._engaged_s == 0.0:
            self._engaged_from = self._previous
        if self._engaged_s < settings.engage_s:
            self._engaged_s += elapsed_s
            share = min(self._engaged_s / settings.engage_s, 1.0)
            start = self._or_where_it_is(self._engaged_from, values)
            values = start + share * (values - start)
        step = settings.action_rate_limit * elapsed_s
        previous = self._or_where_it_is(self._previous, values)
        # numpy.clip takes more than twice as long.
        values = np.minimum(np.maximum(values, previous - step), previous + step)
        low, high = self._range.limits(observation)
        values = np.minimum(np.maximum(values, low), high)
        return Command(values, command.mode, command.reason, command.plan)

    def _elapsed_s(self, stamp_s: float | None) -> float:
        """Time since the last tick by the stamps of what they answer, as far as it counts: a control period at most."""
        period_s = self.bundle.manifest.control_period_s
        passed_s = math.nan if stamp_s is None else stamp_s - self._stamp_s
        return passed_s if 0.0 < passed_s < period_s else period_s

    def _or_where_it_is(self, command: Vector, otherwise: Vector) -> Vector:
        """``command`` (A,), or, before the first position targets, where the robot is: it sets out from there."""
        if np.isfinite(command).all():
            return command
        where = self.safe.values(self._joints)
        return np.where(np.isfinite(where), where, otherwise)

    def _safe(self, reason: str, cause: str) -> Command:
        self.statistics.fallbacks[cause] += 1
        return Command(self.safe.values(self._joints), Mode.SAFE, reason)
