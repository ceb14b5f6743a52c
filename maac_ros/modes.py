"""The ladder of modes: MPC, policy, safe command, latched stop; what leads down it, and what leads up again."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum

_TRANSITIONS_KEPT = 32


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
        stop_after_s: a fault that lasts longer, once the robot has been commanded, latches the stop.
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
        self._fault_began_s = 0.0
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
        self.clears += 1

    def settle(self, wanted: Mode, reason: str, now_s: float, rules: Rules) -> tuple[Mode, str]:
        """The mode of this tick, and why it is not the one that was asked for.

        Args:
            wanted: what the tick could do; SAFE where something is wrong.
            reason: what is wrong, or why the policy acts where a plan was asked for.
            now_s: steady time.
            rules: in force now.
        """
        mode, reason = self._settled(wanted, reason, now_s, rules)
        if mode is not self._mode:
            self.counts[self._mode, mode] += 1
            self.news.append(Transition(self._mode, mode, reason))
            self._mode = mode
        return mode, reason

    def _settled(self, wanted: Mode, reason: str, now_s: float, rules: Rules) -> tuple[Mode, str]:
        if wanted is Mode.SAFE:
            self._good_ticks = 0
            if not self._fault:
                self._fault_began_s = now_s
            self._fault = reason
            lasted_s = now_s - self._fault_began_s
            if self._commanded and lasted_s > rules.stop_after_s and not self._stopped:
                self._stopped = f"the safe command has lasted {lasted_s:.1f} s: {reason}"
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
