"""The maximum-likelihood fit of the ensemble (paper, section 4.3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maac_learning.config import ModelConfig
from maac_learning.dynamics import DynamicsEnsemble

_LEAST_VARIANCE = 1e-10
"""Of a normalised target: what is constant in the data must not divide by zero elsewhere."""


@dataclass(frozen=True)
class FitReport:
    """How a fit went. ``validation_mse`` is in normalised units, mean over members."""

    steps: int
    validation_mse: float


def fit(
    model: DynamicsEnsemble,
    inputs: Tensor,
    targets: Tensor,
    config: ModelConfig,
    max_steps: int,
    generator: torch.Generator,
    learning_rate: float | None = None,
) -> FitReport:
    """Fit ``targets`` with batches of its own and early stopping for each member.

    A member keeps the weights of its best validation error; the fit stops when no member has improved for
    ``config.patience`` validations, or after ``max_steps``. The step size falls over ``max_steps``.

    A row is held out for good, since a warm-started model has seen all others: judged by those, what it was before
    would always seem better than what it has learned anew.

    Args:
        model: warm-started; its normalisers are refitted.
        inputs: (N, O + A) observation and normalised action.
        targets: (N, O + 1) change of observation, and reward.
        config: batch size, rates and so on.
        max_steps: gradient steps at most.
        generator: CPU random stream for the split, the resampling and the batches.
        learning_rate: step size at the beginning; by default ``config.learning_rate``.
    """
    rate = config.learning_rate if learning_rate is None else learning_rate
    train, validate = _split(len(inputs), config, generator, inputs.device)
    targets = model.learned(targets)
    seen = (inputs, targets) if model.images is None else model.images.all(inputs, targets)
    for normalizer, vectors in zip((model.input, model.target), model.framed(*seen), strict=True):
        normalizer.fit(vectors)
    rows_of = train.expand(model.members, -1)
    weights = _row_weights(len(inputs), config, inputs.device)
    if config.bootstrap == "resampled":
        resampled = torch.randint(len(train), rows_of.shape, generator=generator)
        rows_of = train[resampled.to(train.device)]
    validation_inputs, validation_targets = model.framed(inputs[validate], targets[validate])
    validation_inputs = validation_inputs.expand(model.members, -1, -1)
    validation_targets = model.target.normalize(validation_targets)
    networks = model.networks()
    others = [p for p in model.parameters() if all(p is not each for each in networks)]
    optimizer = torch.optim.AdamW(
        [
            {"params": networks, "weight_decay": config.weight_decay},
            # Those of the variance are logarithms: zero is nothing to be drawn to.
            {"params": others, "weight_decay": 0.0},
        ],
        fused=True,
    )
    member_axis = torch.arange(model.members, device=inputs.device)[:, None]
    best = _Best(model)
    best.offer(_validate(model, validation_inputs, validation_targets))
    stale = step = 0
    while step < max_steps and stale < config.patience:
        for group in optimizer.param_groups:
            group["lr"] = rate * (1.0 - (1.0 - config.last_rate) * step / max_steps)
        size = (config.validate_every, model.members, config.batch_size)
        picks = _picks(len(train), len(inputs), size, config, generator).to(train.device)
        with _dropping_out(model, generator):
            for pick in picks:
                rows = rows_of[member_axis, pick]
                given, wanted = inputs[rows], targets[rows]
                if model.images is not None:
                    given, wanted = model.images(given, wanted)
                given, wanted = model.framed(given, wanted)
                wanted = model.target.normalize(wanted)
                weight = None if weights is None else weights[rows, member_axis]
                loss = _training_loss(model, given, wanted, config.variance_power, weight)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        step += config.validate_every
        improved = best.offer(_validate(model, validation_inputs, validation_targets))
        stale = 0 if improved else stale + 1
    best.restore(model)
    if model.noise == "residual":
        with torch.no_grad():
            mean, _ = model.normalized(validation_inputs)
            residual = ((mean - validation_targets) ** 2).mean(dim=1, keepdim=True)
            model.residual_variance.copy_(residual.clamp(min=_LEAST_VARIANCE))
    return FitReport(step, float(best.mse.mean()))


@contextlib.contextmanager
def _dropping_out(model: DynamicsEnsemble, generator: torch.Generator) -> Iterator[None]:
    """Let ``model`` drop out, where it does, what follows from ``generator``: PyTorch's dropout takes no stream."""
    if not model.drops_out:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator))
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.train()
        try:
            yield
        finally:
            model.eval()


