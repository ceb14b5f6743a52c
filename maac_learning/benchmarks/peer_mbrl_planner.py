"""Time mbrl-lib's CEM planner. A script of its own: it runs under the Python of an environment that has mbrl-lib.

It plans with the library's optimiser, model environment and Gaussian ensemble, of the sizes asked for and with random
weights: how long a plan takes does not depend on them. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium.spaces import Box
from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
from mbrl.planning import CEMOptimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    for name in ("observations", "actions", "members", "layers", "width", "horizon"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("candidates", "iterations", "elites", "plans"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--check", action="store_true", help="only see whether it could run")
    chosen = parser.parse_args()
    if chosen.check:
        return
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    device = torch.device("cpu")
    network = GaussianMLP(
        chosen.observations + chosen.actions,
        chosen.observations + 1,
        device,
        num_layers=chosen.layers,
        ensemble_size=chosen.members,
        hid_size=chosen.width,
        propagation_method="random_model",
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = OneDTransitionRewardModel(network, normalize=True, learned_rewards=True)
    spaces = SimpleNamespace(
        observation_space=Box(-np.inf, np.inf, (chosen.observations,)),
        action_space=Box(-1.0, 1.0, (chosen.actions,)),
    )

    def never(_: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        return torch.zeros((len(following), 1), dtype=torch.bool)

    generator = torch.Generator().manual_seed(0)
    world = ModelEnv(spaces, model, never, generator=generator)
    bound = np.ones((chosen.horizon, chosen.actions))
    optimizer = CEMOptimizer(
        chosen.iterations,
        chosen.elites / chosen.candidates,
        chosen.candidates,
        (-bound).tolist(),
        bound.tolist(),
        alpha=0.1,
        device=device,
    )
    start = torch.zeros((chosen.horizon, chosen.actions))
    state = np.zeros(chosen.observations, np.float32)

    def returns(sequences: torch.Tensor) -> torch.Tensor:
        return world.evaluate_action_sequences(sequences, state, num_particles=1)

    durations = []
    for plan in range(chosen.plans + 3):  # the first are not counted
        began = time.perf_counter()
        optimizer.optimize(returns, start)
        if plan >= 3:
            durations.append(time.perf_counter() - began)
    p50, p99, p999, longest = np.percentile(durations, (50, 99, 99.9, 100)) * 1e3
    report = {
        "name": "mbrl-lib CEM",
        "versions": {name: version(name) for name in ("mbrl", "torch")},
        "threads": torch.get_num_threads(),
        "count": len(durations),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "p999_ms": float(p999),
        "max_ms": float(longest),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
