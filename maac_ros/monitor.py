"""Does the learned model still describe the robot? Ensemble disagreement and one-step residual, tick by tick.

What the two were on held-out transitions, when the bundle was exported, says what is usual (:class:`Calibration`).
Single ticks say little, contacts least of all: planning is doubted when a large share of the recent ticks lie beyond
a limit that few held-out transitions reach, and trusted again only when that share has become small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maac_ros.bundle import Bundle
from maac_ros.inference import Array
from maac_ros.terms import GOAL_SOURCES

MEMORY_S = 1.0
"""Time after which what was seen counts for a third (1 / e): long enough for a gait to show all of its phases."""

DOUBT_SHARE = 0.3
"""Share of recent ticks beyond a limit above which the model is doubted."""

TRUST_SHARE = 0.15
"""The same, below which it is trusted again."""

_LARGEST_SCORE = 10.0
"""Of one entry, in standard deviations: a single wild one must not hide how all others are."""

_LEAST_STD = 1e-9


def disagreement(means: Array, scale: Array) -> NDArray[np.float64]:
    """How far the members' predictions lie apart, (...,): 1 is as far as observations usually change in a step.

    Args:
        means: (E, ..., O) next observation that each member expects.
        scale: (O,) standard deviation of an entry's change from one tick to the next.
    """
    _, variance = _moments(means)
    return np.sqrt(_average(variance / np.maximum(scale, _LEAST_STD) ** 2, -1))


def residual(following: Array, means: Array, stds: Array) -> NDArray[np.float64]:
    """How far the observation that came lies from its prediction, (...,): 1 is as far as the ensemble expects.

    Args:
        following: (..., O) what came.
        means, stds: (E, ..., O) of the next observation, by member; together they are a mixture of Gaussians.
    """
    return _distance(following, *_mixture(means, stds))


def _mixture(means: Array, stds: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation, (..., O), of a mixture of Gaussians (E, ..., O)."""
    mean, variance = _moments(means)
    variance += _average(np.square(stds, dtype=np.float64), 0)
    return mean, np.maximum(np.sqrt(variance), _LEAST_STD)


def _distance(
    following: Array, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    error = np.minimum(np.abs(following - mean) / std, _LARGEST_SCORE)
    return np.sqrt(_average(error * error, -1))


def _moments(numbers: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance over the first axis."""
    mean = _average(numbers, 0)
    apart = numbers - mean
    return mean, _average(apart * apart, 0)


def _average(numbers: NDArray[np.floating], axis: int) -> NDArray[np.float64]:
    # numpy.mean takes almost three times as long for a tick's few numbers.
    total: NDArray[np.float64] = np.add.reduce(numbers, axis=axis, dtype=np.float64)
    return total / numbers.shape[axis]


@dataclass
class _Signal:
    """A number that each tick gives, and how often it has been beyond its limit of late."""

    name: str
    limit: float
    share_a_tick: float
    value: float = float("nan")
    exceedance: float = 0.0

    def take(self, value: float) -> None:
        self.value = value
        beyond = not value <= self.limit  # what is not a number is beyond every limit
        self.exceedance += (float(beyond) - self.exceedance) * self.share_a_tick


class ModelMonitor:
    """Follows one robot. Without a calibration in the bundle it measures and never doubts.

    Each tick calls :meth:`compare` with what came, and then, when its command has been sent, :meth:`predict`.

    Args:
        bundle: a verified bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        observations, actions = len(manifest.observation), len(manifest.action)
        self._period_s = manifest.control_period_s
        self._observation = np.zeros((1, observations), np.float32)
        self._action = np.zeros((1, actions), np.float32)
        self._means = np.zeros((manifest.members, 1, observations), np.float32)
        self._stds = np.zeros_like(self._means)
        self._predict = bundle.model.bind(
            {"observation": self._observation, "action": self._action},
            {
                "next_observation_mean": self._means,
                "next_observation_std": self._stds,
                "reward": np.zeros((manifest.members, 1), np.float32),
                "termination": np.zeros((manifest.members, 1), np.float32),
            },
        )
        # What is asked of the robot nobody predicts, and what the controller recalls is not the robot's.
        self._apart = np.array(
            [e.source == "memory" or e.source in GOAL_SOURCES for e in manifest.observation]
        )
        calibration = manifest.calibration
        self._scale = np.ones(observations, np.float32)
        limits = float("inf"), float("inf")
        if calibration is not None:
            self._scale = np.array(calibration.change_std, np.float32)
            limits = calibration.disagreement, calibration.residual
        self.calibrated = calibration is not None
        share = min(1.0, self._period_s / MEMORY_S)
        self._disagreement = _Signal("ensemble disagreement", limits[0], share)
        self._residual = _Signal("one-step residual", limits[1], share)
        self._predicted: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        """Mean and standard deviation, (O,), of the next observation."""
        self._stamp_s: float | None = None
        self._doubted = False

    @property
    def disagreement(self) -> float:
        """Of the last prediction, see :func:`disagreement`; NaN before the first."""
        return self._disagreement.value

    @property
    def residual(self) -> float:
        """Of the last observation that had a prediction, see :func:`residual`; NaN before the first."""
        return self._residual.value

    @property
    def exceedance(self) -> float:
        """The larger of the two shares of recent ticks beyond their limits."""
        return self._worst.exceedance

    @property
    def doubt(self) -> str:
        """Why the model is not to be planned with; empty while it is trusted."""
        if not self._doubted:
            return ""
        worst = self._worst
        return (
            f"the model does not describe the robot: {worst.name} above {worst.limit:.3g} "
            f"in {worst.exceedance:.0%} of the recent ticks, now {worst.value:.3g}"
        )

    def compare(self, observation: Array, stamp_s: float | None) -> None:
        """Compare ``observation`` (O,) with its prediction, where the last tick made one.

        Args:
            observation: what came.
            stamp_s: when it was taken; None for one control period after the last one. At any other distance from
                the last one the prediction was for another moment, and nothing is compared.
        """
        last_s, self._stamp_s = self._stamp_s, stamp_s
        predicted, self._predicted = self._predicted, None
        if stamp_s is not None:
            elapsed_s = stamp_s - last_s if last_s is not None else np.inf
            if not abs(elapsed_s - self._period_s) < 0.5 * self._period_s:
                return
        if predicted is not None:
            mean, std = predicted
            if self._apart.any():
                observation = np.where(self._apart, self._means[0, 0], observation)
            self._residual.take(float(_distance(observation, mean, std)))
            self._judge()

    def predict(self, observation: Array, command: Array) -> None:
        """Predict what follows ``observation`` (O,) under ``command`` (A,), for the next tick."""
        self._observation[0] = observation
        self._action[0] = command
        self._predict()
        self._predicted = _mixture(self._means[:, 0], self._stds[:, 0])
        self._disagreement.take(float(disagreement(self._means[:, 0], self._scale)))
        self._judge()

    def skip(self) -> None:
        """This tick had no usable observation: there is nothing to predict from."""
        self._predicted = self._stamp_s = None

    @property
    def _worst(self) -> _Signal:
        return max(self._residual, self._disagreement, key=lambda signal: signal.exceedance)

    def _judge(self) -> None:
        limit = TRUST_SHARE if self._doubted else DOUBT_SHARE
        self._doubted = self.exceedance > limit
