"""Record the policy node's telemetry, tick by tick, while it drives the simulated robot in real time.

``python -m maac_ros.nodes.record BUNDLE --out FILE.npz`` writes ``rows`` (T, columns), ``columns`` and ``modes`` (see
:mod:`maac_ros.nodes.telemetry`), and ``changed`` (T,), 1 where the robot was another one than was learned from: with
``--mass-factor`` or ``--friction-factor`` that is the middle third.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maac_ros.bundle import load_bundle
from maac_ros.errors import MaacError
from maac_ros.nodes.observer import START_SECONDS, Observer
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.observation import Vector


def record(
    bundle: str,
    ticks: int,
    seed: int,
    use_mpc: bool,
    factors: dict[str, float],
    log: Path,
    thread_priority: int = 0,
) -> tuple[Vector, Vector]:
    """Rows (T, columns), and where the robot was changed (T,).

    Args:
        bundle: folder of the bundle, or the name of a shipped one.
        ticks: T.
        seed: of the simulator and the planner.
        use_mpc: plan.
        factors: parameters of ``sim_node`` that the middle third of the ticks has.
        log: file for the output of the nodes.
        thread_priority: of the policy node; 0 for no real-time priority.

    Raises:
        BundleError: when the bundle cannot be used.
        NodesError: when the nodes do not come up or end early.
    """
    task = load_bundle(bundle).task
    patience = 5 * ticks * task.control.period_s + START_SECONDS
    ends = (ticks // 3, 2 * ticks // 3, ticks) if factors else (ticks,)
    parts: list[list[list[float]]] = []
    arguments = {
        "seed": seed,
        "use_mpc": str(use_mpc).lower(),
        "thread_priority": thread_priority,
    }
    with Observer(bundle, task, arguments, log) as observer:
        observer.begin()
        first = len(observer.rows)
        for part, end in enumerate(ends):
            begun = len(observer.rows)
            for name, factor in factors.items():
                observer.set_parameter("sim_node", name, factor if part == 1 else 1.0)
            observer.until_rows(first + end, patience)
            parts.append(observer.rows[begun:])
    changed = np.repeat(np.arange(len(parts)) == 1, [len(part) for part in parts])
    return np.array([row for part in parts for row in part]), changed.astype(float)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m maac_ros.nodes.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", help="folder of the bundle, or the name of a shipped one")
    parser.add_argument("--ticks", type=int, default=1000, help="ticks to record")
    parser.add_argument("--seed", type=int, default=0, help="seed of simulator and planner")
    parser.add_argument("--policy-only", action="store_true", help="do not plan")
    for name in ("mass", "friction"):
        parser.add_argument(
            f"--{name}-factor", type=float, default=1.0, help=f"{name} in the middle third"
        )
    parser.add_argument(
        "--thread-priority", type=int, default=0, help="real-time priority of the policy node"
    )
    parser.add_argument("--log", type=Path, default=Path("nodes.log"), help="output of the nodes")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    chosen = parser.parse_args(arguments)
    if chosen.ticks < 3:
        parser.error(f"--ticks: got {chosen.ticks}; expected at least 3")
    factors = {
        f"{name}_factor": getattr(chosen, f"{name}_factor")
        for name in ("mass", "friction")
        if getattr(chosen, f"{name}_factor") != 1.0
    }
    try:
        rows, changed = record(
            chosen.bundle,
            chosen.ticks,
            chosen.seed,
            not chosen.policy_only,
            factors,
            chosen.log,
            chosen.thread_priority,
        )
    except MaacError as reason:
        print(f"record: {reason}", file=sys.stderr)
        return 2
    np.savez(chosen.out, rows=rows, changed=changed, columns=COLUMNS, modes=MODES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
