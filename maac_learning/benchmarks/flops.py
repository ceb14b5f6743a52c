"""How much arithmetic an update takes, and how fast the machine does arithmetic of that kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from maac_ros.timing import Recorder


class FlopCount(TorchDispatchMode):
    """Counts the floating-point operations of matrix products, backward passes included, while it is active.

    A multiplication and an addition are two operations. Element-wise work is not counted. Operations inside
    custom autograd functions and in compiled or captured code that runs anew are seen; a replayed CUDA graph is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        # The in-place form of a product takes as many operations as the plain one.
        plain = getattr(torch.ops.aten, packet.__name__.removesuffix("_"), packet)
        formula = flop_registry.get(packet) or flop_registry.get(plain)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


@dataclass(frozen=True)
class Product:
    """A batched matrix product (batch, rows, inner) x (batch, inner, columns), float32; one matrix for a batch of 1."""

    batch: int
    rows: int
    inner: int
    columns: int

    def __str__(self) -> str:
        batch = f"{self.batch}," if self.batch > 1 else ""
        return f"({batch}{self.rows},{self.inner}) x ({batch}{self.inner},{self.columns})"

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.columns

    def operands(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Random factors."""
        left = torch.randn(self.batch, self.rows, self.inner, device=device)
        right = torch.randn(self.batch, self.inner, self.columns, device=device)
        return (left, right) if self.batch > 1 else (left[0], right[0])


class ProductClock:
    """Measures how fast this machine computes ``products``, whenever :meth:`measure` is called.

    Args:
        products: to measure.
        device: where.
        synchronize: waits for the device.
        seconds: to spend on each product in each measurement.
    """

    def __init__(
        self,
        products: list[Product],
        device: torch.device,
        synchronize: Callable[[], object],
        seconds: float = 0.3,
    ) -> None:
        self._operands = {product: product.operands(device) for product in products}
        self._synchronize = synchronize
        self._seconds = seconds
        self._recorders = {product: Recorder() for product in products}

    @torch.no_grad()
    def measure(self) -> None:
        """Compute each product over and over, timing every time."""
        for product, (left, right) in self._operands.items():
            out = left @ right  # not timed: memory and threads are set up here
            self._synchronize()
            end = time.perf_counter() + self._seconds
            while (began := time.perf_counter()) < end:
                torch.matmul(left, right, out=out)
                self._synchronize()
                self._recorders[product].add(time.perf_counter() - began)

    def gflops(self, product: Product) -> float:
        """GFLOP/s of ``product``: of its median time in all measurements so far."""
        return product.flops / (self._recorders[product].summary().p50_ms * 1e6)
