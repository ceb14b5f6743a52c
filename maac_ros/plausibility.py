"""Whether an observation is one that the policy can know anything about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maac_ros.bundle import Manifest
from maac_ros.errors import ObservationError
from maac_ros.inference import Array
from maac_ros.observation import JointReading, Vector, believed


class _Range(NamedTuple):
    """Bounds (J,), and the width that a margin is a share of."""

    low: Vector
    high: Vector
    width: Vector

    def believed(self, numbers: Vector, margin: float) -> Vector:
        """``numbers`` (J,) with NaN for what is not finite, or further outside than ``margin`` widths."""
        good = np.isfinite(numbers)
        if margin != np.inf:
            room = margin * self.width
            good &= (numbers >= self.low - room) & (numbers <= self.high + room)
        return np.where(good, numbers, np.nan)


class PlausibleRange:
    """The range of the training data, widened by a margin.

    Args:
        manifest: of a bundle. Where it does not say what was observed, everything is plausible, and so is any value
            of an entry that was the same throughout.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._entries = manifest.observation
        size = len(self._entries)
        self._low, self._high = np.full(size, -np.inf), np.full(size, np.inf)
        if manifest.observed is not None:
            low, high = np.array(manifest.observed.low), np.array(manifest.observed.high)
            varied = high > low
            self._low[varied], self._high[varied] = low[varied], high[varied]
        self._width = np.where(np.isfinite(self._low), self._high - self._low, 0.0)
        self._readings = [
            self._of_joints(tuple(manifest.task.robot.joints), quantity)
            for quantity in JointReading._fields
        ]

    def _of_joints(self, joints: tuple[str, ...], quantity: str) -> _Range:
        """What is known of a quantity of the joints: the range of training, or how far beyond its clip it may lie."""
        low, high = np.full(len(joints), -np.inf), np.full(len(joints), np.inf)
        width = np.zeros(len(joints))
        index = {entry.name: i for i, entry in enumerate(self._entries)}
        for joint, name in enumerate(joints):
            if (i := index.get(f"{name}/{quantity}")) is None:
                continue
            if (clip := self._entries[i].clip) is not None:
                low[joint], high[joint] = believed(*clip)
            else:
                low[joint], high[joint] = self._low[i], self._high[i]
                width[joint] = self._width[i]
        return _Range(low, high, width)

    def require(self, observation: Array, margin: float) -> None:
        """Raise :class:`ObservationError` naming every entry of (O,) further outside than ``margin`` widths."""
        if margin == np.inf:
            return
        room = margin * self._width
        outside = np.flatnonzero(
            (observation < self._low - room) | (observation > self._high + room)
        )
        if outside.size:
            raise ObservationError(
                "observation is implausible: "
                + ", ".join(self._explain(int(i), float(observation[i]), room[i]) for i in outside)
            )

    def believed(self, reading: JointReading, margin: float) -> JointReading:
        """``reading`` with NaN for what is not finite, or further outside than ``margin`` widths."""
        return JointReading(*map(_Range.believed, self._readings, reading, (margin, margin)))

    def _explain(self, index: int, value: float, room: float) -> str:
        entry, low, high = self._entries[index], self._low[index], self._high[index]
        return (
            f"{entry.source} {entry.name} = {value:g} {entry.unit}, expected {low - room:g} to {high + room:g} "
            f"(training saw {low:g} to {high:g})"
        )
