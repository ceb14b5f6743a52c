"""``maac bench planner``: how long a plan takes, and how much of the machine planning uses."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import torch
import tyro

from maac_learning import evidence
from maac_learning.benchmarks.bundle_networks import (
    horizon_graph,
    in_torch,
    layers,
    read_graph,
    row_flops,
)
from maac_learning.benchmarks.flops import Product, ProductClock
from maac_learning.benchmarks.peers import Mbrl, portable
from maac_ros import schema
from maac_ros.bundle import GOLDEN, Bundle, load_bundle
from maac_ros.errors import ConfigError
from maac_ros.inference import Array, session_options
from maac_ros.planner import CemPlanner
from maac_ros.rollouts import WHOLE_ROWS, ModelRollouts, PlanGraphs, Share
from maac_ros.task import PlannerSettings
from maac_ros.timing import Recorder, Summary

_PLAIN = Product(1, 1024, 1024, 1024)
_WARM_UPS = 5


@dataclass(frozen=True)
class PlannerArguments:
    """Time plans over a grid of candidates, horizons and iterations, beside other ways to compute the same.

    The budget is left out: every plan does all of its iterations, closed by V(s) where the bundle has it. Plans start
    from the bundle's golden observations in turn, through its small networks and through its own. Beside the planner
    stand the same planner over the same networks in PyTorch, and, with --peer mbrl, mbrl-lib's CEM over an ensemble of
    the size of the bundle's own; and, for one model rollout of all candidates, one call a step beside one graph for the
    whole horizon.
    """

    bundle: str = "half_cheetah"
    """Shipped bundle name, or path to a bundle."""
    candidates: tuple[int, ...] = (128, 256, 512)
    """Candidates an iteration draws."""
    horizons: tuple[int, ...] = (5,)
    """Model steps before the terminal Q-function."""
    iterations: tuple[int, ...] = (3, 6)
    """CEM iterations of a plan."""
    models: tuple[Literal["distilled", "ensemble"], ...] = ("distilled", "ensemble")
    """What takes candidates from state to state; small networks only where the bundle has any."""
    plans: int = 300
    """Plans timed for each cell of the grid."""
    peer_plans: int = 30
    """Plans timed for each cell of the grid with PyTorch, and with the peer."""
    threads: int = 0
    """Threads for the planner, the whole graph and PyTorch; 0 for as many as PyTorch would take."""
    peer: Literal["mbrl"] | None = None
    """Also measure mbrl-lib's CEM planner, in the same run."""
    peer_python: Path | None = None
    """Python of the environment that has the peer."""
    json: Path | None = None
    """Also write the results to this file."""


@dataclass(frozen=True)
class Cell:
    """One cell of the grid.

    Attributes:
        settings: of the planner.
        plan: durations of plans.
        flops: of the matrix products of one plan.
        plain_gflops: of a plain matrix product, measured just before and after.
        rollout: durations of one model rollout of all candidates, a call a step.
        whole: the same with one graph for the whole horizon.
        torch: durations of the same plans in PyTorch.
        peer: what the peer reports.
    """

    settings: PlannerSettings
    plan: Summary
    flops: int
    plain_gflops: float
    rollout: Summary
    whole: Summary
    torch: Summary
    peer: dict[str, Any] | None

    @property
    def gflops(self) -> float:
        """GFLOP/s of the median plan."""
        return self.flops / (self.plan.p50_ms * 1e6)

    def row(self) -> dict[str, Any]:
        """A flat row for the table and the file."""
        return {
            "model": self.settings.model,
            "candidates": self.settings.candidates,
            "horizon": self.settings.horizon,
            "iterations": self.settings.iterations,
            "p50_ms": self.plan.p50_ms,
            "p99_ms": self.plan.p99_ms,
            "p999_ms": self.plan.p999_ms,
            "max_ms": self.plan.max_ms,
            "gflops": self.gflops,
            "share_of_product": self.gflops / self.plain_gflops,
            "step_calls_p50_ms": self.rollout.p50_ms,
            "one_graph_p50_ms": self.whole.p50_ms,
            "torch_p50_ms": self.torch.p50_ms,
            "peer_p50_ms": self.peer and self.peer["p50_ms"],
        }


