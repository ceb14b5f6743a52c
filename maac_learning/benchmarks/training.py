"""``maac bench training``: seconds for 1000 environment steps by phase, and the arithmetic of an update."""

from __future__ import annotations

import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from maac_learning import evidence
from maac_learning.agent import Agent, UpdateReport
from maac_learning.benchmarks.flops import FlopCount, Product, ProductClock
from maac_learning.benchmarks.peers import Mbrl, PeerReport, portable
from maac_learning.capture import updater
from maac_learning.config import TrainConfig, load_train_config, merged, read_overrides
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.replay import Transitions
from maac_learning.trainer import Trainer
from maac_ros.errors import BenchmarkError, ConfigError
from maac_ros.task import Task, load_task
from maac_ros.timing import Summary

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-3, 1e-3
"""How far the losses of an update on a GPU may be from those on the CPU: float32 sums in another order."""

_COMPARED_UPDATES = 5
"""So many, since an agent may do its first updates on a GPU in another way than all later ones."""

_WARM_STEPS = 50
"""Environment steps between the first model fit and what is measured."""

_PLAIN = Product(1, 1024, 1024, 1024)

PHASES = {
    "environment": "environment",
    "fit": "model fit",
    "rollouts": "model rollouts",
    "critic_warmup": "updates: critic warm-up",
    "update": "updates: joint",
    "other": "other",
}
SERVICES = {"evaluation": "evaluation", "checkpoint": "checkpoints"}
"""Phases whose share depends only on how often one wants them."""


@dataclass(frozen=True)
class TrainingArguments:
    """Measure where the time of training goes, and how much of the machine an update uses.

    The real training runs on the real environment, with the preset's own settings. Only what comes before the
    measurement is shortened: the first model fit takes as many steps as a later one, and the updates that catch up
    after it are left out. Evaluation episodes may end early in tasks that terminate, since little is learned here.
    """

    task: str = "half_cheetah"
    """Shipped task name, or path to a task's YAML file."""
    preset: str = "default"
    """Shipped preset name, or path to a preset's YAML file."""
    config: Path | None = None
    """YAML file with settings of your own on top of the preset, as for maac train."""
    env_steps: int = 2000
    """Environment steps to measure; a multiple of model.fit_every."""
    replay: int = 20_000
    """Real transitions, of random actions, there are when the measurement begins."""
    threads: int = 0
    """Threads PyTorch may use on the CPU; 0 leaves its own default."""
    seed: int = 0
    """Seed of every random stream."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train. On cuda, losses are first compared with those on the CPU."""
    peer: Literal["mbrl"] | None = None
    """Also measure mbrl-lib's MBPO, in the same run, between two blocks of this project's steps."""
    peer_python: Path | None = None
    """Python of the environment that has the peer."""
    json: Path | None = None
    """Also write the results to this file."""


@dataclass(frozen=True)
class TrainingReport:
    """Seconds for 1000 environment steps, by phase, and what one update is.

    Attributes:
        seconds: by the keys of :data:`PHASES` and :data:`SERVICES`.
        blocks: seconds of learning in each measured block, for 1000 environment steps.
        update: durations of single joint updates, rollouts not included.
        update_flops: of the matrix products in one joint update.
        products: GFLOP/s of plain matrix products, by description.
        peak_memory_mib: of this process, on the CPU's side.
        peak_device_memory_mib: allocated by PyTorch on the GPU.
    """

    seconds: dict[str, float]
    blocks: list[float]
    update: Summary
    update_flops: int
    products: dict[str, float]
    peak_memory_mib: float
    peak_device_memory_mib: float | None

    @property
    def learning(self) -> float:
        """Seconds without evaluation and checkpoints."""
        return sum(self.seconds[phase] for phase in PHASES)

    @property
    def all_in(self) -> float:
        return sum(self.seconds.values())

    @property
    def update_gflops(self) -> float:
        """GFLOP/s of the median joint update."""
        return self.update_flops / (self.update.p50_ms * 1e6)


