"""The networks of MAAC. Ensembles hold stacked weights (E, in, out), so that all members run in one product."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maac_learning.config import Norm, Spread, Start

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    # x * relu6(x + 3) / 6: as smooth as SiLU where LayerNorm puts its inputs, at half the time on a CPU.
    "hardswish": F.hardswish,
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
}

LOG_STD_BOUNDS = (-5.0, 2.0)
"""Range of the policy's log standard deviation before squashing, with the spread ``bounded``."""

_LEAST_STD = 1e-5
_LEAST_EPSILON = 1e-5


class Normalizer(nn.Module):
    """Shift and scale by the statistics of the data seen so far.

    Args:
        size: entries.
        constant_scale: scale of entries that are constant in the data. At 0 their normalised value is 0, and whatever
            a network says of them is their mean.
    """

    mean: Tensor
    std: Tensor
    _shift: Tensor
    _factor: Tensor

    def __init__(self, size: int, constant_scale: float = 1.0) -> None:
        super().__init__()
        self._constant_scale = constant_scale
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        # The same statistics as one multiply-add.
        self.register_buffer("_shift", torch.zeros(size))
        self.register_buffer("_factor", torch.ones(size))

    @torch.no_grad()
    def fit(self, data: Tensor) -> None:
        """Take mean and standard deviation over the rows of ``data`` (N, size)."""
        std = data.std(dim=0)
        self.mean.copy_(data.mean(dim=0))
        varies = std > 1e-6
        self.std.copy_(torch.where(varies, std, torch.full_like(std, self._constant_scale)))
        factor = 1.0 / torch.where(varies, std, torch.ones_like(std))
        self._factor.copy_(torch.where(varies, factor, self.std))
        self._shift.copy_(-self.mean * self._factor)

    def normalize(self, x: Tensor) -> Tensor:
        return torch.addcmul(self._shift, x, self._factor)

    def denormalize(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.mean, x, self.std)


class EnsembleMLP(nn.Module):
    """``members`` multilayer perceptrons evaluated together.

    Args:
        members: E.
        sizes: widths from input to output.
        activation: key of :data:`ACTIVATIONS`, after each hidden layer.
        norm: of the hidden layers.
        start: how weights are drawn.
        zero_last: start the output at zero.
        norm_epsilon: of the first hidden layer's LayerNorm; a tenth of it in each later one, down to 1e-5.
        dropout: share of the first hidden layer left out while training; evenly less in each later one, down to none of
            the output.
    """

    def __init__(
        self,
        members: int,
        sizes: Sequence[int],
        activation: str,
        norm: Norm,
        start: Start = "uniform",
        zero_last: bool = False,
        norm_epsilon: float = _LEAST_EPSILON,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.members = members
        layers = len(sizes) - 1
        self._epsilons = [max(norm_epsilon * 0.1**i, _LEAST_EPSILON) for i in range(layers - 1)]
        self._dropouts = [dropout * (layers - 1 - i) / (layers - 1) for i in range(layers - 1)]
        self._activation = ACTIVATIONS[activation]
        self._norm = norm
        # Constant gain and offset: PyTorch's CPU kernel takes half as long with them as without.
        for layer, width in enumerate(sizes[1:-1] if norm != "none" else ()):
            self.register_buffer(f"_gain{layer}", torch.ones(width), persistent=False)
            self.register_buffer(f"_offset{layer}", torch.zeros(width), persistent=False)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in itertools.pairwise(sizes):
            weight, bias = torch.empty(members, inputs, outputs), torch.empty(members, 1, outputs)
            _begin(start, weight, bias)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))
        if zero_last:
            nn.init.zeros_(self.weights[-1])
            nn.init.zeros_(self.biases[-1])

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(weight.shape[-1] for weight in self.weights)[:-1]

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Map (E, B, in) to (E, B, out); with ``chosen`` (K,) members only, (K, B, in) to (K, B, out)."""
        if torch.compiler.is_exporting():
            return torch.stack([self._member(each, x[each]) for each in range(self.members)])
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if chosen is not None:
                weight, bias = weight[chosen], bias[chosen]
            x = torch.baddbmm(bias, x, weight)
            if layer < last:
                x = self._hidden(layer, x)
        return x

    def _member(self, member: int, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out) through one member, for ONNX Runtime.

        It packs the weights of a plain product once and adds the bias in passing; a stacked one it packs at each call.
        """
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.linear(x, weight[member].T, bias[member, 0])
            if layer < last:
                x = self._hidden(layer, x)
        return x

    def _hidden(self, layer: int, x: Tensor) -> Tensor:
        """What follows the product of a hidden layer."""
        if self._norm == "before":
            x = self._normalized(layer, x)
        if self.training and self._dropouts[layer] > 0.0:
            x = F.dropout(x, self._dropouts[layer])
        x = self._activation(x)
        return self._normalized(layer, x) if self._norm == "after" else x

    def _normalized(self, layer: int, x: Tensor) -> Tensor:
        gain, offset = getattr(self, f"_gain{layer}"), getattr(self, f"_offset{layer}")
        return F.layer_norm(x, x.shape[-1:], gain, offset, self._epsilons[layer])


