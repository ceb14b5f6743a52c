"""``maac demo``: from random weights to a robot loop in a few minutes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from maac_learning.commands import default_run_dir, train_with_bar
from maac_learning.config import load_train_config
from maac_learning.trainer import Trainer


@dataclass(frozen=True)
class DemoArguments:
    """Train a small task, export the bundle, and run it through the ROS 2 nodes with and without planning."""

    task: str = "inverted_pendulum"
    """Task to learn; others than the default take much longer."""
    seed: int = 0
    """Seed of training and simulation."""
    threads: int = 1
    """Threads for training: the networks are too small to gain from more."""
    run_dir: Path | None = None
    """Folder for the run; by default runs/<task>/<preset>-seed<seed>-<time>."""


def demo(arguments: Sequence[str]) -> int:
    """Run the demo. Returns 0 when the policy was learned and the nodes ran it."""
    chosen = tyro.cli(DemoArguments, prog="maac demo", args=list(arguments))
    started = time.monotonic()
    settings = load_train_config(
        chosen.task, overrides={"seed": chosen.seed, "threads": chosen.threads}
    )
    run_dir = chosen.run_dir or default_run_dir(settings)
    trainer = Trainer(settings, run_dir)
    print(f"1. Learning {trainer.task.name}: {trainer.task.description}")
    if train_with_bar(trainer):
        print(f"stopped; go on with: maac train --resume {run_dir}")
        return 130
    last = trainer.rows[-1]
    print(
        f"   return {last.eval_return:.0f} after {last.env_steps} environment steps, "
        f"{last.seconds:.0f} s"
    )
    bundle = trainer.export_bundle().path
    print(f"2. Exported {bundle}")
    print(
        "3. Running it: simulator and policy node as two processes, use_mpc switched by parameter"
    )
    print(flush=True)
    command = [sys.executable, "-m", "maac_ros.nodes.trial", str(bundle)]
    options = {
        "--seed": chosen.seed,
        "--log": run_dir / "nodes.log",
        "--json": run_dir / "demo.json",
    }
    done = subprocess.run(
        [*command, *(str(part) for pair in options.items() for part in pair)], check=False
    )
    if done.returncode:
        return done.returncode
    wrong = (
        ""
        if trainer.solved or settings.evaluation.stop_at_return is None
        else (f"not solved: the last return was {last.eval_return:.0f}")
    )
    print(f"\n{time.monotonic() - started:.0f} s in all. In {run_dir}:")
    print("   curve.png    the learning curve        tensorboard/  its events")
    print("   bundle/      what runs on the robot    nodes.log     what the nodes said")
    if wrong:
        print(wrong, file=sys.stderr)
    return 1 if wrong else 0
