"""``maac study ablations``: the algorithm with one component less (sections 5.3 and A.4, figures 4 and 5)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from maac_learning import evidence
from maac_learning.benchmarks.runs import Run, differences, run_overrides, train_runs
from maac_learning.config import load_train_config, merged, read_overrides
from maac_learning.report.published import Bar, Published, load_published
from maac_learning.report.texts import whole
from maac_learning.studies.ablation_picture import draw
from maac_learning.studies.ablation_results import (
    SEVERE,
    SIMILAR,
    STANDARD_ERRORS,
    Outcome,
    outcome,
    row,
    seed_rows,
)
from maac_learning.studies.variants import FULL, VARIANTS, Variant
from maac_ros.errors import BenchmarkError, ConfigError

AFFORDABLE_STEPS = {"half_cheetah": 15_000}
"""Tasks whose variants differ long before the end of the preset's environment steps."""


@dataclass(frozen=True)
class AblationsArguments:
    """Train the algorithm, and variants of it with one component less, and compare their learning curves.

    Runs are those of maac bench learning: a run that was begun is gone on with; one that is finished is left alone;
    Ctrl-C stops all runs with checkpoints. Training goes on to the last step also where a preset would
    stop at a return.
    """

    tasks: tuple[str, ...] = ("inverted_pendulum", "half_cheetah")
    """Shipped task names, or paths to tasks' YAML files."""
    preset: str = "default"
    """Shipped preset name (default or paper), or path to a preset's YAML file."""
    env_steps: int | None = None
    """Environment steps of each run; by default 15000 on half_cheetah, elsewhere the preset's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs."""
    variants: tuple[str, ...] = ()
    """Variants beside the full algorithm; by default all that differ from the preset."""
    config: Path | None = None
    """YAML file with settings of your own for all variants, as for maac train."""
    results: Path = Path("results/studies/ablations")
    """Where the curves go: RESULTS/<task>/<preset>/<variant>/seed<seed>.csv."""
    runs: Path = Path("runs/studies/ablations")
    """Where the runs are: RUNS/<task>/<preset>/<variant>-seed<seed>, and beside each the log of its process."""
    jobs: int = 2
    """Runs side by side."""
    json: Path | None = None
    """Also write the results to this file, and a picture of the same stem (.png) beside it."""


@dataclass(frozen=True)
class Arm:
    """One variant on one task.

    Attributes:
        setting: what differs from the full algorithm, as text.
        runs: one a seed.
    """

    task: str
    variant: Variant
    setting: str
    runs: list[Run]


@dataclass(frozen=True)
class Plan:
    """All there is to train, by task and variant, and which variants are none of the preset, in words."""

    arms: list[Arm]
    left_out: list[str]

    @property
    def runs(self) -> list[Run]:
        """The first seed of everything first."""
        return [run for runs in zip(*(arm.runs for arm in self.arms), strict=True) for run in runs]


def ablations(arguments: Sequence[str]) -> int:
    """``maac study ablations``. Returns 130 when it was stopped by a signal.

    Raises:
        ConfigError: when an option is not usable, or a variant that was asked for is what the preset is already.
        BenchmarkError: when a run fails; what the others have come to is printed and written.
    """
    chosen = tyro.cli(AblationsArguments, prog="maac study ablations", args=list(arguments))
    if chosen.json is not None and chosen.json.suffix != ".json":
        raise ConfigError(f"--json: got '{chosen.json}'; expected a name that ends in .json")
    planned = plan(chosen)
    for text in planned.left_out:
        print(text)
    failures, stopped = train_runs(planned.runs, chosen.jobs)
    published = load_published()
    by_task: dict[str, list[Outcome]] = {}
    for arm in planned.arms:
        found = outcome(arm.variant, arm.setting, arm.runs)
        if found is not None:
            by_task.setdefault(found.task, []).append(found)
    for task, outcomes in by_task.items():
        print_table(outcomes, _solving(task, published))
    if chosen.json is not None and by_task:
        command = shlex.join(["maac", "study", "ablations", *arguments])
        write(chosen, planned, by_task, published, command)
    if failures:
        raise BenchmarkError("\n".join(failures))
    return 130 if stopped else 0


def plan(chosen: AblationsArguments) -> Plan:
    """Every task with the full algorithm and its variants.

    Raises:
        ConfigError: when an option, a task or a setting is not usable, or a variant that was asked for is what the
            preset is already, on every task.
    """
    for name in ("tasks", "seeds"):
        if not getattr(chosen, name):
            raise ConfigError(f"--{name}: got none; expected at least one")
    for name in chosen.variants:
        if name not in VARIANTS:
            raise ConfigError(
                f"--variants: unknown variant '{name}'; expected one of: {', '.join(VARIANTS)}"
            )
    names = [name for name in VARIANTS if not chosen.variants or name in chosen.variants]
    given = read_overrides(chosen.config)
    arms: list[Arm] = []
    left_out = []
    for task in chosen.tasks:
        for variant in (FULL, *(VARIANTS[name] for name in names if name != FULL.name)):
            arm = _arm(chosen, task, variant, given)
            if arm is not None:
                arms.append(arm)
            else:
                same = f"preset '{Path(chosen.preset).stem}' is that already"
                left_out.append(f"{Path(task).stem}: {variant.name} is left out: {same}")
    missing = set(chosen.variants) - {arm.variant.name for arm in arms} - {FULL.name}
    if missing:
        raise ConfigError(
            f"--variants: got {', '.join(sorted(missing))}; expected variants that change something: the preset "
            f"'{chosen.preset}' is that already, on every task given"
        )
    return Plan(arms, left_out)


