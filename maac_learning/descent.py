"""Gradient descent as the small networks for planning are learned by."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def descend(
    parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], learning_rate: float, steps: int
) -> None:
    """Let ``steps`` steps of Adam, whose size falls from ``learning_rate`` to zero, lower ``loss``."""
    optimizer = torch.optim.Adam(parameters, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1.0 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
