"""Model-predictive control by the cross-entropy method over the learned model (paper, section 5.4).

The policy gives the first candidates, the value of the last state closes the horizon, and the planner stops early
rather than overrun its budget. Optionally candidates are weighted by their returns, as in MPPI (Williams et al.,
2017), in place of counting elites alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from maac_ros.bundle import Bundle
from maac_ros.command_range import CommandRange
from maac_ros.inference import Array
from maac_ros.rollouts import ModelRollouts, Share
from maac_ros.task import PlannerSettings

MIN_STD = 0.01
"""Smallest standard deviation of the sampling distribution, as a share of the half-range of an action."""

_FORGETTING = 0.9
"""How much of the slowest duration seen is still expected at the next plan: one stall must not end planning."""

_LONGEST_MEMORY = 1 << 12
"""Times longer than that it may last, where each new attempt overran too."""

_STREAM_LENGTH = 1 << 64
"""Random numbers set aside for one plan; no plan draws nearly as many."""


@dataclass(frozen=True)
class Plan:
    """Result of one planning call.

    Attributes:
        actions: (H, A) command units; the first row is to be executed now.
        value: discounted model return of the last elites, that of the last state included.
        iterations: CEM iterations done; 0 means that the budget allowed none and ``actions`` is empty.
    """

    actions: Array
    value: float
    iterations: int


class CemPlanner:
    """Plans with a bundle's graphs. The same seed and inputs give the same plans, where the budget does not bind.

    Args:
        bundle: a verified bundle.
        settings: number of candidates, horizon, iterations and so on.
        seed: of the planner's own random stream.
        clock: steady seconds, for the budget.
        threads: that share out the candidates; the plans are the same with any number.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: PlannerSettings,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        threads: int = 1,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._bits = np.random.PCG64(seed)
        self._stream_start, self._plans = self._bits.state, 0
        self._random = np.random.Generator(self._bits)
        commands = CommandRange(bundle.task)
        low, high = commands.low.astype(np.float32), commands.high.astype(np.float32)
        self._low, self._high = low, high
        self._observations = len(bundle.manifest.observation)
        self._min_std = MIN_STD * (high - low) / 2
        self._min_std[commands.stepped] = MIN_STD * commands.step
        self._rollouts = ModelRollouts(bundle, settings, self._random, threads)
        count = self._rollouts.candidates
        self._elites = max(2, round(settings.elite_fraction * count))
        self._kept = round(settings.policy_fraction * count)
        self._candidates = np.zeros((settings.horizon, count, len(low)), np.float32)
        self._noise = np.zeros_like(self._candidates)
        self._mean = np.zeros((settings.horizon, len(low)), np.float32)
        self._std = np.zeros_like(self._mean)
        self._last: Array | None = None
        self._deadline = np.inf
        # Longest durations of late: of the first iteration, which also asks the policy at every step, and of others.
        self._expected_s = [0.0, 0.0]
        self._memory = [1, 1]

    def close(self) -> None:
        """End the threads; nothing can be planned any more."""
        self._rollouts.close()

    def restart(self) -> None:
        """Begin anew with the random stream; what is known of durations stays."""
        self._plans = 0
        self.forget()

    def try_out(self, budget_s: float) -> None:
        """Plan once for nothing, so that the first plan that counts is not the one that finds out what never fits."""
        self.plan(np.zeros(self._observations, np.float32), budget_s)
        self.restart()

    def forget(self) -> None:
        """Do not start from the last plan again: the robot did not follow it."""
        self._last = None

    def plan(
        self, observation: Array, budget_s: float = np.inf, iterations: int | None = None
    ) -> Plan:
        """Plan from ``observation`` (O,), float32, within ``budget_s`` seconds.

        An iteration is started only when the slowest of the recent ones would still fit, and given up between two
        model steps when the budget is spent all the same: then the plan is that of the iterations before. Each time
        that happens in a row, it takes twice as long until it is tried again.

        What a plan depends on is the seed, the observation, the plan before it, how many there were, and how many
        iterations it does, so that ``iterations``, in place of those of the settings, can repeat what a budget cut
        short.
        """
        self._begin_stream()
        if iterations is None:
            iterations = self.settings.iterations
        start = self._clock()
        self._deadline = start + budget_s
        value, done = float("nan"), 0
        begun = start
        for iteration in range(iterations):
            kind = min(iteration, 1)
            if begun + self._expected_s[kind] > self._deadline:
                self._expected_s[kind] *= _FORGETTING ** (1.0 / self._memory[kind])
                break
            follow = self._follow_policy if kind == 0 else self._follow_candidates
            if not follow(observation):
                self._expected_s[kind] = max(self._clock() - begun, self._expected_s[kind])
                # What never fits must not be tried again and again: a single model step can take many periods.
                self._memory[kind] = min(2 * self._memory[kind], _LONGEST_MEMORY)
                break
            self._memory[kind] = 1
            value, done = self._refit(first=kind == 0), iteration + 1
            ended = self._clock()
            self._expected_s[kind] = max(ended - begun, _FORGETTING * self._expected_s[kind])
            begun = ended
        if done == 0:
            self.forget()
            return Plan(np.empty((0, len(self._low)), np.float32), value, 0)
        self._last = np.clip(self._mean, self._low, self._high)
        return Plan(self._last, value, done)

    def _follow_policy(self, observation: Array) -> bool:
        """Draw all candidates from the policy along its own model rollouts; false if the budget ends before.

        The deterministic policy is one of them, and another is the rest of the last plan, ended by the policy.
        """
        self._draw_noise()
        self._noise[:, 0] = 0.0
        self._noise *= np.float32(self.settings.first_spread)
        last = self._last

        def choose(share: Share, step: int, actions: Array) -> None:
            share.ask_policy()
            np.multiply(share.policy_std, self._noise[step, share.candidates], out=actions)
            actions += share.policy_action
            if last is not None and step + 1 < len(last) and share.candidates.start == 0:
                actions[1] = last[step + 1]
            np.clip(actions, self._low, self._high, out=actions)

        return self._roll_out(observation, choose)

    def _follow_candidates(self, observation: Array) -> bool:
        """Draw candidates from the present distribution, but for those that stay the policy's, and roll all out."""
        self._draw_noise()
        drawn, noise = self._candidates[:, self._kept :], self._noise[:, self._kept :]
        noise[:, 0] = 0.0  # the present mean competes too
        np.multiply(noise, self._std[:, None], out=drawn)
        drawn += self._mean[:, None]
        np.clip(drawn, self._low, self._high, out=drawn)
        return self._roll_out(observation)

    def _roll_out(
        self, observation: Array, choose: Callable[[Share, int, Array], None] | None = None
    ) -> bool:
        """Roll the candidates out, each step's actions (n, A) of a share chosen on the way where ``choose`` is given.

        Returns whether the budget lasted.
        """

        def follow(share: Share) -> bool:
            share.begin(observation)
            for step, actions in enumerate(self._candidates[:, share.candidates]):
                if self._late():
                    return False
                if choose is not None:
                    choose(share, step, actions)
                share.advance(actions)
            if self._late():
                return False
            share.close()
            return True

        return self._rollouts.run(follow)

    def _refit(self, first: bool) -> float:
        """Move the distribution to the best candidates; their mean return, weighted as they are."""
        returns = self._rollouts.returns
        best = np.argpartition(returns, -self._elites)[-self._elites :]
        weight = self._weights(returns[best])
        elites = self._candidates[:, best]
        mean = np.einsum("k,hka->ha", weight, elites)
        variance = np.einsum("k,hka->ha", weight, (elites - mean[:, None]) ** 2)
        std = np.maximum(np.sqrt(variance), self._min_std)
        if first:
            self._mean[...], self._std[...] = mean, std
        else:
            self._mean += (1.0 - self.settings.smoothing) * (mean - self._mean)
            self._std += (1.0 - self.settings.smoothing) * (std - self._std)
        return float(weight @ returns[best])

    def _weights(self, returns: Array) -> Array:
        """Weights (K,) of the elites, which sum to 1."""
        if self.settings.weighting == "elites":
            return np.full(len(returns), 1.0 / len(returns), np.float32)
        # In units of the elites' own spread, so that the temperature does not depend on the reward's scale.
        finite = np.where(np.isfinite(returns), returns, returns.max() - 1e6)
        scale = max(float(finite.std()), 1e-6) * self.settings.temperature
        weight = np.exp((finite - finite.max()) / scale)
        return (weight / weight.sum()).astype(np.float32)

    def _begin_stream(self) -> None:
        """Give this plan random numbers of its own, wherever in theirs the plans before it were cut short."""
        self._bits.state = self._stream_start
        self._bits.advance(self._plans * _STREAM_LENGTH)
        self._plans += 1

    def _draw_noise(self) -> None:
        self._random.standard_normal(dtype=np.float32, out=self._noise)

    def _late(self) -> bool:
        return self._clock() > self._deadline
