"""``maac study gradient``: error of the policy gradient by horizon, on a double integrator (section 5.2, figure 3)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from maac_learning import evidence
from maac_learning.studies.double_integrator import LinearQuadratic, double_integrator
from maac_learning.studies.gradient_error import (
    Fitness,
    LemmaErrors,
    ReturnErrors,
    fitness,
    lemma_errors,
    policy_gradient,
    policy_states,
    return_errors,
)
from maac_learning.studies.learned import collect, learn
from maac_ros.errors import ConfigError

RETURN_CURVES = {
    "true_l1": "true dynamics",
    "learned_l1": "learned model",
    "known_reward_l1": "learned, reward known",
}
"""Errors against the gradient of the return: column, and name for people."""

LEMMA_CURVES = {
    "critics_l1": "critics alone",
    "model_l1": "model alone",
    "both_l1": "both",
}
"""Errors against the same objective with exact functions (Lemma 4.1): column, and name for people."""


@dataclass(frozen=True)
class GradientArguments:
    """L1 error of the policy gradient by horizon H, with the true and with a learned model."""

    seeds: int = 10
    """Repetitions, each with data, model and critics of its own."""
    horizons: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40)
    """Values of H."""
    gain: tuple[float, float] = (-1.0, -1.0)
    """The policy: force by position (N/m) and by velocity (N s/m)."""
    discount: float = 0.99
    """Gamma, a control step of 0.1 s."""
    episodes: int = 10
    """Episodes of 50 steps that model and critics learn from."""
    exploration: float = 0.5
    """Standard deviation of the noise on the actions of those episodes, N."""
    critic_updates: int = 2000
    """Gradient steps of the critics."""
    layer_norm: bool = False
    """Normalise hidden layers, as the presets for training do; the networks of the paper are plain."""
    json: Path | None = None
    """Also write the figures to this file, and a picture of the same stem (.png) beside it."""


@dataclass(frozen=True)
class SeedErrors:
    """One seed.

    Attributes:
        seed: of data, networks and fits.
        model_fit_steps: gradient steps until the fit of the model stopped.
        model_validation_mse: normalised, on held-out data.
        fitness: of the learned functions on the policy's states.
        horizons: every H, with its errors.
    """

    seed: int
    model_fit_steps: int
    model_validation_mse: float
    fitness: Fitness
    horizons: dict[int, tuple[ReturnErrors, LemmaErrors]]


def gradient(arguments: Sequence[str]) -> int:
    """``maac study gradient``.

    Raises:
        ConfigError: when a value is out of range, or the return under the gain is infinite.
    """
    chosen = tyro.cli(GradientArguments, prog="maac study gradient", args=list(arguments))
    _check(chosen)
    torch.set_num_threads(1)  # the networks are too small to gain from more
    world = double_integrator(chosen.gain, chosen.discount)
    print("RMS errors on the policy's states, as shares of the true values' standard deviation:")
    seeds = []
    for seed in range(chosen.seeds):
        seeds.append(study_seed(world, chosen, seed))
        fit = seeds[-1].fitness
        print(
            f"seed {seed:>2}: change of state {fit.dynamics:.3f}, reward {fit.reward:.3f}, Q {fit.critics:.3f}",
            flush=True,
        )
    rows = summarize(seeds)
    best = min(rows, key=lambda row: float(row["learned_l1"]))["horizon"]
    norm = float(policy_gradient(world).abs().sum())
    _print_tables(rows, norm)
    print(f"with the learned model the gradient of the return is nearest at H = {best}")
    if chosen.json is not None:
        picture = chosen.json.with_suffix(".png")
        evidence.write(
            chosen.json,
            "Error of the policy gradient by horizon, on a double integrator",
            shlex.join(["maac", "study", "gradient", *arguments]),
            rows,
            best_horizon=best,
            gradient_l1=norm,
            spectral_radius=world.spectral_radius,
            slope_of_dynamics=float(torch.linalg.matrix_norm(world.jacobian, 2)),
            settings={**asdict(chosen), "json": str(chosen.json)},
            seeds=[_plain(seed) for seed in seeds],
        )
        _draw(rows, norm, picture)
        print(f"written: {chosen.json} and {picture}")
    return 0


def study_seed(world: LinearQuadratic, chosen: GradientArguments, seed: int) -> SeedErrors:
    """Collect data, learn from it, and compare gradients at every horizon."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # networks are initialised from the global stream
    inputs, targets = collect(world, chosen.episodes, chosen.exploration, generator)
    learned = learn(world, inputs, targets, chosen.critic_updates, chosen.layer_norm, generator)
    states = policy_states(world)
    return SeedErrors(
        seed=seed,
        model_fit_steps=learned.report.steps,
        model_validation_mse=learned.report.validation_mse,
        fitness=fitness(world, learned, states),
        horizons={
            horizon: (
                return_errors(world, learned, states, horizon, generator),
                lemma_errors(world, learned, horizon, generator),
            )
            for horizon in chosen.horizons
        },
    )


