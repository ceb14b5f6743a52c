"""The learned world: an ensemble of Gaussian networks (paper, section 4.3), and its maximum-likelihood fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from maac_learning.config import ModelConfig
from maac_learning.mirror import MirrorImage
from maac_learning.networks import EnsembleMLP, Normalizer
from maac_ros.memory import Memory
from maac_ros.task import Task
from maac_ros.terms import GOAL_SOURCES, Transition

_LEAST_VARIANCE = 1e-10
"""Of a normalised target: what is constant in the data must not divide by zero elsewhere."""


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
        self._bounded = [i for i in range(len(names)) if low[i] > -torch.inf or high[i] < torch.inf]

    def forward(self, observation: Tensor) -> Tensor:
        """1.0 where (..., O) lies outside the bounds, else 0.0; shape (...)."""
        outside = (observation < self.low) | (observation > self.high)
        return outside.any(dim=-1).to(observation.dtype)

    def differentiable(self, observation: Tensor, width: Tensor) -> Tensor:
        """:meth:`forward`, with the gradient of a logistic function of the distance to the nearest bound.

        A step's own gradient is zero, so that a pathwise gradient through it does not see that episodes end sooner
        or later as the policy changes: in expectation that change is the density of the rows at the bound, which the
        logistic's slope estimates, as a kernel does.

        Args:
            observation: (..., O).
            width: (O,) scale of the logistic, in units of the observation.
        """
        terminated = self(observation)
        if not self._bounded:
            return terminated
        near, width = observation[..., self._bounded], width[self._bounded]
        low, high = self.low[self._bounded], self.high[self._bounded]
        inside = torch.minimum((near - low) / width, (high - near) / width).amin(dim=-1)
        smooth = torch.sigmoid(-inside)
        return terminated + (smooth - smooth.detach())


class RewardRule(nn.Module):
    """A task's analytic reward as a function of state, action and next state; differentiable."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._index = {entry.name: i for i, entry in enumerate(task.observation_entries())}
        self._reward = task.reward

    def forward(
        self, observation: Tensor, action: Tensor, following: Tensor, terminated: Tensor
    ) -> Tensor:
        """Reward (...) for (..., O), normalised actions (..., A), next observations (..., O) and their end (...)."""
        step = Transition(self._index, observation, action, following, terminated)
        total: Tensor = self._reward.total(step)
        return total


class Shuffle(NamedTuple):
    """How B rows are dealt to the members: ``deal`` (B,) is a permutation, ``back`` (B,) its inverse."""

    deal: Tensor
    back: Tensor


