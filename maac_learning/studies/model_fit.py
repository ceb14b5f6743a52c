"""``maac study model-fit``: how well a model knows what the next policy will do, by how it is fitted."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from maac_learning import evidence
from maac_learning.config import ModelConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.fitting import fit_in_turn
from maac_learning.symmetry import heading_frame_of
from maac_learning.trainer import Trainer, load_run
from maac_ros.errors import ConfigError
from maac_ros.task import Task

VARIANTS: dict[str, Callable[[ModelConfig, Task], dict[str, Any]]] = {
    "full": lambda model, task: {},
    "no-mirror": lambda model, task: {"mirror": False} if task.robot.mirror else {},
    "no-turn": lambda model, task: {"turn": False} if task.robot.turn else {},
    "no-heading": lambda model, task: {"heading": False} if heading_frame_of(task, model) else {},
    "bootstrap": lambda model, task: {"bootstrap": "resampled"},
    "large-refits": lambda model, task: {"refit_learning_rate": model.learning_rate},
    "newest": lambda model, task: {"recent_fraction": 0.4, "recent_steps": model.fit_every},
    "little-decay": lambda model, task: {"weight_decay": 0.2 * model.weight_decay},
    "plain-likelihood": lambda model, task: {"variance_power": 0.0},
    "squared-error": lambda model, task: {"noise": "residual"},
    "no-layer-norm": lambda model, task: {"norm": "none"},
}
"""What differs from the run's own settings of the model, by name; nothing where the run is that already."""


@dataclass(frozen=True)
class ModelFitArguments:
    """Fit the model to the transitions of training runs as they came, and measure it on those that came next.

    These are what a policy did that the model had not seen: there it is used, and there it is wrong. The fits are those
    of training, one after the other, with the run's settings and with variants of them.
    """

    runs: tuple[Path, ...]
    """Folders of training runs; the transitions in their newest checkpoints are used."""
    until: int = 10_000
    """Transitions of a run that are fitted at most."""
    variants: tuple[str, ...] = ()
    """By default all that differ from the run's settings."""
    seed: int = 0
    """Of the first weights and the batches."""
    json: Path | None = None
    """Also write the results to this file."""


@dataclass(frozen=True)
class FitError:
    """How well the model knew what came next, after a fit. Errors are squares in units of the targets' variance.

    Attributes:
        transitions: seen by the fit, those held out included.
        held_out: error of the mean prediction of each member on held-out transitions, in the units of the fit.
        following: the same on the transitions that came next, until the following fit.
        surprise: negative log-likelihood of those, for each number, without its constant.
    """

    transitions: int
    held_out: float
    following: float
    surprise: float


def model_fit(arguments: Sequence[str]) -> int:
    """``maac study model-fit``."""
    chosen = tyro.cli(ModelFitArguments, prog="maac study model-fit", args=list(arguments))
    for name in chosen.variants:
        if name not in VARIANTS:
            raise ConfigError(
                f"--variants: unknown variant '{name}'; expected one of: {', '.join(VARIANTS)}"
            )
    print(f"{'run':<28}{'variant':<20}{'fits':>6}{'held out':>10}{'next':>8}{'surprise':>10}")
    rows, fits = [], {}
    for folder in chosen.runs:
        trainer = load_run(folder)
        for name, settings in _variants(trainer, chosen):
            found = list(refit(trainer, settings, chosen.until, chosen.seed))
            if len(found) < 2:
                raise ConfigError(
                    f"'{folder}': has {trainer.env_steps} transitions; expected more than two fits need, "
                    f"{trainer.config.random_steps + 2 * settings.fit_every}, and --until to allow them"
                )
            row = {
                "run": folder.name,
                "task": trainer.task.name,
                "variant": name,
                "fits": len(found),
                "held_out": found[-1].held_out,
                # Not after the first fit: for any model, what follows random actions is like nothing in it.
                "next": float(np.mean([each.following for each in found[1:]])),
                "surprise": float(np.mean([each.surprise for each in found[1:]])),
            }
            print(
                f"{folder.name[-27:]:<28}{name:<20}{len(found):>6}{row['held_out']:>10.4f}{row['next']:>8.4f}"
                f"{row['surprise']:>10.2f}",
                flush=True,
            )
            rows.append(row)
            fits[f"{folder.name}/{name}"] = [vars(each) for each in found]
    if chosen.json is not None:
        command = shlex.join(["maac", "study", "model-fit", *arguments])
        title = "What a model knows of what comes next"
        evidence.write(chosen.json, title, command, rows, fits=fits)
    return 0


def _variants(trainer: Trainer, chosen: ModelFitArguments) -> Iterator[tuple[str, ModelConfig]]:
    own = trainer.config.model
    for name in chosen.variants or VARIANTS:
        changes = VARIANTS[name](own, trainer.task)
        changed = own.model_copy(update=changes)
        if name == "full" or changed != own:
            yield name, changed
        elif chosen.variants:
            raise ConfigError(
                f"--variants: got {name}; expected what changes something: '{trainer.run_dir}' is that already"
            )


def refit(trainer: Trainer, settings: ModelConfig, until: int, seed: int) -> Iterator[FitError]:
    """Every fit that the run's training made of its first ``until`` transitions, with these settings."""
    config = trainer.config
    inputs, targets = trainer.transitions.model_data()
    observations = targets.shape[1] - 1
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DynamicsEnsemble(
        trainer.task, observations, inputs.shape[1] - observations, settings
    ).to(inputs.device)
    last = min(until, len(inputs) - settings.fit_every)
    for fits, seen in enumerate(range(config.random_steps, last + 1, settings.fit_every)):
        report = fit_in_turn(model, inputs[:seen], targets[:seen], settings, fits, generator)
        coming = slice(seen, seen + settings.fit_every)
        # The same units whatever a variant normalises by.
        unit = targets[:seen].std(dim=0).clamp(min=1e-6)
        yield FitError(
            seen, report.validation_mse, *_errors(model, inputs[coming], targets[coming], unit)
        )


@torch.no_grad()
def _errors(
    model: DynamicsEnsemble, inputs: Tensor, targets: Tensor, unit: Tensor
) -> tuple[float, float]:
    """Square error and surprise in squares of ``unit`` (O + 1,), means over members, rows and numbers."""
    mean, std = model.outcome(inputs.expand(model.members, -1, -1))
    square = ((mean - targets) / unit) ** 2
    variance = (std / unit) ** 2
    return float(square.mean()), float((square / variance + variance.log()).mean())
