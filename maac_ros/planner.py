"""Model-predictive control by the cross-entropy method over the learned model (paper, section 5.4).

The policy gives the first candidates, the terminal Q-function closes the horizon, and the planner stops early
rather than overrun its budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from maac_ros.bundle import Bundle
from maac_ros.inference import Array
from maac_ros.task import PlannerSettings

MIN_STD = 0.01
"""Smallest standard deviation of the sampling distribution, as a share of the half-range of an action."""


@dataclass(frozen=True)
class Plan:
    """Result of one planning call.

    Attributes:
        actions: (H, A) command units; the first row is to be executed now.
        value: discounted model return of the last elites, terminal Q included.
        iterations: CEM iterations done; 0 means that the budget allowed none and ``actions`` is empty.
    """

    actions: Array
    value: float
    iterations: int


class CemPlanner:
    """Plans with a bundle's three graphs. The same seed and inputs give the same plans.

    Args:
        bundle: a verified bundle.
        settings: number of candidates, horizon, iterations and so on.
        seed: of the planner's own random stream.
        clock: steady seconds, for the budget.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: PlannerSettings,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.settings = settings
        self._bundle = bundle
        self._clock = clock
        self._random = np.random.default_rng(seed)
        low = np.array([a.low for a in bundle.manifest.action], dtype=np.float32)
        high = np.array([a.high for a in bundle.manifest.action], dtype=np.float32)
        self._low, self._high = low, high
        self._min_std = MIN_STD * (high - low) / 2
        self._elites = max(2, round(settings.elite_fraction * settings.candidates))
        self._iteration_s = 0.0

    def plan(self, observation: Array, budget_s: float = np.inf) -> Plan:
        """Plan from ``observation`` (O,), float32, within ``budget_s`` seconds.

        An iteration is started only when the slowest of the recent ones would still fit.
        """
        start = self._clock()
        horizon, actions = self.settings.horizon, len(self._low)
        mean = np.zeros((horizon, actions), np.float32)
        std = np.zeros_like(mean)
        value, done = float("nan"), 0
        for iteration in range(self.settings.iterations):
            begun = self._clock()
            if begun - start + self._iteration_s > budget_s:
                break
            if iteration == 0:
                candidates, returns = self._policy_rollouts(observation)
            else:
                candidates = self._sample(mean, std)
                returns = self._evaluate(observation, candidates)
            best = np.argpartition(returns, -self._elites)[-self._elites :]
            elites = candidates[best]
            keep = self.settings.smoothing if iteration else 0.0
            mean = keep * mean + (1 - keep) * elites.mean(axis=0)
            std = keep * std + (1 - keep) * np.maximum(elites.std(axis=0), self._min_std)
            value, done = float(returns[best].mean()), iteration + 1
            # Decays, so that one slow iteration does not shut the planner off for good.
            self._iteration_s = max(self._clock() - begun, 0.9 * self._iteration_s)
        if done == 0:
            self._iteration_s *= 0.9
            return Plan(np.empty((0, actions), np.float32), value, 0)
        return Plan(np.clip(mean, self._low, self._high), value, done)

    def _policy_rollouts(self, observation: Array) -> tuple[Array, Array]:
        """Candidates (N, H, A) drawn from the policy along its own model rollouts, and their returns (N,)."""
        candidates = np.empty(
            (self.settings.candidates, self.settings.horizon, len(self._low)), np.float32
        )

        def act(step: int, states: Array) -> Array:
            mean, std = self._bundle.policy(observation=states)
            noise = self._random.standard_normal(mean.shape, dtype=np.float32)
            noise[0] = 0.0  # the deterministic policy is always a candidate
            candidates[:, step] = np.clip(mean + std * noise, self._low, self._high)
            return candidates[:, step]

        return candidates, self._returns(observation, act)

    def _sample(self, mean: Array, std: Array) -> Array:
        noise = self._random.standard_normal(
            (self.settings.candidates, *mean.shape), dtype=np.float32
        )
        noise[0] = 0.0  # the present mean competes too
        return np.clip(mean + std * noise, self._low, self._high)

    def _evaluate(self, observation: Array, candidates: Array) -> Array:
        return self._returns(observation, lambda step, _: np.ascontiguousarray(candidates[:, step]))

    def _returns(self, observation: Array, act: Callable[[int, Array], Array]) -> Array:
        """Discounted model returns (N,): each candidate follows a member redrawn at every step (TS1)."""
        count, discount = self.settings.candidates, self._bundle.manifest.discount
        rows = np.arange(count)
        states = np.repeat(observation[None], count, axis=0)
        total = np.zeros(count, np.float32)
        alive = np.ones(count, np.float32)
        for step in range(self.settings.horizon):
            means, _, rewards, terminations = self._bundle.model(
                observation=states, action=act(step, states)
            )
            member = self._random.integers(means.shape[0], size=count)
            total += discount**step * alive * rewards[member, rows]
            alive *= 1.0 - terminations[member, rows]
            states = means[member, rows]
        last, _ = self._bundle.policy(observation=states)
        (values,) = self._bundle.value(observation=states, action=last)
        total += discount**self.settings.horizon * alive * values.mean(axis=0)
        # A diverged candidate must never be chosen.
        return np.nan_to_num(total, nan=-np.inf, posinf=-np.inf, neginf=-np.inf)