class DynamicsEnsemble(nn.Module):
    """E diagonal-Gaussian networks: (observation, normalised action) to change of observation, and reward.

    Inputs and targets are normalised by the data's statistics. With ``noise: state_dependent`` the networks also
    give log-variances, softly bounded by trained limits, and maximise the likelihood (paper, section 4.3), weighted
    as ``variance_power`` says; with ``trained`` log-variances are parameters, the same in all states. With
    ``residual`` they minimise the squared error, and the variance is that of the held-out residuals.

    What the observation recalls, such as the last command, is not learned: it follows. Neither is what the robot is
    asked for: nothing tells when that changes, and it stays.

    Dropout is for :func:`fit`: everywhere else the model is in evaluation mode.
    """

    residual_variance: Tensor
    _arrangement: Tensor
    _gain: Tensor
    _partner: Tensor
    _partner_gain: Tensor
    _learned: Tensor

    def __init__(self, task: Task, observations: int, actions: int, config: ModelConfig) -> None:
        super().__init__()
        self.members = config.members
        self.observations = observations
        self.input = Normalizer(observations + actions)
        # What has never changed, such as the goal of an episode, is predicted not to.
        self.target = Normalizer(observations + 1, constant_scale=0.0)
        self.termination = TerminationRule(task)
        memory = Memory(task)
        self.recalls = bool(memory)
        # Of the following observation and what the step began with: what is recalled follows exactly.
        arrangement = np.arange(observations)
        arrangement[memory.entries] = observations + memory.sources
        gain, partner = np.ones(observations, np.float32), np.arange(observations)
        partner_gain = np.zeros(observations, np.float32)
        gain[memory.entries], partner_gain[memory.entries] = memory.gain, memory.partner_gain
        partner[memory.entries] = memory.entries[memory.partner]
        self._turns = memory.turning
        learned = np.ones(observations + 1, np.float32)
        learned[memory.entries] = 0.0
        entries = task.observation_entries()
        learned[[i for i, entry in enumerate(entries) if entry.source in GOAL_SOURCES]] = 0.0
        self._learns_all = bool(learned.all())
        self.register_buffer("_arrangement", torch.from_numpy(arrangement), persistent=False)
        for name, values in (("gain", gain), ("partner", partner), ("partner_gain", partner_gain)):
            self.register_buffer(f"_{name}", torch.from_numpy(values), persistent=False)
        self.register_buffer("_learned", torch.from_numpy(learned), persistent=False)
        self.reward = RewardRule(task) if config.reward == "analytic" else None
        self.mirror = MirrorImage(task) if config.mirror and task.robot.mirror else None
        self.noise = config.noise
        self.drops_out = config.dropout > 0.0
        state_dependent = config.noise == "state_dependent"
        outputs = observations + 1
        self._mlp = EnsembleMLP(
            config.members,
            (
                observations + actions,
                *config.hidden,
                2 * outputs if state_dependent else outputs,
            ),
            config.activation,
            config.norm,
            norm_epsilon=config.norm_epsilon,
            dropout=config.dropout,
        )
        if state_dependent:
            self.max_log_var = nn.Parameter(torch.full((outputs,), 0.5))
            self.min_log_var = nn.Parameter(torch.full((outputs,), -10.0))
        elif config.noise == "trained":
            # Of the deviation and not the variance: Adam's steps are as large either way, and this goes twice as far.
            self.log_std = nn.Parameter(torch.zeros(config.members, 1, outputs))
        else:
            self.register_buffer("residual_variance", torch.ones(config.members, 1, outputs))
        self.eval()

    def networks(self) -> list[nn.Parameter]:
        """The networks' own parameters."""
        return list(self._mlp.parameters())

    def stacked(self) -> dict[str, Tensor]:
        """Parameters whose first axis is the member."""
        return {n: p for n, p in self.named_parameters() if p.dim() == 3}

    def normalized(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (E, B, O + 1) of the normalised target for raw inputs (E, B, O + A).

        A constant variance comes as (E, 1, O + 1).
        """
        out = self._mlp(self.input.normalize(inputs))
        if self.noise == "residual":
            return out, self.residual_variance
        if self.noise == "trained":
            return out, (2.0 * self.log_std).exp()
        mean, log_var = out.chunk(2, dim=-1)
        log_var = self.max_log_var - nn.functional.softplus(self.max_log_var - log_var)
        log_var = self.min_log_var + nn.functional.softplus(log_var - self.min_log_var)
        return mean, log_var.exp()

    @property
    def not_learned(self) -> Tensor:
        """(O,) true where an entry of the observation is recalled, or asked for."""
        return self._learned[:-1] == 0.0

    def learned(self, targets: Tensor) -> Tensor:
        """``targets`` (..., O + 1) with nothing to be learned of what is recalled or asked for."""
        return targets if self._learns_all else targets * self._learned

    def _recalling(self, following: Tensor, inputs: Tensor) -> Tensor:
        """``following`` (..., O) with what it recalls of ``inputs`` (..., O + A), which led to it."""
        if not self.recalls:
            return following
        arranged = torch.cat((following, inputs), dim=-1).index_select(-1, self._arrangement)
        if not self._turns:
            return arranged
        partner = arranged.index_select(-1, self._partner)
        return self._gain * arranged + self._partner_gain * partner

    def moments(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every member's next-observation mean and std (E, B, O), and reward mean and std (E, B).

        ``observation`` is (B, O) for all members, or (E, B, O) with rows of their own; ``action`` likewise.
        """
        inputs = torch.cat((observation, action), dim=-1)
        if inputs.dim() == 2:
            inputs = inputs.expand(self.members, *inputs.shape)
        mean, variance = self.normalized(inputs)
        change = self.target.denormalize(mean)
        std = (self.target.std * variance.sqrt()).expand_as(change)
        size = self.observations
        following = self._recalling(inputs[..., :size] + change[..., :size], inputs)
        reward, reward_std = change[..., size], std[..., size]
        if self.reward is not None:
            ended = self.termination(following)
            reward = self.reward(inputs[..., :size], inputs[..., size:], following, ended)
            reward_std = torch.zeros_like(reward)
        return following, std[..., :size], reward, reward_std

    def step(
        self,
        observation: Tensor,
        action: Tensor,
        shuffle: Shuffle | None,
        noise: Tensor,
        termination_width: float = 0.0,
    ) -> Prediction:
        """One reparameterised step in which each row follows one member (TS1).

        Args:
            observation: (B, O), with B a multiple of E.
            action: (B, A), normalised.
            shuffle: deals the rows to the members; None deals the first B / E rows to the first, and so on.
            noise: (B, O) standard normal, in the order in which the rows are dealt.
            termination_width: of :meth:`TerminationRule.differentiable`, in standard deviations of the observation;
                0 for no gradient through terminations.
        """
        rows, size = observation.shape
        inputs = torch.cat((observation, action), dim=-1)
        if shuffle is not None:
            inputs = inputs.index_select(0, shuffle.deal)
        mean, variance = self.normalized(inputs.view(self.members, rows // self.members, -1))
        spread = (self.target.std * variance.sqrt())[..., :size]
        change = self.target.denormalize(mean)
        # The reward's own noise averages out in any return; its mean is all that is needed.
        jitter = nn.functional.pad(spread * noise.view(*mean.shape[:2], size), (0, 1))
        sample = (change + jitter).view(rows, size + 1)
        if shuffle is not None:
            sample = sample.index_select(0, shuffle.back)
        following = observation + sample[:, :size]
        if self.recalls:
            following = self._recalling(following, torch.cat((observation, action), dim=-1))
        if termination_width > 0.0 and torch.is_grad_enabled():
            width = termination_width * self.input.std[:size]
            terminated = self.termination.differentiable(following, width)
        else:
            terminated = self.termination(following)
        if self.reward is None:
            return Prediction(following, sample[:, size], terminated)
        reward = self.reward(observation, action, following, terminated)
        return Prediction(following, reward, terminated)


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
    seen_inputs, seen_targets = inputs, targets
    if model.mirror is not None:
        images = model.mirror(inputs, targets)
        seen_inputs, seen_targets = torch.cat((inputs, images[0])), torch.cat((targets, images[1]))
    model.input.fit(seen_inputs)
    model.target.fit(seen_targets)
    rows_of = train.expand(model.members, -1)
    weights = _row_weights(len(inputs), config, inputs.device)
    if config.bootstrap == "resampled":
        resampled = torch.randint(len(train), rows_of.shape, generator=generator)
        rows_of = train[resampled.to(train.device)]
    validation_inputs = inputs[validate].expand(model.members, -1, -1)
    validation_targets = model.target.normalize(targets[validate])
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
                given, wanted = _half_mirrored(model, inputs[rows], targets[rows])
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


def _half_mirrored(
    model: DynamicsEnsemble, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """A batch (E, B, ...) of random rows with half of them as they are in the mirror, where there is one."""
    if model.mirror is None:
        return inputs, targets
    half = inputs.shape[1] // 2
    images = model.mirror(inputs[:, half:], targets[:, half:])
    return (
        torch.cat((inputs[:, :half], images[0]), dim=1),
        torch.cat((targets[:, :half], images[1]), dim=1),
    )


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
    # Spread evenly: half of a batch may be mirrored.
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
