"""Model rollouts for planning: candidates through the learned ensemble, one graph call a model step.

All memory is laid out once. A call per model step costs a few per cent more than one graph for a whole horizon
(``maac bench planner`` shows both), and leaves every step open to the budget and to the policy.
"""

from __future__ import annotations

import numpy as np

from maac_ros.bundle import Bundle
from maac_ros.inference import Array
from maac_ros.task import PlannerSettings


class ModelRollouts:
    """N candidates, each propagated by P particles that follow one member of the ensemble at a time.

    Particle p of candidate n is row p N + n. Members predict without noise: what the particles of a candidate differ
    in is what the ensemble does not know.

    Args:
        bundle: its step, policy and value graphs are used.
        settings: particles, how members are drawn, and how critics are reduced.
        random: the stream that members are drawn from.

    Attributes:
        candidates: N, the ``settings.candidates`` rounded up so that N P divides by the members.
        policy_action, policy_std: (N P, A) of :meth:`ask_policy`, in command units.
        returns: (N,) of :meth:`close`.
    """

    def __init__(
        self, bundle: Bundle, settings: PlannerSettings, random: np.random.Generator
    ) -> None:
        manifest = bundle.manifest
        observations, actions = len(manifest.observation), len(manifest.action)
        members, particles = manifest.members, settings.particles
        self.candidates = settings.candidates
        while self.candidates * particles % members:
            self.candidates += 1
        rows = self.candidates * particles
        self._random, self._settings, self._discount = random, settings, manifest.discount
        # Row order holds a candidate's particles apart; slot order holds a member's rows together.
        self._slot_row = np.arange(rows)
        self._row_slot = np.arange(rows)
        self._slot_candidate = np.arange(rows)
        self._rows = np.arange(rows)
        self._states = np.zeros((rows, observations), np.float32)
        slots = (members, rows // members)
        self._slot_states = np.zeros((*slots, observations), np.float32)
        self._slot_actions = np.zeros((*slots, actions), np.float32)
        self._slot_following = np.zeros((*slots, observations), np.float32)
        self._slot_reward = np.zeros(slots, np.float32)
        self._slot_alive = np.zeros(slots, np.float32)
        self._step = bundle.step.bind(
            {"observation": self._slot_states, "action": self._slot_actions},
            {
                "next_observation": self._slot_following,
                "reward": self._slot_reward,
                "alive": self._slot_alive,
            },
        )
        self.policy_action = np.zeros((rows, actions), np.float32)
        self.policy_std = np.zeros((rows, actions), np.float32)
        self._policy = bundle.policy.bind(
            {"observation": self._states},
            {"action": self.policy_action, "action_std": self.policy_std},
        )
        self._values = np.zeros((manifest.critics, rows), np.float32)
        self._value = bundle.value.bind(
            {"observation": self._states, "action": self.policy_action}, {"value": self._values}
        )
        self._total = np.zeros(rows, np.float32)
        self._alive = np.ones(rows, np.float32)
        self._gain = np.zeros(rows, np.float32)
        self._weight = 1.0
        self.returns = np.zeros(self.candidates, np.float32)
        self._deal()

    def begin(self, observation: Array) -> None:
        """Put every row at ``observation`` (O,), with nothing collected yet."""
        self._states[:] = observation
        self._total.fill(0.0)
        self._alive.fill(1.0)
        self._weight = 1.0
        self._slot_row[:] = self._rows  # wherever an earlier rollout was given up
        self._deal()

    def ask_policy(self) -> None:
        """Let ``policy_action`` and ``policy_std`` be the policy's at the present states."""
        self._policy()

    def advance(self, actions: Array) -> None:
        """One model step under ``actions`` (N, A), the same for all particles of a candidate."""
        if self._settings.member_draw == "step":
            self._deal()
        flat = self._slot_states.reshape(self._states.shape)
        np.take(self._states, self._slot_row, axis=0, out=flat, mode="clip")
        flat = self._slot_actions.reshape(len(flat), -1)
        np.take(actions, self._slot_candidate, axis=0, out=flat, mode="clip")
        self._step()
        flat = self._slot_following.reshape(self._states.shape)
        np.take(flat, self._row_slot, axis=0, out=self._states, mode="clip")
        # The terminal step's own reward counts, and nothing after it.
        np.take(self._slot_reward.reshape(-1), self._row_slot, out=self._gain, mode="clip")
        self._collect()
        np.take(self._slot_alive.reshape(-1), self._row_slot, out=self._gain, mode="clip")
        self._alive *= self._gain
        self._weight *= self._discount

    def close(self) -> Array:
        """Add the critics' value of the policy's action at the last states; the candidates' returns (N,).

        A return that is not finite is minus infinity: such a candidate must never be chosen.
        """
        self.ask_policy()
        self._value()
        reduce = np.mean if self._settings.terminal_value == "mean" else np.amin
        reduce(self._values, axis=0, out=self._gain)
        self._collect()
        np.mean(self._total.reshape(-1, self.candidates), axis=0, out=self.returns)
        np.copyto(self.returns, -np.inf, where=~np.isfinite(self.returns))
        return self.returns

    def _collect(self) -> None:
        """Count the present gain, discounted, where the episode has not ended."""
        self._gain *= self._alive
        self._gain *= self._weight
        self._total += self._gain

    def _deal(self) -> None:
        """Deal the rows to the members anew."""
        self._random.shuffle(self._slot_row)
        self._row_slot[self._slot_row] = self._rows
        np.remainder(self._slot_row, self.candidates, out=self._slot_candidate)