def fit_in_turn(
    model: DynamicsEnsemble,
    inputs: Tensor,
    targets: Tensor,
    config: ModelConfig,
    fits: int,
    generator: torch.Generator,
) -> FitReport:
    """:func:`fit` as training does it after ``fits`` others: the first takes more, and larger, steps."""
    steps, rate = (
        (config.fit_steps, config.refit_learning_rate)
        if fits
        else (config.first_fit_steps, config.learning_rate)
    )
    return fit(model, inputs, targets, config, steps, generator, rate)


def held_out_rows(count: int, config: ModelConfig) -> Tensor:
    """Rows of ``count`` transitions, in the order in which they came, that no fit learns from."""
    return torch.arange(0, count, max(2, round(1.0 / config.validation_fraction)))


def _split(
    count: int, config: ModelConfig, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows to train on, and some of those that are held out in every fit."""
    rows = torch.arange(count)
    validate = held_out_rows(count, config)
    train = rows[~torch.isin(rows, validate)]
    if config.recent_fraction > 0.0:
        # Else what was learned of the newest would be judged by all the others.
        size = (min(len(validate), config.max_validation),)
        some = _picks(len(validate), count, size, config, generator)
    else:
        some = torch.randperm(len(validate), generator=generator)[: config.max_validation]
    return train.to(device), validate[some].to(device)


def _picks(
    among: int,
    count: int,
    size: tuple[int, ...],
    config: ModelConfig,
    generator: torch.Generator,
) -> Tensor:
    """Random places (..., B) of ``among`` rows in the order in which they came, as many of the newest as is asked for.

    Args:
        among: rows there are.
        count: transitions of which they are a part, evenly spread.
        size: (..., B).
        config: says what the newest are, and how many of B.
        generator: CPU random stream.
    """
    if config.recent_fraction == 0.0:
        return torch.randint(among, size, generator=generator)
    newest = min(among, max(1, round(config.recent_steps * among / count)))
    # Spread evenly: each part of a batch may become another image.
    steps = torch.arange(size[-1] + 1) * config.recent_fraction
    recent = steps[1:].floor() > steps[:-1].floor()
    old = torch.randint(among, size, generator=generator)
    new = among - 1 - torch.randint(newest, size, generator=generator)
    return torch.where(recent, new, old)


def _training_loss(
    model: DynamicsEnsemble,
    inputs: Tensor,
    targets: Tensor,
    variance_power: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Squared error or Gaussian likelihood of rows (E, B, ...), each with its weight (E, B) where those are given.

    Summed over members so that their gradients stay independent.
    """
    mean, variance = model.normalized(inputs)
    losses = (mean - targets) ** 2
    if model.noise != "residual":
        losses = losses / variance + variance.log()
        losses = losses * variance.detach() ** variance_power
    rows = losses.mean(dim=-1)
    loss = (rows if weights is None else rows * weights).mean(dim=-1).sum()
    if model.noise != "state_dependent":
        return loss
    # Pulls the trained bounds together, as in PETS, so that they follow the data.
    bounds = 0.01 * (model.max_log_var.sum() - model.min_log_var.sum())
    return loss + bounds


def _row_weights(count: int, config: ModelConfig, device: torch.device) -> Tensor | None:
    """What each row counts for each member, (count, E): a row keeps its weights in all fits."""
    if config.bootstrap != "weighted":
        return None
    # NumPy draws one number after the other: the first are the same however many follow.
    drawn = np.random.default_rng(0).standard_exponential((count, config.members))
    return torch.from_numpy(drawn).float().to(device)


@torch.no_grad()
def _validate(model: DynamicsEnsemble, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error (E,) on held-out data, normalised units."""
    mean, _ = model.normalized(inputs)
    return ((mean - targets) ** 2).mean(dim=(-2, -1))


class _Best:
    """Each member's weights at its best validation error."""

    def __init__(self, model: DynamicsEnsemble) -> None:
        self._stacked = model.stacked()
        self._kept = {name: value.detach().clone() for name, value in self._stacked.items()}
        device = next(iter(self._kept.values())).device
        self.mse = torch.full((model.members,), torch.inf, device=device)

    @torch.no_grad()
    def offer(self, mse: Tensor) -> bool:
        """Keep the present weights of the members that improved; tell whether any did."""
        better = mse < self.mse
        self.mse = torch.where(better, mse, self.mse)
        for name, value in self._stacked.items():
            self._kept[name][better] = value.detach()[better]
        return bool(better.any())

    @torch.no_grad()
    def restore(self, model: DynamicsEnsemble) -> None:
        for name, value in self._stacked.items():
            value.copy_(self._kept[name])
