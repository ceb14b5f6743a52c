"""Transitions of the learner: real ones (D_env) and imagined ones (D_model)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Transitions(NamedTuple):
    """N transitions: ``observation`` (N, O), ``action`` (N, A) normalised, ``reward`` (N,), ``next_observation``
    (N, O), ``terminated`` (N,), which a time-out is not: the value goes on beyond it."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor

    def model_data(self) -> tuple[Tensor, Tensor]:
        """Inputs (N, O + A) and targets (N, O + 1) for :func:`maac_learning.fitting.fit`."""
        change = self.next_observation - self.observation
        return (
            torch.cat((self.observation, self.action), dim=-1),
            torch.cat((change, self.reward[:, None]), dim=-1),
        )


def joined(parts: tuple[Transitions, ...]) -> Transitions:
    """One batch of several."""
    return Transitions(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class TransitionBuffer:
    """A ring of transitions. As long as it is not full it keeps them in the order in which they came.

    Args:
        capacity: rows kept.
        observations: O.
        actions: A.
        device: where the rows live.
    """

    def __init__(
        self, capacity: int, observations: int, actions: int, device: torch.device
    ) -> None:
        self.size = 0
        self._next = 0
        self._widths = (observations, actions, 1, observations, 1)
        # One row a transition, so that a batch is one gather.
        self._rows = torch.zeros(capacity, sum(self._widths), device=device)

    def clear(self) -> None:
        self._next = self.size = 0

    def add(self, transitions: Transitions) -> None:
        """Append, overwriting the oldest."""
        columns = [c[:, None] if c.dim() == 1 else c for c in transitions]
        rows = torch.cat(columns, dim=-1)[-len(self._rows) :]
        places = (torch.arange(len(rows), device=rows.device) + self._next) % len(self._rows)
        self._rows[places] = rows
        self._next = (self._next + len(rows)) % len(self._rows)
        self.size = min(self.size + len(rows), len(self._rows))

    def all(self) -> Transitions:
        """Everything stored."""
        return self._split(self._rows[: self.size])

    def sample(
        self, count: int, generator: torch.Generator, newest: int | None = None
    ) -> Transitions:
        """``count`` transitions, with replacement; of the ``newest`` alone where that is given."""
        among = self.size if newest is None else min(newest, self.size)
        rows = torch.randint(among, (count,), generator=generator)
        if newest is not None:
            rows = (self._next - 1 - rows) % len(self._rows)
        return self._split(self._rows.index_select(0, rows.to(self._rows.device)))

    def state(self) -> dict[str, Tensor]:
        """The stored rows as they lie, since what will be drawn depends on their places."""
        return {"rows": self._rows[: self.size].clone(), "next": torch.tensor(self._next)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        self.size, self._next = len(state["rows"]), int(state["next"])
        self._rows[: self.size] = state["rows"].to(self._rows.device)

    def _split(self, rows: Tensor) -> Transitions:
        observation, action, reward, following, terminated = rows.split(self._widths, dim=-1)
        return Transitions(observation, action, reward[:, 0], following, terminated[:, 0])
