"""Whether an observation is one that the policy can know anything about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maac_ros.bundle import Manifest
from maac_ros.errors import ObservationError
from maac_ros.inference import Array
from maac_ros.observation import JointReading, Vector, believed


class _Range(NamedTuple):
    """Bounds (N,), and the width that a margin is a share of."""

    low: Vector
    high: Vector
    width: Vector

    @classmethod
    def unlimited(cls, count: int) -> _Range:
        return cls(np.full(count, -np.inf), np.full(count, np.inf), np.zeros(count))

    def outside(self, numbers: Vector | Array, margin: float) -> NDArray[np.bool_]:
        """Which of ``numbers`` (N,) are further outside than ``margin`` widths; infinite for no limit."""
        if margin == np.inf:
            return np.zeros(len(numbers), np.bool_)
        room = margin * self.width
        return (numbers < self.low - room) | (numbers > self.high + room)


class PlausibleRange:
    """The range of the training data, widened by a margin.

    Args:
        manifest: of a bundle. Where it does not say what was observed, everything is plausible, and so is any value
            of an entry that was the same throughout.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._entries = manifest.observation
        self._range = _Range.unlimited(len(self._entries))
        if manifest.observed is not None:
            low, high = np.array(manifest.observed.low), np.array(manifest.observed.high)
            varied = high > low
            for bounds, observed in zip(self._range, (low, high, high - low), strict=True):
                bounds[varied] = observed[varied]
        self._readings = [
            self._of_joints(tuple(manifest.task.robot.joints), quantity)
            for quantity in ("position", "velocity")
        ]

    def _of_joints(self, joints: tuple[str, ...], quantity: str) -> _Range:
        """What is known of a quantity of the joints, in its unit and as they tell it: the range of training, or how far
        beyond its clip it may lie."""
        known = _Range.unlimited(len(joints))
        index = {entry.name: i for i, entry in enumerate(self._entries)}
        for joint, name in enumerate(joints):
            if (i := index.get(f"{name}/{quantity}")) is None:
                continue
            entry = self._entries[i]
            if entry.clip is not None:
                known.low[joint], known.high[joint] = believed(*entry.clip)
            else:
                for bounds, trained in zip(known, self._range, strict=True):
                    bounds[joint] = trained[i]
            for bounds in known:
                bounds[joint] /= entry.scale
            for bounds in known[:2]:
                bounds[joint] += entry.offset
        return known

    def require(self, observation: Array, margin: float) -> None:
        """Raise :class:`ObservationError` naming every entry of (O,) further outside than ``margin`` widths."""
        outside = self._range.outside(observation, margin)
        if outside.any():
            raise ObservationError(
                "observation is implausible: "
                + ", ".join(
                    self._explain(int(i), float(observation[i]), margin)
                    for i in np.flatnonzero(outside)
                )
            )

    def believed(self, reading: JointReading, margin: float) -> JointReading:
        """``reading`` with NaN for what is not finite, or further outside than ``margin`` widths."""
        position, velocity = (
            np.where(np.isfinite(numbers) & ~known.outside(numbers, margin), numbers, np.nan)
            for known, numbers in zip(
                self._readings, (reading.position, reading.velocity), strict=True
            )
        )
        return JointReading(position, velocity)

    def _explain(self, index: int, value: float, margin: float) -> str:
        entry = self._entries[index]
        low, high, width = (bounds[index] for bounds in self._range)
        room = margin * width
        return (
            f"{entry.source} {entry.name} = {value:g} {entry.unit}, expected {low - room:g} to {high + room:g} "
            f"(training saw {low:g} to {high:g})"
        )
