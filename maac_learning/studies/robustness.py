"""``maac study robustness``: what is left of a policy's return when the robot is another one than was learned from."""

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
from maac_ros.bundle import load_bundle
from maac_ros.errors import ConfigError
from maac_ros.evaluation import evaluate

Change = dict[str, Any]

CHANGES: tuple[tuple[str, Change], ...] = (
    ("as learned", {}),
    *((f"mass x {x:g}", {"mass": x}) for x in (0.8, 0.9, 1.1, 1.2)),
    *((f"friction x {x:g}", {"friction": x}) for x in (0.5, 0.8, 1.2, 1.5)),
    *((f"force x {x:g}", {"gain": x}) for x in (0.8, 0.9, 1.1, 1.2)),
    *((f"{n} periods late", {"delay_steps": n}) for n in (1, 2, 3)),
    *(
        (
            f"noise {x:g} rad or m, {10 * x:g} a second",
            {"noise": {"joint_position": x, "joint_velocity": 10 * x}},
        )
        for x in (0.002, 0.005, 0.01, 0.02)
    ),
)
"""What is tried, one thing at a time."""


@dataclass(frozen=True)
class RobustnessArguments:
    """Play the same episodes on robots that differ from the one that was learned from: masses, frictions, forces,
    commands that act late, noise on joint positions and velocities; one thing at a time.
    """

    bundles: tuple[str, ...] = ("reaching_arm",)
    """Shipped bundle names, or paths to bundles."""
    episodes: int = 20
    """Episodes for each robot."""
    seed: int = 1000
    """Of the first episode; the others follow."""
    mpc: bool = False
    """With planning, without a time budget, where the model describes the robot."""
    jobs: int = 2
    """Episodes played side by side."""
    json: Path | None = None
    """Also write the results to this file."""


def robustness(arguments: Sequence[str]) -> int:
    """``maac study robustness``."""
    chosen = tyro.cli(RobustnessArguments, prog="maac study robustness", args=list(arguments))
    for name in ("episodes", "jobs"):
        if getattr(chosen, name) < 1:
            raise ConfigError(f"--{name}: got {getattr(chosen, name)}; expected at least 1")
    for bundle in chosen.bundles:
        load_bundle(bundle)  # a clear error, before anything is played
    rows, returns = [], []
    print(f"{'bundle':<20}{'robot':<38}{'return':>10}{'± std':>9}{'of own':>9}", flush=True)
    for bundle in chosen.bundles:
        own = float("nan")
        for robot, change in CHANGES:
            played = play(bundle, change, chosen)
            mean = float(played.mean())
            own = mean if not change else own
            row = {
                "bundle": bundle,
                "robot": robot,
                "return": mean,
                "return_std": float(played.std()),
                "return_least": float(played.min()),
                "share_of_own": mean / own if own > 0 else None,
            }
            rows.append(row)
            returns.append(played.tolist())
            share = f"{row['share_of_own']:>9.1%}" if own > 0 else f"{'–':>9}"
            print(
                f"{bundle[-19:]:<20}{robot:<38}{mean:>10.1f}{played.std():>9.1f}{share}", flush=True
            )
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            "Returns on robots other than the one that was learned from",
            shlex.join(["maac", "study", "robustness", *arguments]),
            rows,
            episodes=chosen.episodes,
            seed=chosen.seed,
            mpc=chosen.mpc,
            returns=returns,
        )
    return 0


def play(bundle: str, change: Change, chosen: RobustnessArguments) -> NDArray[np.float64]:
    """Returns (N,) of the episodes on a robot with ``change``, see :class:`maac_ros.conditions.Conditions`."""
    # Fresh processes: threads of ONNX Runtime do not survive a fork.
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        shares = np.array_split(range(chosen.seed, chosen.seed + chosen.episodes), chosen.jobs)
        parts = pool.map(partial(_play, bundle, change, chosen.mpc), shares)
        return np.concatenate([np.array(part) for part in parts])


def _play(bundle: str, change: Change, mpc: bool, seeds: NDArray[np.int64]) -> list[float]:
    if not len(seeds):
        return []
    episodes = evaluate(load_bundle(bundle), len(seeds), int(seeds[0]), mpc, conditions=change)
    return [episode.episode_return for episode, _ in episodes]
