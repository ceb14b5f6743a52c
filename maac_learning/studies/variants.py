"""What an ablation leaves out of the algorithm, as settings, and what the paper says it costs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from maac_learning.config import TrainConfig
from maac_learning.symmetry import heading_frame_of
from maac_ros.task import load_task

Effect = Literal["severe drop", "drop", "no clear difference", "gain"]
"""What became of the learning curve; see :func:`maac_learning.studies.ablation_results.effect_of`."""

_SEVERE: tuple[Effect, ...] = ("severe drop",)
_DROPS: tuple[Effect, ...] = ("drop", "severe drop")
_NONE: tuple[Effect, ...] = ("no clear difference",)


@dataclass(frozen=True)
class Finding:
    """What the paper says of a variant.

    Attributes:
        text: in the paper's sense, in few words.
        effects: which effects bear it out.
        tasks: those it is said of; None for all.
    """

    text: str
    effects: Collection[Effect]
    tasks: Collection[str] | None = None


@dataclass(frozen=True)
class Variant:
    """The algorithm with one thing changed.

    Attributes:
        name: for options, folders and files.
        label: for people; that of the paper's figures where they have it.
        changes: settings that differ, nested by field name, given those of the full algorithm.
        findings: of the paper; none where it has only a curve, or nothing.
    """

    name: str
    label: str
    changes: Callable[[TrainConfig], dict[str, Any]]
    findings: tuple[Finding, ...] = ()

    def finding(self, task: str) -> Finding | None:
        """What the paper says of this variant on ``task``, if anything."""
        said = (found for found in self.findings if found.tasks is None or task in found.tasks)
        return next(said, None)


def _no_steve(full: TrainConfig) -> dict[str, Any]:
    """The Bellman error of section 4.3 without an expansion; nothing where STEVE is off anyway."""
    return {"agent": {"steve": False, "critic_horizon": 0}} if full.agent.steve else {}


def _no_mirror(full: TrainConfig) -> dict[str, Any]:
    """Nothing where the robot has no mirror image."""
    has_one = load_task(full.task).robot.mirror is not None
    return {"model": {"mirror": False}} if has_one else {}


def _no_turn(full: TrainConfig) -> dict[str, Any]:
    """Nothing where no part of a turn leaves the robot the same."""
    has_one = load_task(full.task).robot.turn is not None
    return {"model": {"turn": False}} if has_one else {}


def _no_heading(full: TrainConfig) -> dict[str, Any]:
    """Nothing where the model learns in the frame of the world anyway."""
    has_one = heading_frame_of(load_task(full.task), full.model) is not None
    return {"model": {"heading": False}} if has_one else {}


def _larger_batch(full: TrainConfig) -> dict[str, Any]:
    return {"agent": {"terminal_samples": 1, "batch_size": 5 * full.agent.batch_size}}


FULL = Variant("full", "full", lambda _: {})

VARIANTS = {
    variant.name: variant
    for variant in (
        FULL,
        Variant(
            "h0",
            "H = 0",
            lambda _: {"agent": {"horizon": 0}},
            (Finding("a severe drop, the largest of all", _SEVERE),),
        ),
        Variant(
            "no-steve",
            "−STEVE",
            _no_steve,
            (Finding("slightly less stable, no significant effect", _NONE),),
        ),
        Variant(
            "single-sample",
            "single sample",
            lambda _: {"agent": {"terminal_samples": 1}},
            (
                Finding("not accurate enough", _DROPS, ("ant",)),
                # The paper does not name its simple environments; this one is, by any measure.
                Finding("enough where it is simple", _NONE, ("inverted_pendulum",)),
            ),
        ),
        Variant("5x-batch", "5x batch", _larger_batch),
        Variant(
            "real-data",
            "real data only",
            lambda _: {"rollout": {"real_fraction": 1.0}},
            (Finding("imagined data are very important", _DROPS),),
        ),
        Variant(
            "no-entropy",
            "no entropy",
            lambda _: {"agent": {"entropy": False}},
            (Finding("the entropy is very important", _DROPS),),
        ),
        # Not the paper's: what this project adds to it.
        Variant(
            "plain-likelihood",
            "plain likelihood",
            lambda _: {"model": {"variance_power": 0.0}},
        ),
        Variant(
            "unbounded-critics",
            "unbounded critics",
            lambda _: {"agent": {"bounded_values": False}},
        ),
        Variant("two-critics", "two critics", lambda _: {"agent": {"critics": 2}}),
        Variant(
            "no-layer-norm",
            "no layer norm",
            lambda _: {"agent": {"policy_norm": "none", "critic_norm": "none"}},
        ),
        Variant("no-mirror", "no mirror image", _no_mirror),
        Variant("no-turn", "no turned images", _no_turn),
        Variant("no-heading", "the world's frame", _no_heading),
        Variant(
            "no-warm-up",
            "no critic warm-up",
            lambda _: {"agent": {"critic_warmup": 0}},
        ),
    )
}
"""By name, the full algorithm first."""
