"""The learned world: a bootstrap ensemble of Gaussian networks (paper, section 4.3), and its maximum-likelihood fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maac_learning.config import ModelConfig
from maac_learning.networks import EnsembleMLP, Normalizer
from maac_ros.task import Task


class Prediction(NamedTuple):
    """One model step. ``terminated`` is 1 where the predicted observation ends the episode."""

    observation: Tensor
    reward: Tensor
    terminated: Tensor


class TerminationRule(nn.Module):
    """A task's termination terms as bounds on the observation vector."""

    low: Tensor
    high: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        names = [entry.name for entry in task.observation_entries()]
        low, high = torch.full((len(names),), -torch.inf), torch.full((len(names),), torch.inf)
        for rule in task.termination:
            index = names.index(rule.entry)
            low[index] = -torch.inf if rule.min is None else rule.min
            high[index] = torch.inf if rule.max is None else rule.max
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, observation: Tensor) -> Tensor:
        """1.0 where (..., O) lies outside the bounds, else 0.0; shape (...)."""
        outside = (observation < self.low) | (observation > self.high)
        return outside.any(dim=-1).to(observation.dtype)


class DynamicsEnsemble(nn.Module):
    """E diagonal-Gaussian networks: (observation, normalised action) to change of observation, and reward.

    Inputs and targets are normalised by the data's statistics; log-variances are softly bounded by trained limits.
    """

    def __init__(self, task: Task, observations: int, actions: int, config: ModelConfig) -> None:
        super().__init__()
        self.members = config.members
        self.observations = observations
        self.input = Normalizer(observations + actions)
        self.target = Normalizer(observations + 1)
        self.termination = TerminationRule(task)
        self._mlp = EnsembleMLP(
            config.members,
            (observations + actions, *config.hidden, 2 * (observations + 1)),
            config.activation,
            config.layer_norm,
        )
        self.max_log_var = nn.Parameter(torch.full((observations + 1,), 0.5))
        self.min_log_var = nn.Parameter(torch.full((observations + 1,), -10.0))

    def normalized(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (E, B, O + 1) of the normalised target for raw inputs (E, B, O + A)."""
        mean, log_var = self._mlp(self.input.normalize(inputs)).chunk(2, dim=-1)
        log_var = self.max_log_var - nn.functional.softplus(self.max_log_var - log_var)
        log_var = self.min_log_var + nn.functional.softplus(log_var - self.min_log_var)
        return mean, log_var

    def moments(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every member's next-observation mean and std (E, B, O), and reward mean and std (E, B).

        ``observation`` is (B, O) for all members, or (E, B, O) with rows of their own; ``action`` likewise.
        """
        inputs = torch.cat((observation, action), dim=-1)
        if inputs.dim() == 2:
            inputs = inputs.expand(self.members, *inputs.shape)
        mean, log_var = self.normalized(inputs)
        change = self.target.denormalize(mean)
        std = self.target.std * torch.exp(0.5 * log_var)
        size = self.observations
        return (
            inputs[..., :size] + change[..., :size],
            std[..., :size],
            change[..., size],
            std[..., size],
        )

    def step(self, observation: Tensor, action: Tensor, order: Tensor, noise: Tensor) -> Prediction:
        """One reparameterised step in which each row follows one member (TS1).

        Args:
            observation: (B, O), with B a multiple of E.
            action: (B, A), normalised.
            order: (B,) random permutation that deals the rows to the members.
            noise: (B, O) standard normal.
        """
        rows, members = observation.shape[0], self.members
        dealt = (
            observation[order].view(members, rows // members, -1),
            action[order].view(members, rows // members, -1),
        )
        mean, std, reward, _ = self.moments(*dealt)
        back = torch.empty_like(order)
        back[order] = torch.arange(rows, device=order.device)
        following = (mean.view(rows, -1)[back]) + std.view(rows, -1)[back] * noise
        return Prediction(following, reward.reshape(rows)[back], self.termination(following))


@dataclass(frozen=True)
class FitReport:
    """How a fit went. ``validation_mse`` is in normalised units, mean over members."""

    steps: int
    validation_mse: float
    validation_nll: float


def fit(
    model: DynamicsEnsemble,
    inputs: Tensor,
    targets: Tensor,
    config: ModelConfig,
    max_steps: int,
    generator: torch.Generator,
) -> FitReport:
    """Maximise the likelihood of ``targets`` on bootstrap samples, with early stopping for each member.

    A member keeps the weights of its best validation error; the fit stops when no member has improved for
    ``config.patience`` validations, or after ``max_steps``.

    Args:
        model: warm-started; its normalisers are refitted.
        inputs: (N, O + A) observation and normalised action.
        targets: (N, O + 1) change of observation, and reward.
        config: batch size, rates and so on.
        max_steps: gradient steps at most.
        generator: CPU random stream for the split, the bootstrap and the batches.
    """
    count = inputs.shape[0]
    held_out = max(1, min(config.max_validation, int(config.validation_fraction * count)))
    shuffled = torch.randperm(count, generator=generator).to(inputs.device)
    train, validate = shuffled[held_out:], shuffled[:held_out]
    model.input.fit(inputs)
    model.target.fit(targets)
    # Each member trains on its own resampling of the training rows.
    bootstrap = train[
        torch.randint(len(train), (model.members, len(train)), generator=generator).to(train.device)
    ]
    validation_inputs = inputs[validate].expand(model.members, -1, -1)
    validation_targets = model.target.normalize(targets[validate])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    member_axis = torch.arange(model.members, device=inputs.device)[:, None]
    best = _Best(model)
    best.offer(*_validate(model, validation_inputs, validation_targets))
    stale = step = 0
    while step < max_steps and stale < config.patience:
        picks = torch.randint(
            len(train),
            (config.validate_every, model.members, config.batch_size),
            generator=generator,
        ).to(train.device)
        for pick in picks:
            rows = bootstrap[member_axis, pick]
            loss = _training_loss(model, inputs[rows], model.target.normalize(targets[rows]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        step += config.validate_every
        improved = best.offer(*_validate(model, validation_inputs, validation_targets))
        stale = 0 if improved else stale + 1
    best.restore(model)
    return FitReport(step, float(best.mse.mean()), float(best.nll.mean()))


def _training_loss(model: DynamicsEnsemble, inputs: Tensor, targets: Tensor) -> Tensor:
    """Gaussian negative log-likelihood, summed over members so that their gradients stay independent."""
    mean, log_var = model.normalized(inputs)
    nll = ((mean - targets) ** 2 * torch.exp(-log_var) + log_var).mean(dim=(-2, -1)).sum()
    # Pulls the trained bounds together, as in PETS, so that they follow the data.
    bounds = 0.01 * (model.max_log_var.sum() - model.min_log_var.sum())
    return nll + bounds


@torch.no_grad()
def _validate(model: DynamicsEnsemble, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error and negative log-likelihood (E,) on held-out data, normalised units."""
    mean, log_var = model.normalized(inputs)
    square = (mean - targets) ** 2
    return square.mean(dim=(-2, -1)), (square * torch.exp(-log_var) + log_var).mean(dim=(-2, -1))


class _Best:
    """Each member's weights at its best validation error."""

    _MARGIN = 0.99
    """An error must fall below this share of the best to count as better."""

    def __init__(self, model: DynamicsEnsemble) -> None:
        self._stacked = dict(model._mlp.named_parameters())
        self._kept = {name: value.detach().clone() for name, value in self._stacked.items()}
        device = next(iter(self._kept.values())).device
        self.mse = torch.full((model.members,), torch.inf, device=device)
        self.nll = torch.full((model.members,), torch.inf, device=device)

    @torch.no_grad()
    def offer(self, mse: Tensor, nll: Tensor) -> bool:
        """Keep the present weights of the members that improved; tell whether any did."""
        better = mse < self._MARGIN * self.mse
        self.mse = torch.where(better, mse, self.mse)
        self.nll = torch.where(better, nll, self.nll)
        for name, value in self._stacked.items():
            self._kept[name][better] = value.detach()[better]
        return bool(better.any())

    @torch.no_grad()
    def restore(self, model: DynamicsEnsemble) -> None:
        for name, value in self._stacked.items():
            value.copy_(self._kept[name])
