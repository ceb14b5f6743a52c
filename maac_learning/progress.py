"""How a training run stands, for people: the phase it is in, the time left, and a bar that shows both."""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from dataclasses import dataclass

from tqdm import tqdm

from maac_learning.config import TrainConfig


@dataclass(frozen=True)
class Progress:
    """How a training run stands. Losses are NaN before the first update.

    Attributes:
        phase: what it is doing, such as ``collecting`` or ``updating 1200/3000``.
        seconds_left: NaN until it has learned for a moment.
        warnings: signs of trouble (see :mod:`maac_learning.health`) that were not told before.
    """

    env_steps: int
    total_env_steps: int
    phase: str
    evaluation_return: float | None
    episode_return: float | None
    model_loss: float
    critic_loss: float
    seconds: float
    seconds_left: float
    warnings: tuple[str, ...] = ()


def updates_left(config: TrainConfig, env_steps: int, owed: float) -> float:
    """Updates until the end of a run that has begun to learn, ``owed`` of them at once."""
    remaining = config.env_steps - env_steps
    since = env_steps - config.random_steps
    fits = (since + remaining) // config.model.fit_every - since // config.model.fit_every
    return (
        max(0.0, owed)
        + remaining * config.agent.updates_per_step
        + fits * config.agent.critic_warmup
    )


class Pace:
    """Seconds an update takes, with its share of all that goes on between updates.

    Only what was learned lately counts, from one model fit to the next at least: the random steps at the start say
    nothing about the time left.

    Args:
        config: of the run.
    """

    _MARKS = 100

    def __init__(self, config: TrainConfig) -> None:
        agent = config.agent
        cycle = agent.critic_warmup + config.model.fit_every * agent.updates_per_step
        self._spacing = max(1.0, cycle / self._MARKS)
        self._marks: deque[tuple[int, float]] = deque(maxlen=self._MARKS + 2)

    def mark(self, updates: int, now: float) -> None:
        """Say at time ``now``, seconds, how many updates there have been in all."""
        if not self._marks or updates - self._marks[-1][0] >= self._spacing:
            self._marks.append((updates, now))

    def seconds(self, updates: float) -> float:
        """How long so many updates will take; NaN as long as nothing is known."""
        if updates <= 0:
            return 0.0
        if len(self._marks) < 2:
            return math.nan
        (first, start), (last, end) = self._marks[0], self._marks[-1]
        return updates * (end - start) / (last - first)


def describe(progress: Progress) -> str:
    """What a bar says behind the count of environment steps."""
    result = progress.evaluation_return
    parts = [
        progress.phase,
        f"return {'–' if result is None else f'{result:.0f}'}",
        f"model error {'–' if math.isnan(progress.model_loss) else f'{progress.model_loss:.2g}'}",
    ]
    if not math.isnan(progress.seconds_left):
        parts.append(f"{tqdm.format_interval(progress.seconds_left)} left")
    return ", ".join(parts)


class Bar:
    """A progress bar that goes on showing the time while a model fit takes minutes; warnings appear above it.

    Args:
        total: environment steps in all.
        initial: those already done.
    """

    def __init__(self, total: int, initial: int) -> None:
        self._bar = tqdm(
            total=total,
            initial=initial,
            unit="step",
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        # A log file needs fewer lines.
        self._interval = 0.2 if sys.stderr.isatty() else 5.0
        self._closed = threading.Event()
        self._painter = threading.Thread(target=self._paint, name="progress bar", daemon=True)

    def __enter__(self) -> Bar:
        self._painter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._painter.join()
        self._bar.close()

    def show(self, progress: Progress) -> None:
        """Take over what the bar is to show."""
        self._bar.set_postfix_str(describe(progress), refresh=False)
        self._bar.n = progress.env_steps
        for warning in progress.warnings:
            self._bar.write(f"warning: {warning}", file=sys.stderr)

    def finish_early(self) -> None:
        """The task is solved: what has been done is all there is to do."""
        self._bar.total = self._bar.n

    def _paint(self) -> None:
        while not self._closed.wait(self._interval):
            self._bar.refresh()
