"""The ladder of modes: MPC, policy, safe command, latched stop; what leads down it, and what leads up again."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum

_TRANSITIONS_KEPT = 32

_FORGIVEN = 0.1
"""Of the time under the safe command, how much a second without it takes back: what comes and goes must end too."""


class Mode(str, Enum):
    """What produced a command."""

    MPC = "mpc"
    POLICY = "policy"
    SAFE = "safe"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Rules:
    """How the ladder is climbed, and when it is left for good.

    Attributes:
        recovery_ticks: ticks in a row, this one included, at which nothing may be wrong before the safe command that
            a fault led to ends.
        stop_after_s: once the robot has been commanded, a fault that lasts longer latches the stop, and so do several
            whose safe commands last longer together; each second without one makes up for a tenth.
    """

    recovery_ticks: int = 1
    stop_after_s: float = float("inf")


@dataclass(frozen=True)
class Transition:
    """A change of mode. ``before`` is None at the first tick."""

    before: Mode | None
    after: Mode
    reason: str


class Ladder:
    """Decides, from what a tick could do, what it may do. Free of ROS.

    Before the first command that is not the safe one, a missing observation is not a fault but the wait for it.

    Attributes:
        counts: transitions so far.
        clears: how often a stop was cleared.
        news: the newest transitions, for whoever takes them out.
    """

    def __init__(self) -> None:
        self._stopped = ""
        self.clears = 0
        self.forget()

    def forget(self) -> None:
        """Begin anew; a latched stop holds."""
        self.counts: Counter[tuple[Mode | None, Mode]] = Counter()
        self.news: deque[Transition] = deque(maxlen=_TRANSITIONS_KEPT)
        self._mode: Mode | None = None
        self._commanded = False
        self._fault = ""
        self._safe_s, self._settled_s = 0.0, 0.0
        self._good_ticks = 0

    @property
    def stopped(self) -> str:
        """Why the stop is latched; empty when it is not."""
        return self._stopped

    def stop(self, reason: str) -> None:
        """Latch the stop; from any thread."""
        self._stopped = reason

    def clear_stop(self) -> None:
        """Let the next tick command again, without a wait."""
        self._stopped = self._fault = ""
        self._commanded = False
        self._safe_s = 0.0
        self.clears += 1

    def settle(self, wanted: Mode, reason: str, now_s: float, rules: Rules) -> tuple[Mode, str]:
        """The mode of this tick, and why it is not the one that was asked for.

        Args:
            wanted: what the tick could do; SAFE where something is wrong.
            reason: what is wrong, or why the policy acts where a plan was asked for.
            now_s: steady time.
            rules: in force now.
        """
        passed_s, self._settled_s = now_s - self._settled_s, now_s
        if self._commanded:
            self._safe_s += passed_s if self._mode is Mode.SAFE else -_FORGIVEN * passed_s
            self._safe_s = max(self._safe_s, 0.0)
        mode, reason = self._settled(wanted, reason, rules)
        if mode is not self._mode:
            self.counts[self._mode, mode] += 1
            self.news.append(Transition(self._mode, mode, reason))
            self._mode = mode
        return mode, reason

    def _settled(self, wanted: Mode, reason: str, rules: Rules) -> tuple[Mode, str]:
        if wanted is Mode.SAFE:
            self._good_ticks = 0
            self._fault = reason
            if self._safe_s > rules.stop_after_s and not self._stopped:
                self._stopped = f"the safe command has lasted {self._safe_s:.1f} s: {reason}"
        elif self._fault and not self._stopped:
            self._good_ticks += 1
            if self._commanded and self._good_ticks < rules.recovery_ticks:
                waited = f"{self._good_ticks} of {rules.recovery_ticks} ticks without a fault"
                return Mode.SAFE, f"{waited} after: {self._fault}"
            self._fault = ""
        if self._stopped:
            return Mode.STOPPED, self._stopped
        self._commanded |= wanted is not Mode.SAFE
        return wanted, reason
