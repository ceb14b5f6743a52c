"""One row of numbers for each tick of the policy node, for whoever measures it."""

from __future__ import annotations

from dataclasses import dataclass

from maac_ros.modes import Mode

MODES = ("safe", "policy", "mpc", "stopped")
"""Values of the column ``mode``."""

COLUMNS = (
    "stamp_s",
    "mode",
    "tick_s",
    "inference_s",
    "planning_s",
    "observation_age_s",
    "missed",
    "disagreement",
    "residual",
    "exceedance",
)
"""Layout of ``~/telemetry`` (std_msgs/Float64MultiArray).

``stamp_s`` is the stamp of the observation that was answered; ``planning_s`` is NaN where nothing was planned;
``missed`` counts the deadlines that this tick missed. The last three are those of :mod:`maac_ros.monitor`, in units of
its own; NaN before the first.
"""


@dataclass(frozen=True)
class TickRecord:
    """One tick, in numbers.

    Attributes:
        stamp_ns: of the observation it answers; 0 for none.
        mode: what produced the command.
        tick_s: the whole tick, publishing included.
        inference_s: the policy's share of it; NaN where the policy was not asked.
        planning_s: the planner's share of it; NaN where nothing was planned.
        observation_age_s: NaN without an observation.
        missed: deadlines missed: those skipped before the tick, and one when it ended more than a control period
            after its trigger.
        disagreement: of the ensemble about what this tick's command leads to.
        residual: of this tick's observation, against what was predicted for it.
        exceedance: share of the recent ticks beyond their limits.
    """

    stamp_ns: int
    mode: Mode
    tick_s: float
    inference_s: float
    planning_s: float
    observation_age_s: float
    missed: int
    disagreement: float
    residual: float
    exceedance: float

    def row(self) -> list[float]:
        """In the order of :data:`COLUMNS`."""
        return [
            self.stamp_ns * 1e-9,
            MODES.index(self.mode.value),
            self.tick_s,
            self.inference_s,
            self.planning_s,
            self.observation_age_s,
            self.missed,
            self.disagreement,
            self.residual,
            self.exceedance,
        ]