def summarize(seeds: Sequence[SeedErrors]) -> list[dict[str, Any]]:
    """One row a horizon: medians over seeds, and the quartiles of every curve."""
    rows: list[dict[str, Any]] = []
    for horizon in seeds[0].horizons:
        row: dict[str, Any] = {"horizon": horizon}
        entries = [_flat(seed, horizon) for seed in seeds]
        for name in entries[0]:
            values = [entry[name] for entry in entries]
            row[name] = None if None in values else np.median(values)
            if name in RETURN_CURVES or name in LEMMA_CURVES:
                row[f"{name}_q1"], row[f"{name}_q3"] = np.quantile(values, (0.25, 0.75))
        rows.append(row)
    return rows


def _flat(seed: SeedErrors, horizon: int) -> dict[str, Any]:
    by_return, by_lemma = seed.horizons[horizon]
    return {**asdict(by_return), **asdict(by_lemma)}


def _plain(seed: SeedErrors) -> dict[str, Any]:
    """For the file: horizons as a list of flat entries."""
    horizons = [{"horizon": horizon, **_flat(seed, horizon)} for horizon in seed.horizons]
    return {**asdict(seed), "horizons": horizons}


def _check(chosen: GradientArguments) -> None:
    for name, lowest in (("seeds", 1), ("episodes", 1), ("critic_updates", 1), ("exploration", 0)):
        value = getattr(chosen, name)
        if value < lowest:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: got {value}; expected at least {lowest}")
    if not chosen.horizons or min(chosen.horizons) < 0:
        raise ConfigError(
            f"--horizons: got {list(chosen.horizons)}; expected numbers of at least 0"
        )
    if not 0.0 < chosen.discount < 1.0:
        raise ConfigError(f"--discount: got {chosen.discount}; expected more than 0, less than 1")
    if chosen.json is not None and chosen.json.suffix != ".json":
        raise ConfigError(f"--json: got '{chosen.json}'; expected a name that ends in .json")


def _print_tables(rows: Sequence[dict[str, Any]], norm: float) -> None:
    print(f"\nAgainst the gradient of the return, whose L1 norm is {norm:.3f}: L1 error,")
    print("median [quartiles] over seeds; 'exact' is what true dynamics and true Q leave")
    _print_table(rows, RETURN_CURVES, ("exact_l1",), ".0e")
    print("\nAgainst the same objective with exact functions (Lemma 4.1): L1 error")
    _print_table(rows, LEMMA_CURVES, ("eps_f", "eps_r", "eps_q"), ".3f")
    print()


def _print_table(
    rows: Sequence[dict[str, Any]], curves: dict[str, str], extra: Sequence[str], form: str
) -> None:
    heads = [f"{label:>24}" for label in curves.values()]
    print(f"{'H':>3}", *heads, *(f"{name.removesuffix('_l1'):>7}" for name in extra))
    for row in rows:
        cells = [f"{row[n]:.3f} [{row[f'{n}_q1']:.3f}, {row[f'{n}_q3']:.3f}]" for n in curves]
        more = ["–" if row[name] is None else format(row[name], form) for name in extra]
        print(f"{row['horizon']:>3}", *(f"{c:>24}" for c in cells), *(f"{c:>7}" for c in more))


def _draw(rows: Sequence[dict[str, Any]], norm: float, path: Path) -> None:
    """The counterpart of figure 3, and the two terms of Lemma 4.1: medians as lines, quartiles as bands."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    horizons = [row["horizon"] for row in rows]
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    titles = (f"against the gradient of the return (L1 norm {norm:.2f})", "Lemma 4.1, same horizon")
    for axes, curves, title in zip(panels, (RETURN_CURVES, LEMMA_CURVES), titles, strict=True):
        for name, label in curves.items():
            axes.plot(horizons, [row[name] for row in rows], marker="o", markersize=3, label=label)
            low, high = ([row[f"{name}_{end}"] for row in rows] for end in ("q1", "q3"))
            axes.fill_between(horizons, low, high, alpha=0.15)
        axes.set(xlabel="horizon H", ylabel="L1 error", title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
