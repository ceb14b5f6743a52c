"""``maac study planning``: what planning adds to the policy at test time (section 5.4, table 1)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from maac_learning import evidence
from maac_learning.config import planner_settings
from maac_ros.bundle import load_bundle
from maac_ros.errors import ConfigError
from maac_ros.evaluation import evaluate
from maac_ros.task import PlannerSettings

TABLE_1 = {
    "ant": (3.06e3, 3.97e3),
    "half_cheetah": (10.7e3, 10.9e3),
    "hopper": (2.77e3, 2.80e3),
    "hopper_unclipped": (2.77e3, 2.80e3),
    "walker2d": (1.61e3, 1.76e3),
    "walker2d_unclipped": (1.61e3, 1.76e3),
}
"""The paper's returns without and with planning, on its own rewards."""

MISMATCHES = (("mass", 0.8), ("mass", 1.2), ("friction", 0.8), ("friction", 1.2))

_RESAMPLES = 20_000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class PlanningArguments:
    """Play the same episodes with the policy alone and with planning, and compare the returns in pairs.

    Plans have no time budget here: what they are worth is apart from how long they take. Nor does the policy take over
    where the model does not describe the robot (``maac_ros.monitor``), unless asked for; how often it would is told.
    """

    bundles: tuple[str, ...] = ("half_cheetah", "hopper")
    """Shipped bundle names, or paths to bundles."""
    episodes: int = 20
    """Episodes each way."""
    seed: int = 1000
    """Of the first episode; the others follow."""
    mismatch: bool = False
    """Also with masses, and with frictions, of 0.8 and 1.2 times those that were learned from."""
    fallback: bool = False
    """Let the policy take over where the model does not describe the robot, as the nodes do."""
    planner: tuple[Path, ...] = ()
    """YAML files with settings of the planner, on top of each bundle's, to try in turn; see PlannerSettings."""
    jobs: int = 2
    """Episodes played side by side."""
    json: Path | None = None
    """Also write the results to this file."""