def planner(arguments: Sequence[str]) -> int:
    """``maac bench planner``."""
    chosen = tyro.cli(PlannerArguments, prog="maac bench planner", args=list(arguments))
    for name in ("plans", "peer_plans"):
        if getattr(chosen, name) < 1:
            raise ConfigError(
                f"--{name.replace('_', '-')}: got {getattr(chosen, name)}; expected at least 1"
            )
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    threads = torch.get_num_threads()
    bundle = load_bundle(chosen.bundle)
    grid = [
        schema.parse(
            {
                "model": model,
                "candidates": candidates,
                "horizon": horizon,
                "iterations": iterations,
                "terminal_value": "state_value",
            },
            PlannerSettings,
            "grid",
            ConfigError,
        )
        for model, candidates, horizon, iterations in product(
            chosen.models, chosen.candidates, chosen.horizons, chosen.iterations
        )
        if model == "ensemble" or bundle.distilled_step is not None
    ]
    if not grid:
        raise ConfigError(
            f"--models: got {' '.join(chosen.models)}; '{chosen.bundle}' has no small networks, only its ensemble"
        )
    peers = [_peer(chosen, bundle, settings, threads) for settings in grid]
    print(f"{bundle.task.name}, {threads} threads, {chosen.plans} plans a cell", flush=True)
    print(_HEADING, flush=True)
    cells = []
    for settings, peer in zip(grid, peers, strict=True):
        cells.append(measure(bundle, settings, threads, chosen.plans, chosen.peer_plans, peer))
        print(_line(cells[-1]), flush=True)
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            f"Duration of plans, {bundle.task.name}",
            shlex.join(["maac", "bench", "planner", *portable(arguments)]),
            [cell.row() for cell in cells],
            torch=torch.__version__,
            onnxruntime=ort.__version__,
            threads=threads,
            bundle=bundle.origin(),
            cells=[asdict(cell) | {"settings": cell.settings.model_dump()} for cell in cells],
        )
    return 0


def measure(
    bundle: Bundle,
    settings: PlannerSettings,
    threads: int,
    plans: int,
    peer_plans: int,
    peer: Mbrl | None = None,
) -> Cell:
    """Measure one cell of the grid: the plain product, the planner, what stands beside it, and the product again."""
    clock = ProductClock([_PLAIN], torch.device("cpu"), lambda: None)
    clock.measure()
    observations = _observations(bundle)
    plan = _time(_planning(bundle, settings, observations, threads), plans)
    clock.measure()
    rollout, whole = _rollouts(bundle, settings, observations[0], threads, plans)
    return Cell(
        settings=settings,
        plan=plan,
        flops=plan_flops(bundle, settings),
        plain_gflops=clock.gflops(_PLAIN),
        rollout=rollout,
        whole=whole,
        # PyTorch has its own threads.
        torch=_time(_planning(in_torch(bundle), settings, observations, 1), peer_plans),
        peer=peer.measure() if peer else None,
    )


