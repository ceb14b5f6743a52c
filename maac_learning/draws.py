"""Random numbers of an update: drawn on the CPU, so that every device sees the same ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from maac_learning.dynamics import Shuffle


class Draws:
    """Draws from a CPU generator as they are asked for.

    Args:
        generator: CPU random stream.
        device: where the numbers are needed.
    """

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self._generator = generator
        self._device = device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return self._give(lambda g: torch.randn(shape, generator=g))

    def shuffles(self, count: int, rows: int) -> list[Shuffle]:
        """``count`` independent random orders of ``rows``."""

        def draw(generator: torch.Generator) -> Tensor:
            deal = torch.argsort(torch.rand(count, rows, generator=generator), dim=1)
            back = torch.empty_like(deal)
            back.scatter_(1, deal, torch.arange(rows).expand_as(deal))
            return torch.stack((deal, back), dim=1)

        return [Shuffle(*pair) for pair in self._give(draw)]

    def pair(self, of: int) -> Tensor:
        """Two different numbers below ``of``, (2,)."""
        return self._give(lambda g: torch.randperm(of, generator=g)[:2])

    def _give(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return draw(self._generator).to(self._device)


class ReplayedDraws(Draws):
    """Remembers what was asked for, and draws the same again into the same memory, as a captured graph needs it."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        super().__init__(generator, device)
        self._asked: list[tuple[Callable[[torch.Generator], Tensor], Tensor]] = []
        self._given: int | None = None

    def refill(self, generator: torch.Generator) -> None:
        """Draw everything anew, in the order in which it was first asked for."""
        for draw, memory in self._asked:
            memory.copy_(draw(generator), non_blocking=True)

    def rewind(self) -> None:
        """From now on give the remembered memory again, from the first request."""
        self._given = 0

    def _give(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        if self._given is None:
            self._asked.append((draw, super()._give(draw)))
            return self._asked[-1][1]
        self._given += 1
        return self._asked[self._given - 1][1]
