"""``maac train``, ``maac evaluate`` and ``maac export``."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import tyro

from maac_learning.config import (
    TrainConfig,
    load_train_config,
    planner_settings,
    read_overrides,
)
from maac_learning.progress import Bar
from maac_learning.trainer import CONFIG_FILE, Trainer, load_run
from maac_learning.video import Video, check_video
from maac_ros.bundle import Bundle, load_bundle
from maac_ros.conditions import Conditions
from maac_ros.controller import Controller, ControllerSettings
from maac_ros.errors import ConfigError
from maac_ros.evaluation import Episode, run_episode
from maac_ros.evaluation import evaluate as evaluate_bundle
from maac_ros.inference import CPU_PROVIDERS
from maac_ros.provenance import provenance
from maac_ros.simulation import TaskEnv


@dataclass(frozen=True)
class TrainArguments:
    """Learn a task. Settings come from the preset, then from --config, then from the options below."""

    settings: Annotated[TrainConfig, tyro.conf.arg(name="")]
    config: Path | None = None
    """YAML file with settings of your own; the same names as the options, nested."""
    run_dir: Path | None = None
    """Folder for the run; by default runs/<task>/<preset>-seed<seed>-<time>."""
    resume: Path | None = None
    """Go on with the run in this folder, with its own settings; excludes every other option but --no-export."""
    export: bool = True
    """Export a bundle into the run's folder at the end."""


def train(arguments: Sequence[str]) -> int:
    """``maac train``. Returns 130 when it was stopped by a signal, with a checkpoint written."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("task", "preset", "config"):
        first.add_argument(f"--{name}")
    early, _ = first.parse_known_args(arguments)
    if not any(argument.partition("=")[0] == "--resume" for argument in arguments):
        chosen = _parse_train(arguments, early.task, early.preset, early.config)
        settings = chosen.settings
        run_dir = chosen.run_dir or default_run_dir(settings)
        trainer = Trainer(settings, run_dir)
        export_at_end = chosen.export
    else:
        only = argparse.ArgumentParser(prog="maac train", allow_abbrev=False)
        only.add_argument("--resume", type=Path, required=True, metavar="RUN")
        only.add_argument("--export", action=argparse.BooleanOptionalAction, default=True)
        resumed = only.parse_args(arguments)
        run_dir, export_at_end = resumed.resume, resumed.export
        trainer = load_run(run_dir)
    print(f"run folder: {run_dir}")
    stopped = train_with_bar(trainer)
    if stopped:
        print(f"stopped at step {trainer.env_steps}; go on with: maac train --resume {run_dir}")
        return 130
    if export_at_end:
        _tell_export(trainer.export_bundle())
    return 0


def _parse_train(
    arguments: Sequence[str], task: str | None, preset: str | None, config: str | None
) -> TrainArguments:
    """Two passes: task, preset and --config decide the defaults that the other options change."""
    overrides = read_overrides(Path(config) if config is not None else None)
    defaults = TrainConfig()
    settings = load_train_config(
        task or overrides.get("task", defaults.task),
        preset or overrides.get("preset", defaults.preset),
        overrides,
    )
    return tyro.cli(
        TrainArguments,
        prog="maac train",
        args=list(arguments),
        default=TrainArguments(settings=settings),
    )


def train_with_bar(trainer: Trainer) -> bool:
    """Train with a progress bar; SIGINT and SIGTERM stop it cleanly. Returns whether it was stopped."""
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        if stopped:  # asked twice: do not wait for the checkpoint
            raise KeyboardInterrupt
        stopped = True
        trainer.request_stop()

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Bar(trainer.config.env_steps, trainer.env_steps) as bar:
            trainer.train(bar.show)
            if trainer.solved:
                bar.finish_early()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return stopped


def default_run_dir(settings: TrainConfig) -> Path:
    """A new folder below ``runs/``."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    task, preset = Path(settings.task).stem, Path(settings.preset).stem
    return Path("runs") / task / f"{preset}-seed{settings.seed}-{stamp}"