def plan_flops(bundle: Bundle, settings: PlannerSettings) -> int:
    """Floating-point operations of the matrix products of one plan with all its iterations."""
    rollouts = ModelRollouts(bundle, settings, np.random.default_rng(0))
    graphs = PlanGraphs.of(bundle, settings)
    rows = rollouts.candidates * settings.particles
    # Policy and state value are asked about whole registers of rows.
    asked = -(-rows // WHOLE_ROWS) * WHOLE_ROWS

    def row(name: str) -> int:
        return row_flops(read_graph(bundle, name))

    # A row follows one member at a time.
    step = rows * row(graphs.step) // bundle.manifest.members
    if graphs.state_value is not None:
        close = asked * row(graphs.state_value)
    else:
        close = asked * row("policy") + rows * row("value")
    # The first iteration asks the policy at every step, at the first one about a single state.
    once = WHOLE_ROWS * row("policy") + (settings.horizon - 1) * asked * row(graphs.policy)
    return once + settings.iterations * (settings.horizon * step + close)


def _planning(
    bundle: Bundle, settings: PlannerSettings, observations: Array, threads: int
) -> Callable[[int], object]:
    planner = CemPlanner(bundle, settings, threads=threads)
    return lambda number: planner.plan(observations[number % len(observations)])


def _rollouts(
    bundle: Bundle, settings: PlannerSettings, observation: Array, threads: int, count: int
) -> tuple[Summary, Summary]:
    """One rollout of all candidates: a bound call a step, and one graph."""
    random = np.random.default_rng(0)
    fixed = settings.model_copy(update={"member_draw": "trajectory"})
    rollouts = ModelRollouts(bundle, fixed, random, threads)
    members = bundle.manifest.members
    rows = rollouts.candidates * settings.particles // members
    actions = random.uniform(
        -1, 1, (settings.horizon, rollouts.candidates, len(bundle.manifest.action))
    ).astype(np.float32)
    session = ort.InferenceSession(
        horizon_graph(bundle, PlanGraphs.of(bundle, settings).step),
        session_options(threads),
        providers=["CPUExecutionProvider"],
    )
    inputs = {
        "start": np.tile(observation, (members, rows, 1)),
        "actions": np.tile(actions, (1, settings.particles, 1)).reshape(
            settings.horizon, members, rows, -1
        ),
    }

    def by_step(share: Share) -> bool:
        share.begin(observation)
        for each in actions[:, share.candidates]:
            share.advance(each)
        return True

    return _time(lambda _: rollouts.run(by_step), count), _time(
        lambda _: session.run(None, inputs), count
    )


def _time(call: Callable[[int], object], count: int) -> Summary:
    recorder = Recorder(count)
    for number in range(_WARM_UPS + count):
        began = time.perf_counter()
        call(number)
        if number >= _WARM_UPS:
            recorder.add(time.perf_counter() - began)
    return recorder.summary()


def _observations(bundle: Bundle) -> Array:
    with np.load(bundle.path / GOLDEN, allow_pickle=False) as golden:
        observations: Array = golden["policy.observation"]
    return observations


def _peer(
    chosen: PlannerArguments, bundle: Bundle, settings: PlannerSettings, threads: int
) -> Mbrl | None:
    if chosen.peer is None:
        return None
    members = bundle.manifest.members
    widths = [weight.shape[-1] for weight, _ in layers(read_graph(bundle, "step"))]
    options = {
        "observations": len(bundle.manifest.observation),
        "actions": len(bundle.manifest.action),
        "members": members,
        "layers": len(widths) // members - 1,
        "width": widths[0],
        "horizon": settings.horizon,
        # The library wants as many as fill the members.
        "candidates": settings.candidates // members * members,
        "elites": max(2, round(settings.elite_fraction * settings.candidates)),
        "iterations": settings.iterations,
        "plans": chosen.peer_plans,
    }
    return Mbrl(chosen.peer_python, "peer_mbrl_planner.py", options, threads)


_HEADING = (
    "model        cand.  H  it.     p50     p99   p99.9     max ms  GFLOP/s  of A@B |  rollout: by step  one graph |"
    "  PyTorch          mbrl"
)


def _line(cell: Cell) -> str:
    plan, settings = cell.plan, cell.settings
    text = (
        f"{settings.model:<11}{settings.candidates:>7}{settings.horizon:>3}{settings.iterations:>5}"
    )
    text += f"{plan.p50_ms:>8.2f}{plan.p99_ms:>8.2f}{plan.p999_ms:>8.2f}{plan.max_ms:>8.2f}"
    text += f"{cell.gflops:>12.1f}{cell.gflops / cell.plain_gflops:>8.1%}"
    text += f" |{cell.rollout.p50_ms:>15.2f} ms{cell.whole.p50_ms:>8.2f} ms |"
    text += f"{cell.torch.p50_ms:>6.1f} ({cell.torch.p50_ms / plan.p50_ms:.2f}x)"
    if cell.peer:
        text += f"{cell.peer['p50_ms']:>7.1f} ({cell.peer['p50_ms'] / plan.p50_ms:.2f}x)"
    return text
