"""Updates as CUDA graphs: the whole update is launched at once, without a word from Python in between."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from maac_learning.agent import Agent, UpdateReport
from maac_learning.draws import ReplayedDraws
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.replay import Transitions

Update = Callable[[Transitions, torch.Generator, bool], UpdateReport]
"""(batch, generator, train_actor): see :meth:`Agent.update`."""

_WARM_UPS = 3
"""Runs before the capture, in which libraries allocate what they keep."""


def updater(agent: Agent, model: DynamicsEnsemble) -> Update:
    """The update of ``agent`` on ``model``: captured as a graph where they live on a GPU."""
    if agent.log_temperature.is_cuda:
        return CapturedUpdates(agent, model)
    return functools.partial(agent.update, model)


class CapturedUpdates:
    """Does what :meth:`Agent.update` does, with the same random numbers, by replaying a graph.

    Networks, optimisers and model keep their memory (they are changed in place), so a graph stays valid over model
    fits. A checkpoint gives the optimisers new memory: load it before the first update.

    Args:
        agent: on a CUDA device.
        model: on the same device.
    """

    def __init__(self, agent: Agent, model: DynamicsEnsemble) -> None:
        self._agent = agent
        self._model = model
        self._graphs: dict[tuple[bool, int], _Captured] = {}

    def __call__(
        self, batch: Transitions, generator: torch.Generator, train_actor: bool
    ) -> UpdateReport:
        """See :meth:`Agent.update`. The report's numbers are overwritten by the next update."""
        key = (train_actor, len(batch.reward))
        if key not in self._graphs:
            self._graphs[key] = _Captured(self._agent, self._model, batch, train_actor)
        return self._graphs[key].replay(batch, generator)


class _Captured:
    def __init__(
        self, agent: Agent, model: DynamicsEnsemble, batch: Transitions, train_actor: bool
    ) -> None:
        device = batch.reward.device
        self._batch = Transitions(*(column.clone() for column in batch))
        # Any stream will do: what the warm-ups and the capture draw is overwritten before the first replay.
        self._draws = ReplayedDraws(torch.Generator().manual_seed(0), device)
        kept = agent.snapshot()
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                agent.learn(model, self._batch, self._draws, train_actor)
                self._draws.rewind()
        torch.cuda.current_stream(device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._report = agent.learn(model, self._batch, self._draws, train_actor)
        agent.restore(kept)

    def replay(self, batch: Transitions, generator: torch.Generator) -> UpdateReport:
        for memory, column in zip(self._batch, batch, strict=True):
            memory.copy_(column, non_blocking=True)
        self._draws.refill(generator)
        self._graph.replay()
        return self._report