def _begin(start: Start, weight: Tensor, bias: Tensor) -> None:
    """Draw weights (E, in, out) and biases (E, 1, out) in place."""
    inputs = weight.shape[1]
    if start == "orthogonal":
        for member in weight:
            nn.init.orthogonal_(member)
        bias.zero_()
    elif start == "normal":
        weight.normal_(std=math.sqrt(2.0 / inputs))
        bias.normal_(std=0.5 / math.sqrt(inputs))
    else:
        bound = 1.0 / math.sqrt(inputs)
        weight.uniform_(-bound, bound)
        bias.uniform_(-bound, bound)


class Policy(nn.Module):
    """Squashed Gaussian policy; actions are normalised to [-1, 1]."""

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int],
        activation: str,
        norm: Norm,
        spread: Spread = "bounded",
        start: Start = "uniform",
    ) -> None:
        super().__init__()
        self.actions = actions
        self._spread = spread
        self.normalizer = Normalizer(observations)
        # An ensemble of one: the same layers as everywhere else.
        self._mlp = EnsembleMLP(1, (observations, *hidden, 2 * actions), activation, norm, start)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return self._mlp.hidden

    def outputs(self, observation: Tensor) -> Tensor:
        """What the network says of observations (B, O): (B, 2 A), for :meth:`squashed` and :meth:`log_density`."""
        x = self.normalizer.normalize(observation)
        out: Tensor = self._mlp(x.unsqueeze(0)).squeeze(0)
        return out

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (..., A) before squashing."""
        mean, raw = outputs.chunk(2, dim=-1)
        if self._spread == "softplus":
            return mean, torch.log(F.softplus(raw) + _LEAST_STD)
        low, high = LOG_STD_BOUNDS
        return mean, torch.tanh(raw) * (0.5 * (high - low)) + 0.5 * (high + low)

    def distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (B, A) before squashing, for observations (B, O)."""
        return self.moments(self.outputs(observation))

    def act(self, observation: Tensor) -> Tensor:
        """Deterministic action (B, A)."""
        return torch.tanh(self.distribution(observation)[0])

    def squashed(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Reparameterised action (..., A) for standard normal ``noise`` (..., A)."""
        mean, log_std = self.moments(outputs)
        return torch.tanh(torch.addcmul(mean, log_std.exp(), noise))

    def log_density(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Log-density (...,) of the action that :meth:`squashed` gives for the same arguments."""
        mean, log_std = self.moments(outputs)
        raw = torch.addcmul(mean, log_std.exp(), noise)
        # log(1 - tanh(x)^2) in the form that does not cancel for large |x|.
        log_slope = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
        return (-0.5 * (noise**2 + math.log(2.0 * math.pi)) - log_std - log_slope).sum(dim=-1)

    def sample(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised action (B, A) for standard normal ``noise`` (B, A), and its log-density (B,)."""
        outputs = self.outputs(observation)
        return self.squashed(outputs, noise), self.log_density(outputs, noise)


class Critics(nn.Module):
    """``count`` Q-functions of observation and normalised action.

    Outputs are centred and scaled, so that the networks work in units of order one whatever the reward's scale.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        count: int,
        observations: int,
        actions: int,
        hidden: Sequence[int],
        activation: str,
        norm: Norm,
        start: Start = "uniform",
    ) -> None:
        super().__init__()
        self.count = count
        self.normalizer = Normalizer(observations)
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        sizes = (observations + actions, *hidden, 1)
        self._mlp = EnsembleMLP(count, sizes, activation, norm, start, zero_last=True)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return self._mlp.hidden

    def scaled(self, observation: Tensor, action: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Values (C, B) in the networks' own units, or (K, B) of the ``chosen`` (K,) critics."""
        x = torch.cat((self.normalizer.normalize(observation), action), dim=-1)
        count = self.count if chosen is None else len(chosen)
        values: Tensor = self._mlp(x.expand(count, *x.shape), chosen).squeeze(-1)
        return values

    def forward(self, observation: Tensor, action: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Discounted returns (C, B), or (K, B), for observations (B, O) and actions (B, A)."""
        return torch.addcmul(self.center, self.scaled(observation, action, chosen), self.scale)


class StateValue(nn.Module):
    """V(s), one network of the observation alone; centred and scaled as :class:`Critics` are."""

    center: Tensor
    scale: Tensor

    def __init__(self, observations: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.normalizer = Normalizer(observations)
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        sizes = (observations, *hidden, 1)
        self._mlp = EnsembleMLP(1, sizes, "silu", "none", "orthogonal", zero_last=True)

    def scaled(self, observation: Tensor) -> Tensor:
        """Values (B,) in the network's own units."""
        x = self.normalizer.normalize(observation)
        values: Tensor = self._mlp(x.unsqueeze(0)).squeeze(0).squeeze(-1)
        return values

    def forward(self, observation: Tensor) -> Tensor:
        """Discounted returns (B,) for observations (B, O)."""
        return torch.addcmul(self.center, self.scaled(observation), self.scale)
