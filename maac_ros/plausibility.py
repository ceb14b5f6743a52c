"""Whether an observation is one that the policy can know anything about."""

from __future__ import annotations

import numpy as np

from maac_ros.bundle import Manifest
from maac_ros.errors import ObservationError
from maac_ros.inference import Array


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

    def _explain(self, index: int, value: float, room: float) -> str:
        entry, low, high = self._entries[index], self._low[index], self._high[index]
        return (
            f"{entry.source} {entry.name} = {value:g} {entry.unit}, expected {low - room:g} to {high + room:g} "
            f"(training saw {low:g} to {high:g})"
        )