@dataclass(frozen=True)
class Comparison:
    """Episodes of one bundle on one robot.

    Attributes:
        bundle: its name or path.
        planner: name of the settings that it planned with; None for its own.
        task: its task.
        env_steps: that it was trained for.
        change: of the robot; None for the one that was learned from.
        policy, planned: (N,) returns, of the same initial states.
        policy_doubted, planned_doubted: (N,) shares of the ticks at which the model did not describe the robot.
    """

    bundle: str
    planner: str | None
    task: str
    env_steps: int
    change: tuple[str, float] | None
    policy: NDArray[np.float64]
    planned: NDArray[np.float64]
    policy_doubted: NDArray[np.float64]
    planned_doubted: NDArray[np.float64]

    @property
    def gain(self) -> NDArray[np.float64]:
        """(N,) what planning added, episode by episode."""
        return self.planned - self.policy

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean gain: episodes are drawn anew in pairs."""
        random = np.random.default_rng(0)
        picks = random.integers(len(self.gain), size=(_RESAMPLES, len(self.gain)))
        tail = 50 * (1 - _CONFIDENCE)
        low, high = np.percentile(self.gain[picks].mean(axis=1), (tail, 100 - tail))
        return float(low), float(high)

    def verdict(self) -> str:
        """Whether the interval leaves any doubt."""
        low, high = self.interval()
        return "better" if low > 0 else "worse" if high < 0 else "no difference"

    def row(self) -> dict[str, Any]:
        """A flat row for the table and the file."""
        low, high = self.interval()
        without, planned = TABLE_1.get(self.task, (None, None))
        return {
            "bundle": self.bundle,
            "planner": self.planner or "its own",
            "env_steps": self.env_steps,
            "robot": "as learned"
            if self.change is None
            else f"{self.change[0]} x {self.change[1]:g}",
            "policy_return": float(self.policy.mean()),
            "mpc_return": float(self.planned.mean()),
            "gain": float(self.gain.mean()),
            "gain_low": low,
            "gain_high": high,
            "verdict": self.verdict(),
            "doubted_share": float(self.planned_doubted.mean()),
            "doubted_share_policy": float(self.policy_doubted.mean()),
            "paper_policy_return": without,
            "paper_mpc_return": planned,
        }


def planning(arguments: Sequence[str]) -> int:
    """``maac study planning``."""
    chosen = tyro.cli(PlanningArguments, prog="maac study planning", args=list(arguments))
    for name in ("episodes", "jobs"):
        if getattr(chosen, name) < 1:
            raise ConfigError(f"--{name}: got {getattr(chosen, name)}; expected at least 1")
    trials = [
        (
            name,
            None if file is None else file.stem,
            planner_settings(load_bundle(name).task.planner, file),
        )
        for name in chosen.bundles
        for file in chosen.planner or (None,)
    ]
    changes = (None, *MISMATCHES) if chosen.mismatch else (None,)
    print(_HEADING, flush=True)
    comparisons = []
    alone: dict[tuple[str, tuple[str, float] | None], NDArray[np.float64]] = {}
    for name, planner, settings in trials:
        manifest = load_bundle(name).manifest
        for change in changes:
            if (name, change) not in alone:
                alone[name, change] = play(name, settings, change, chosen, use_mpc=False)
            planned = play(name, settings, change, chosen, use_mpc=True)
            comparisons.append(
                Comparison(
                    name,
                    planner,
                    manifest.task.name,
                    manifest.provenance.env_steps,
                    change,
                    alone[name, change][:, 0],
                    planned[:, 0],
                    alone[name, change][:, 1],
                    planned[:, 1],
                )
            )
            print(_line(comparisons[-1]), flush=True)
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            "Planning at test time, beside the policy alone",
            shlex.join(["maac", "study", "planning", *arguments]),
            [comparison.row() for comparison in comparisons],
            episodes=chosen.episodes,
            seed=chosen.seed,
            planner=[
                {"bundle": name, "planner": planner or "its own", **settings.model_dump()}
                for name, planner, settings in trials
            ],
            returns=[{"policy": c.policy.tolist(), "mpc": c.planned.tolist()} for c in comparisons],
        )
    return 0


def play(
    name: str,
    settings: PlannerSettings,
    change: tuple[str, float] | None,
    chosen: PlanningArguments,
    use_mpc: bool,
) -> NDArray[np.float64]:
    """Play the episodes of one bundle on one robot: (N, 2), each one's return and share of ticks in doubt."""
    # Fresh processes: threads of ONNX Runtime do not survive a fork.
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        episode = partial(_play, name, settings, change, chosen.fallback, use_mpc)
        seeds = range(chosen.seed, chosen.seed + chosen.episodes)
        return np.array(list(pool.map(episode, seeds)))


def _play(
    name: str,
    settings: PlannerSettings,
    change: tuple[str, float] | None,
    fallback: bool,
    use_mpc: bool,
    seed: int,
) -> tuple[float, float]:
    """Return of one episode, and the share of its ticks at which the model was doubted."""
    conditions = None if change is None else dict([change])
    ((episode, controller),) = evaluate(
        load_bundle(name), 1, seed, use_mpc, settings, conditions, model_fallback=fallback
    )
    return episode.episode_return, controller.statistics.doubted / episode.steps


_HEADING = (
    f"{'bundle':<24}{'planner':<16}{'robot':<16}{'policy':>10}{'with MPC':>10}{'gain':>9}   95 % interval"
    f"{'':<8}{'':<15}{'doubted':>8}  paper"
)


def _line(comparison: Comparison) -> str:
    row = comparison.row()
    text = f"{row['bundle'][-23:]:<24}{row['planner'][:15]:<16}{row['robot']:<16}"
    text += f"{row['policy_return']:>10.1f}"
    text += f"{row['mpc_return']:>10.1f}{row['gain']:>9.1f}"
    text += f"   {row['gain_low']:>8.1f} to {row['gain_high']:>8.1f}  {row['verdict']:<15}"
    text += f"{row['doubted_share']:>8.1%}  "
    if row["paper_policy_return"] is not None:
        text += f"{row['paper_policy_return']:.0f} -> {row['paper_mpc_return']:.0f}"
    return text
