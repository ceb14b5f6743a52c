"""Data of the learner: real transitions (D_env) and states imagined by the model (D_model)."""

from __future__ import annotations

import torch
from torch import Tensor


class Replay:
    """Real transitions, kept in full: a robot's data are few and precious.

    Rows are ``observation`` (O), ``action`` (A, normalised), ``reward``, ``next_observation`` (O), ``terminated``.
    """

    def __init__(
        self, capacity: int, observations: int, actions: int, device: torch.device
    ) -> None:
        self.size = 0
        self.observation = torch.zeros(capacity, observations, device=device)
        self.action = torch.zeros(capacity, actions, device=device)
        self.reward = torch.zeros(capacity, device=device)
        self.next_observation = torch.zeros(capacity, observations, device=device)
        self.terminated = torch.zeros(capacity, device=device)

    def add(
        self,
        observation: Tensor,
        action: Tensor,
        reward: float,
        next_observation: Tensor,
        terminated: bool,
    ) -> None:
        """Append one transition. A time-out is not a termination: the value goes on beyond it."""
        row = self.size
        self.observation[row] = observation
        self.action[row] = action
        self.reward[row] = reward
        self.next_observation[row] = next_observation
        self.terminated[row] = float(terminated)
        self.size += 1

    def model_data(self) -> tuple[Tensor, Tensor]:
        """Inputs (N, O + A) and targets (N, O + 1) for :func:`maac_learning.dynamics.fit`."""
        n = self.size
        inputs = torch.cat((self.observation[:n], self.action[:n]), dim=-1)
        change = self.next_observation[:n] - self.observation[:n]
        return inputs, torch.cat((change, self.reward[:n, None]), dim=-1)

    def sample_observations(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` real observations (count, O), with replacement."""
        rows = torch.randint(self.size, (count,), generator=generator)
        return self.observation[rows.to(self.observation.device)]

    def state(self) -> dict[str, Tensor]:
        """The filled rows, by column."""
        return {
            name: getattr(self, name)[: self.size].clone()
            for name in ("observation", "action", "reward", "next_observation", "terminated")
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        self.size = len(state["reward"])
        for name, value in state.items():
            getattr(self, name)[: self.size] = value


class StateBuffer:
    """D_model: a ring of imagined states from which updates start."""

    def __init__(self, capacity: int, observations: int, device: torch.device) -> None:
        self._rows = torch.zeros(capacity, observations, device=device)
        self._next = 0
        self.size = 0

    def clear(self) -> None:
        self._next = self.size = 0

    def add(self, states: Tensor) -> None:
        """Append (N, O), overwriting the oldest."""
        states = states[-len(self._rows) :]
        rows = (torch.arange(len(states), device=states.device) + self._next) % len(self._rows)
        self._rows[rows] = states
        self._next = (self._next + len(states)) % len(self._rows)
        self.size = min(self.size + len(states), len(self._rows))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` states (count, O), with replacement."""
        rows = torch.randint(self.size, (count,), generator=generator)
        return self._rows[rows.to(self._rows.device)]

    def state(self) -> dict[str, Tensor]:
        """The stored states as they lie, since what is drawn depends on it."""
        return {"rows": self._rows[: self.size].clone(), "next": torch.tensor(self._next)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        self.size, self._next = len(state["rows"]), int(state["next"])
        self._rows[: self.size] = state["rows"]