def training(arguments: Sequence[str]) -> int:
    """``maac bench training``."""
    chosen = tyro.cli(TrainingArguments, prog="maac bench training", args=list(arguments))
    config = measured_config(chosen)
    task = load_task(config.task)
    peer = None
    if chosen.peer is not None:
        options = {"task": task.name, "replay": chosen.replay}
        peer = Mbrl(chosen.peer_python, "peer_mbrl.py", options, chosen.threads)
    if chosen.device == "cuda":
        differences = compare_with_cpu(config, task)
        print(
            f"losses on cuda and cpu agree over {_COMPARED_UPDATES} updates: largest difference "
            f"{max(differences.values()):.2g} (within {ABSOLUTE_TOLERANCE:g} + "
            f"{RELATIVE_TOLERANCE:g} of the value)",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        report, peer_report = measure(config, Path(folder) / "run", chosen.env_steps, peer)
    print_report(config, chosen, report, peer_report)
    if chosen.json is not None:
        write_json(chosen.json, config, chosen, report, peer_report, arguments)
    return 0


def measured_config(chosen: TrainingArguments) -> TrainConfig:
    """The preset's settings, with a short way to where the measurement begins.

    Raises:
        ConfigError: when an option is out of range, or the device is not there.
    """
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device: got 'cuda'; PyTorch {torch.__version__} finds no CUDA device on this machine"
        )
    overrides = read_overrides(chosen.config)
    usual = load_train_config(chosen.task, chosen.preset, overrides)
    every = usual.model.fit_every
    if chosen.env_steps < 1 or chosen.env_steps % every:
        raise ConfigError(
            f"--env-steps: got {chosen.env_steps}; expected a multiple of model.fit_every ({every}), "
            "so that model fits count in full"
        )
    if chosen.replay < 1:
        raise ConfigError(f"--replay: got {chosen.replay}; expected at least 1")
    shortened = {
        "seed": chosen.seed,
        "threads": chosen.threads,
        "device": chosen.device,
        "random_steps": chosen.replay,
        "env_steps": chosen.replay + min(_WARM_STEPS, every) + chosen.env_steps,
        "model": {"first_fit_steps": usual.model.fit_steps},
        "agent": {"first_updates": 0},
        "evaluation": {"stop_at_return": None},
    }
    return load_train_config(chosen.task, chosen.preset, merged(overrides, shortened))


def measure(
    config: TrainConfig, run_dir: Path, env_steps: int, peer: Mbrl | None = None
) -> tuple[TrainingReport, PeerReport | None]:
    """Train in ``run_dir`` and measure the last ``env_steps`` steps.

    A block of steps goes from one model fit to the next. Plain matrix products are measured before, between and
    after the blocks, and the peer runs after half of the blocks, so that all see the same machine.

    Args:
        config: see :func:`measured_config`.
        run_dir: for the run.
        env_steps: a multiple of ``config.model.fit_every``.
        peer: to be measured too.
    """
    trainer = Trainer(config, run_dir)
    on_gpu = trainer.device.type == "cuda"
    synchronize: Callable[[], object] = torch.cuda.synchronize if on_gpu else lambda: None
    trainer.phases.synchronize = synchronize
    products = [_PLAIN, *update_products(config)]
    product_clock = ProductClock(products, trainer.device, synchronize)
    print(f"filling the replay with {config.random_steps} steps, first model fit", flush=True)
    trainer.advance(config.env_steps - env_steps)
    trainer.phases.clear()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(trainer.device)

    def now() -> float:
        """A clock that stands still in evaluations and checkpoints."""
        synchronize()
        services = (trainer.phase_seconds.get(phase, 0.0) for phase in SERVICES)
        return time.perf_counter() - sum(services)

    block, blocks, peer_report = config.model.fit_every, [], None
    count = env_steps // block
    product_clock.measure()
    for number in range(1, count + 1):
        print(f"block {number} of {count}: {block} environment steps", flush=True)
        began = now()
        trainer.advance(block)
        blocks.append(now() - began)
        product_clock.measure()
        if peer is not None and number == (count + 1) // 2:
            print("peer: minutes, its first model fit included", flush=True)
            peer_report = PeerReport.of(peer.measure())
    seconds = {phase: trainer.phase_seconds.get(phase, 0.0) for phase in (*PHASES, *SERVICES)}
    seconds["other"] = sum(blocks) - sum(seconds[phase] for phase in PHASES)
    seconds = {phase: value * 1000 / env_steps for phase, value in seconds.items()}
    # How many of these fall into the blocks is chance: each counts as often as the settings say.
    with trainer.phases("evaluation"):
        trainer.evaluate()
    trainer.save_checkpoint()
    for phase, every in (
        ("evaluation", config.evaluation.every),
        ("checkpoint", config.checkpoint_every),
    ):
        mean = trainer.phase_seconds[phase] / trainer.phases.recorders[phase].count
        seconds[phase] = mean * 1000 / every
    report = TrainingReport(
        seconds=seconds,
        blocks=[value * 1000 / block for value in blocks],
        update=trainer.phases.recorders["update"].summary(),
        update_flops=update_flops(config, trainer.task),
        products={str(p): product_clock.gflops(p) for p in products},
        peak_memory_mib=_peak_memory_mib(),
        peak_device_memory_mib=(
            torch.cuda.max_memory_allocated(trainer.device) / 2**20 if on_gpu else None
        ),
    )
    return report, peer_report


