"""What a training run leaves behind for people: a CSV curve, TensorBoard events, a picture."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from maac_learning.files import write_text
from maac_ros.errors import CheckpointError, ConfigError
from maac_ros.provenance import provenance


@dataclass(frozen=True)
class Row:
    """One evaluation. Returns are undiscounted, on the task's reward scale; ``eval_steps`` is the mean length.

    A return that falls with the length tells of a robot that fell, one that falls without it of a slower robot.
    """

    env_steps: int
    eval_return: float
    eval_return_std: float
    seconds: float
    eval_steps: float
    model_mse: float
    critic_loss: float
    actor_loss: float
    temperature: float
    value: float


COLUMNS = tuple(field.name for field in fields(Row))


class Settings(Protocol):
    """What a run is logged with: this project's settings, or a baseline's."""

    @property
    def task(self) -> str: ...
    @property
    def preset(self) -> str: ...
    @property
    def seed(self) -> int: ...
    def model_dump_json(self) -> str: ...


def rows_to_tensors(rows: Sequence[Row]) -> dict[str, Tensor]:
    """The rows by column, for checkpoints; float64, so that nothing is rounded."""
    return {
        name: torch.tensor([getattr(row, name) for row in rows], dtype=torch.float64)
        for name in COLUMNS
    }


def rows_from_tensors(tensors: Mapping[str, Tensor]) -> list[Row]:
    """Take back what :func:`rows_to_tensors` gave; a column that an older version did not write is NaN.

    Raises:
        CheckpointError: when there are columns that this version does not know, or no steps.
    """
    if "env_steps" not in tensors or not set(tensors) <= set(COLUMNS):
        raise CheckpointError(
            f"the curve's columns are {', '.join(sorted(tensors))}; expected {', '.join(sorted(COLUMNS))}"
        )
    count = len(tensors["env_steps"])
    columns = [tensors[n].tolist() if n in tensors else [math.nan] * count for n in COLUMNS]
    return [Row(int(steps), *rest) for steps, *rest in zip(*columns, strict=True)]


class RunLog:
    """Writes ``curve.csv``, ``curve.png`` and TensorBoard events into a run's folder.

    Args:
        folder: of the run.
        config: its settings.
        rows: what the run has behind it.
    """

    def __init__(self, folder: Path, config: Settings, rows: Sequence[Row] = ()) -> None:
        self._folder = folder
        self._path = folder / "curve.csv"
        self._config = config
        self.rows = list(rows)
        self._header: list[str] = []
        self._events: SummaryWriter | None = None

    def open(self) -> None:
        """Begin to write. What was logged beyond ``rows``, before a run was killed, is dropped: it will be redone.

        Raises:
            ConfigError: when the folder cannot be written to.
        """
        with self._clear_errors():
            self._header = self._make_header()
            self._write()
            # TensorBoard disregards what older event files have from this step on.
            purge = self.rows[-1].env_steps + 1 if self.rows else 0
            self._events = SummaryWriter(str(self._folder / "tensorboard"), purge_step=purge)

    def add(self, row: Row) -> None:
        """Record one evaluation; raises as :meth:`open` does."""
        self.rows.append(row)
        with self._clear_errors():
            self._write()
            if self._events is not None:
                for name in COLUMNS[1:]:
                    self._events.add_scalar(name, getattr(row, name), row.env_steps)
                self._events.flush()

    def close(self) -> None:
        """Flush the events and draw the curve."""
        if self._events is not None:
            self._events.close()
        if self.rows:
            config = self._config
            title = f"{config.task}, preset {config.preset}, seed {config.seed}"
            draw_curve(self.rows, self._folder / "curve.png", title)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as reason:
            raise ConfigError(
                f"run folder '{self._folder}': cannot be written to: {reason.strerror}"
            ) from reason

    def _make_header(self) -> list[str]:
        """Comments on where the curve comes from; a resumed run keeps its own and adds where it goes on."""
        origin = provenance()
        text = self._path.read_bytes().decode(errors="replace") if self._path.exists() else ""
        known = [line for line in text.splitlines() if line.startswith("#")]
        if self.rows and known:
            note = f"{origin['created']}, revision {origin['git_revision']}, {origin['cpu']}"
            return [*known, f"# resumed after step {self.rows[-1].env_steps}: {note}"]
        return [
            *(f"# {key}: {value}" for key, value in origin.items()),
            f"# torch: {torch.__version__}, {torch.get_num_threads()} threads",
            f"# settings: {self._config.model_dump_json()}",
        ]

    def _write(self) -> None:
        """All of the file anew: a few hundred lines, and never a torn one."""
        lines = [*self._header, ",".join(COLUMNS)]
        lines += [",".join(_cell(getattr(row, name)) for name in COLUMNS) for row in self.rows]
        write_text(self._path, "\n".join(lines) + "\n")


def _cell(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def draw_curve(rows: Sequence[Row], path: Path, title: str) -> None:
    """Evaluation return over environment steps, with one standard deviation over episodes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [row.env_steps for row in rows]
    mean = [row.eval_return for row in rows]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(steps, mean, marker="o", markersize=3)
    axes.fill_between(
        steps,
        [row.eval_return - row.eval_return_std for row in rows],
        [row.eval_return + row.eval_return_std for row in rows],
        alpha=0.2,
    )
    axes.set(xlabel="environment steps", ylabel="evaluation return", title=title)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