@dataclass(frozen=True)
class EvaluateArguments:
    """Run a bundle in its task's simulation."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """Folder of the bundle."""
    episodes: int = 10
    """Episodes a mode."""
    seed: int = 0
    """Seed of the first episode; the next one takes the next number."""
    mpc: bool = False
    """Evaluate policy and MPC, not the policy alone."""
    robot: Conditions = field(default_factory=Conditions)
    """Another robot than the task's own, acting late, or seen badly."""
    through_ros: bool = False
    """Also let the policy play through the real nodes, in lockstep, and the same episodes without them."""
    providers: tuple[str, ...] = field(default=CPU_PROVIDERS)
    """ONNX Runtime execution providers, best first."""
    json: Path | None = None
    """Also write the results to this file."""
    video: Path | None = None
    """Also film the first episodes into this file (.mp4); with --mpc, one file a mode."""
    video_episodes: int = 1
    """Episodes to film, a mode."""


def evaluate(arguments: Sequence[str]) -> int:
    """``maac evaluate``."""
    chosen = tyro.cli(EvaluateArguments, prog="maac evaluate", args=list(arguments))
    if chosen.episodes < 1:
        raise ConfigError(f"--episodes: got {chosen.episodes}; expected at least 1")
    if chosen.video_episodes < 1:
        raise ConfigError(f"--video-episodes: got {chosen.video_episodes}; expected at least 1")
    if chosen.video is not None:
        check_video(chosen.video)
    bundle = load_bundle(chosen.bundle, chosen.providers)
    results: dict[str, Any] = {}
    changes = chosen.robot.model_dump(exclude_defaults=True)
    films: list[Path] = []
    print(
        f"{'mode':<8}{'return':>10}{'± std':>9}{'steps':>8}{'inference p99':>15}{'planning p99':>14}"
    )
    for mode in ("policy", "mpc") if chosen.mpc else ("policy",):
        episodes: list[Episode] = []
        with ExitStack() as stack:
            film = None
            if chosen.video is not None:
                path = chosen.video.with_stem(f"{chosen.video.stem}-{mode}")
                films.append(path if chosen.mpc else chosen.video)
                film = stack.enter_context(Video(films[-1], bundle.task.control.period_s)).add
            for episode, played_by in evaluate_bundle(
                bundle,
                chosen.episodes,
                chosen.seed,
                mode == "mpc",
                conditions=changes,
                film=film,
                filmed=chosen.video_episodes,
            ):
                episodes.append(episode)
                statistics = played_by.statistics
        returns = np.array([e.episode_return for e in episodes])
        inference, planning = statistics.inference.summary(), statistics.planning.summary()
        print(
            f"{mode:<8}{returns.mean():>10.1f}{returns.std():>9.1f}"
            f"{np.mean([e.steps for e in episodes]):>8.0f}{inference.p99_ms:>12.2f} ms"
            + (f"{planning.p99_ms:>11.2f} ms" if planning.count else f"{'–':>14}")
        )
        results[mode] = {
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "inference": asdict(inference),
            "planning": asdict(planning) if planning.count else None,
            "episodes": [asdict(e) for e in episodes],
        }
    if chosen.through_ros:
        results["through_ros"] = _through_ros(chosen, changes)
    for path in films:
        print(f"video: {path}")
    if chosen.json is not None:
        document = {
            "provenance": provenance(),
            "bundle": bundle.manifest.provenance.model_dump(),
            "task": bundle.task.name,
            "robot": chosen.robot.model_dump(),
            "results": results,
        }
        chosen.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def _through_ros(chosen: EvaluateArguments, changes: dict[str, Any]) -> dict[str, list[Any]]:
    """Returns of the same episodes through the nodes and in this process."""
    try:
        from maac_ros.nodes.trial import play_in_lockstep
    except ImportError as reason:
        raise ConfigError(f"--through-ros: ROS 2 is not installed ({reason.name})") from reason
    bundle = load_bundle(chosen.bundle, chosen.providers)
    with TemporaryDirectory(prefix="maac_evaluate_") as folder:
        log = Path(folder) / "nodes.log"
        nodes = play_in_lockstep(chosen.bundle, chosen.seed, chosen.episodes, chosen.robot, log)
    env = TaskEnv(bundle.task)
    env.simulation.alter(**changes)
    settings = ControllerSettings(planner=bundle.task.planner, mpc_budget_s=float("inf"))
    controller = Controller(bundle, settings)
    alone = {
        number: run_episode(controller, env, chosen.seed if number == 1 else None).episode_return
        for number in range(1, max(nodes) + 1)
    }
    env.close()
    without = [alone[number] for number in nodes]
    for name, returns in (("nodes", [*nodes.values()]), ("without", without)):
        print(f"{name:<8}{np.mean(returns):>10.1f}{np.std(returns):>9.1f}")
    return {"episode": [*nodes], "nodes": [*nodes.values()], "without": without}