def _arm(
    chosen: AblationsArguments, task: str, variant: Variant, given: dict[str, Any]
) -> Arm | None:
    """A variant on a task; None where it changes nothing."""
    task_name, preset = Path(task).stem, Path(chosen.preset).stem
    env_steps = chosen.env_steps
    if env_steps is None and "env_steps" not in given:
        env_steps = AFFORDABLE_STEPS.get(task_name)
    runs = []
    setting = ""
    for seed in chosen.seeds:
        overrides = run_overrides(given, seed, env_steps)
        full = load_train_config(task, chosen.preset, overrides)
        overrides = merged(overrides, variant.changes(full))
        settings = load_train_config(task, chosen.preset, overrides)
        changed = differences(full, settings)
        if not changed and variant is not FULL:
            return None
        setting = ", ".join(f"{key} {value}" for key, (_, value) in changed.items())
        runs.append(
            Run(
                task=task_name,
                preset=preset,
                seed=seed,
                folder=chosen.runs / task_name / preset / f"{variant.name}-seed{seed}",
                result=chosen.results / task_name / preset / variant.name / f"seed{seed}.csv",
                settings=settings,
                overrides=overrides,
                variant=variant.name,
            )
        )
    return Arm(task_name, variant, setting, runs)


def print_table(outcomes: Sequence[Outcome], bar: Bar | None) -> None:
    """The variants of one task beside the full algorithm and the paper."""
    rows = _rows(outcomes, bar)
    solved = max(len(r.get("solved_at", "")) for r in rows) + 2 if bar else 0
    print(f"\n{outcomes[0].task}")
    print(
        f"{'variant':<24}{'seeds':>6}{'steps':>8}{'return':>16}{'best':>9}{'area':>7}"
        + (f"{'solved at':>{max(solved, 11)}}" if bar else "")
        + "  effect / the paper"
    )
    for found in rows:
        std = found["final_return_std"]
        end = whole(found["final_return"]) + ("" if std is None else f" ± {whole(std)}")
        share = found["area_share_of_full"]
        print(
            f"{found['variant']:<24}{found['seeds']:>6}{found['env_steps']:>8}{end:>16}"
            f"{whole(found['best_return']):>9}{'–' if share is None else f'{share:.2f}':>7}"
            + (f"{found['solved_at']:>{max(solved, 11)}}" if bar else "")
            + f"  {_in_words(found)}"
        )


def _in_words(found: dict[str, Any]) -> str:
    said = f"the paper: {found['paper']}" if found["paper"] else ""
    if found["effect"] is None:
        return said
    if not said:
        return str(found["effect"])
    return f"{found['effect']}, {'as' if found['as_in_paper'] else 'other than'} {said}"


def write(
    chosen: AblationsArguments,
    planned: Plan,
    by_task: dict[str, list[Outcome]],
    published: Published,
    command: str,
) -> None:
    """The same as evidence, and the picture."""
    assert chosen.json is not None
    picture = chosen.json.with_suffix(".png")
    bars = {task: _solving(task, published) for task in by_task}
    full = {arm.task: arm.runs[0].settings for arm in planned.arms if arm.variant is FULL}
    evidence.write(
        chosen.json,
        f"Ablations of the preset '{Path(chosen.preset).stem}'",
        command,
        [line for task, outcomes in by_task.items() for line in _rows(outcomes, bars[task])],
        left_out=planned.left_out,
        judged={"similar": SIMILAR, "severe": SEVERE, "standard_errors": STANDARD_ERRORS},
        solved_at_return={task: bar.eval_return for task, bar in bars.items() if bar},
        seeds=[
            line
            for task, found in by_task.items()
            for o in found
            for line in seed_rows(o, bars[task])
        ],
        full_settings={task: settings.model_dump(mode="json") for task, settings in full.items()},
    )
    draw(by_task, Path(chosen.preset).stem, published, picture)
    print(f"written: {chosen.json} and {picture}")


def _rows(outcomes: Sequence[Outcome], bar: Bar | None) -> list[dict[str, Any]]:
    full = next((found for found in outcomes if found.variant is FULL), None)
    return [row(found, full, bar) for found in outcomes]


def _solving(task: str, published: Published) -> Bar | None:
    """The return that solves a task; None for tasks on which there is always more to be had."""
    bar = published.bar(task)
    return bar if bar is not None and bar.kind == "reached_within" else None