def update_products(config: TrainConfig) -> list[Product]:
    """The largest products of an update, in one layer of the dynamics ensemble and one of the critics."""
    members, critics = config.model.members, config.agent.critics
    rows = -(-config.agent.batch_size // members)
    model, critic = config.model.hidden, config.agent.hidden
    return [
        Product(members, rows, model[-2 % len(model)], model[-1]),
        Product(critics, rows * members, critic[-2 % len(critic)], critic[-1]),
    ]


def _learner(
    config: TrainConfig, task: Task, device: torch.device
) -> tuple[Agent, DynamicsEnsemble, Transitions]:
    """Agent, model and B transitions of noise for an update."""
    torch.manual_seed(config.seed)
    sizes = len(task.observation_entries()), len(task.action_entries())
    agent = Agent(*sizes, config.agent, device)
    model = DynamicsEnsemble(task, *sizes, config.model).to(device)
    rows = -(-config.agent.batch_size // model.members) * model.members
    state, action, following = (torch.randn(rows, sizes[i]) for i in (0, 1, 0))
    batch = Transitions(state, action.clamp(-1, 1), torch.randn(rows), following, torch.zeros(rows))
    return agent, model, Transitions(*(column.to(device) for column in batch))


def update_flops(config: TrainConfig, task: Task) -> int:
    """Floating-point operations of the matrix products in one joint update, counted on the CPU."""
    agent, model, batch = _learner(config, task, torch.device("cpu"))
    with FlopCount() as count:
        agent.update(model, batch, torch.Generator().manual_seed(config.seed))
    return count.total


def compare_with_cpu(config: TrainConfig, task: Task) -> dict[str, float]:
    """Do the same updates on ``config.device`` and on the CPU. Returns the largest difference of each loss.

    Raises:
        BenchmarkError: when a loss differs by more than the tolerances.
    """
    cpu_agent, cpu_model, cpu_batch = _learner(config, task, torch.device("cpu"))
    agent, model, batch = _learner(config, task, torch.device(config.device))
    agent.load(cpu_agent.state())
    model.load_state_dict(cpu_model.state_dict())
    update = updater(agent, model)
    streams = [torch.Generator().manual_seed(config.seed) for _ in range(2)]
    differences = dict.fromkeys(UpdateReport._fields, 0.0)
    for number in range(1, _COMPARED_UPDATES + 1):
        expected = cpu_agent.update(cpu_model, cpu_batch, streams[0])
        got = update(batch, streams[1], True)
        for name, difference in loss_differences(number, expected, got).items():
            differences[name] = max(differences[name], difference)
    return differences


def loss_differences(number: int, expected: UpdateReport, got: UpdateReport) -> dict[str, float]:
    """Absolute difference of each loss in update ``number``.

    Raises:
        BenchmarkError: when one is not within the tolerances.
    """
    differences = {}
    for name in UpdateReport._fields:
        right, value = float(getattr(expected, name)), float(getattr(got, name))
        differences[name] = abs(value - right)
        # Written so that NaN is refused.
        if not differences[name] <= ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * abs(right):
            raise BenchmarkError(
                f"update {number}: {name}: got {value:.6g} on the device and {right:.6g} on the CPU; expected "
                f"a difference of at most {ABSOLUTE_TOLERANCE:g} + {RELATIVE_TOLERANCE:g} of the value"
            )
    return differences


def print_report(
    config: TrainConfig,
    chosen: TrainingArguments,
    report: TrainingReport,
    peer: PeerReport | None,
) -> None:
    """The table."""
    theirs = _for_1000_steps(peer) if peer else {}
    print(
        f"\n{config.task}, preset {config.preset}, {chosen.device}, {torch.get_num_threads()} threads, "
        f"{chosen.env_steps} environment steps after {config.random_steps}"
    )
    heading = f"{'seconds for 1000 environment steps':<36}{'maac_ros':>10}"
    print(heading + (f"{peer.name:>16}" if peer else ""))

    def line(label: str, ours: float, peers: float | None) -> None:
        more = "" if not peer else f"{'–':>16}" if peers is None else f"{peers:>16.2f}"
        print(f"{label:<36}{ours:>10.2f}{more}")

    for phase, label in PHASES.items():
        line(f"  {label}", report.seconds[phase], theirs.get(phase))
    learning = _learning_seconds(peer) if peer else None
    line("learning", report.learning, learning)
    for phase, label in SERVICES.items():
        line(f"  {label}", report.seconds[phase], None)
    line("all in", report.all_in, None)
    print(f"learning, block by block: {', '.join(f'{b:.2f}' for b in report.blocks)}")
    if peer and learning:
        print(
            f"learning takes {learning / report.learning:.2f} times as long with {peer.name} "
            f"({peer.updates / peer.env_steps:g} updates a step, {peer.env_steps} steps measured, "
            f"update p50 {peer.update_p50_ms:.2f} ms, p99 {peer.update_p99_ms:.2f} ms)"
        )
    print(
        f"\nupdate: p50 {report.update.p50_ms:.2f} ms, p99 {report.update.p99_ms:.2f} ms over "
        f"{report.update.count}; {report.update_flops / 1e9:.3f} GFLOP in matrix products, "
        f"{report.update_gflops:.1f} GFLOP/s"
    )
    for text, gflops in report.products.items():
        print(
            f"  {text:<30}{gflops:>10.1f} GFLOP/s; the update reaches {report.update_gflops / gflops:.1%} of it"
        )
    device = report.peak_device_memory_mib
    print(
        f"peak memory {report.peak_memory_mib:.0f} MiB"
        + (f", {device:.0f} MiB on the GPU" if device is not None else "")
    )


def write_json(
    path: Path,
    config: TrainConfig,
    chosen: TrainingArguments,
    report: TrainingReport,
    peer: PeerReport | None,
    arguments: Sequence[str],
) -> None:
    """The same as evidence."""
    theirs = _for_1000_steps(peer) if peer else {}
    ours = {label: report.seconds[phase] for phase, label in (PHASES | SERVICES).items()}
    ours |= {"learning": report.learning, "all in": report.all_in}
    rows: list[dict[str, Any]] = [
        {"phase": label, "seconds_per_1000_steps": value} for label, value in ours.items()
    ]
    if peer:
        seconds = {label: theirs.get(phase) for phase, label in PHASES.items()}
        seconds["learning"] = _learning_seconds(peer)
        for row in rows:
            row["peer_seconds_per_1000_steps"] = seconds.get(row["phase"])
    evidence.write(
        path,
        "Seconds for 1000 environment steps of training, by phase",
        shlex.join(["maac", "bench", "training", *portable(arguments)]),
        rows,
        settings=config.model_dump(mode="json"),
        torch=torch.__version__,
        device=chosen.device,
        threads=torch.get_num_threads(),
        measured_env_steps=chosen.env_steps,
        block_seconds_per_1000_steps=report.blocks,
        update=asdict(report.update),
        update_gflop=report.update_flops / 1e9,
        update_gflops=report.update_gflops,
        product_gflops=report.products,
        peak_memory_mib=report.peak_memory_mib,
        peak_device_memory_mib=report.peak_device_memory_mib,
        peer=asdict(peer) if peer else None,
    )


def _for_1000_steps(peer: PeerReport) -> dict[str, float]:
    seconds = peer.seconds | {"other": peer.elapsed - sum(peer.seconds.values())}
    return {phase: value * 1000 / peer.env_steps for phase, value in seconds.items()}


def _learning_seconds(peer: PeerReport) -> float:
    """A peer's seconds for 1000 environment steps, without evaluation and checkpoints."""
    seconds = _for_1000_steps(peer)
    return sum(seconds.get(phase, 0.0) for phase in PHASES)


def _peak_memory_mib() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10  # bytes there, KiB elsewhere