@dataclass(frozen=True)
class ExportArguments:
    """Export a bundle from a run's newest checkpoint, or a bundle in another form."""

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of the run; for --leapp, and with --output, also that of a bundle, or the name of a shipped one."""
    output: Path | None = None
    """Folder of the bundle; by default SOURCE/bundle. From a bundle: with new small networks for planning."""
    planner: Path | None = None
    """With --output, from a bundle: YAML file with settings of the planner on top of its own; see PlannerSettings."""
    value_steps: int | None = None
    """With --output, from a bundle: model steps for which its V(s) follows the policy; by default as many as before."""
    leapp: Path | None = None
    """Folder for the policy as a LEAPP graph too, which NVIDIA's runtime in C++ takes."""


def export(arguments: Sequence[str]) -> int:
    """``maac export``."""
    chosen = tyro.cli(ExportArguments, prog="maac export", args=list(arguments))
    # What is no run's folder can only be a bundle.
    ready = not (chosen.source / CONFIG_FILE).is_file() and (chosen.output or chosen.leapp)
    if not (ready and chosen.output):
        for name, got in (("--planner", chosen.planner), ("--value-steps", chosen.value_steps)):
            if got is not None:
                raise ConfigError(
                    f"{name}: got '{got}'; expected it only with --output, and from a bundle"
                )
    if chosen.value_steps is not None and chosen.value_steps < 0:
        raise ConfigError(f"--value-steps: got {chosen.value_steps}; expected 0 or more")
    if ready:
        bundle = load_bundle(str(chosen.source))
        if chosen.output is not None:
            from maac_learning.renewal import export_renewed, own_config

            own, file, steps = bundle.task.planner, chosen.planner, chosen.value_steps
            config = own_config(bundle)
            bundle = export_renewed(
                bundle,
                chosen.output,
                None if file is None else planner_settings(own, file),
                config if steps is None else config.model_copy(update={"value_steps": steps}),
            )
            _tell_export(bundle)
    else:
        bundle = load_run(chosen.source).export_bundle(chosen.output)
        _tell_export(bundle)
    if chosen.leapp is not None:
        from maac_learning.leapp_export import export_leapp

        print(f"leapp: {export_leapp(bundle, chosen.leapp)}")
    return 0


def _tell_export(bundle: Bundle) -> None:
    print(f"bundle: {bundle.path}")
    known = bundle.manifest.state_value
    if known is not None:
        print(
            f"V(s): {1.0 - known.unexplained:.2%} of the variance over states explained, "
            f"{1.0 - known.unexplained_among_candidates:.1%} of that among candidates of a plan"
        )
    distilled = bundle.manifest.distilled
    if distilled is not None:
        print(
            f"small networks: {1.0 - distilled.step:.2%} of what the members' steps vary by explained, "
            f"{1.0 - distilled.policy:.2%} of the policy's actions"
        )
