"""What a training run leaves behind for people: a CSV curve, TensorBoard events, a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.tensorboard import SummaryWriter

from maac_ros.provenance import provenance


@dataclass(frozen=True)
class Row:
    """One evaluation. Returns are undiscounted, on the task's reward scale."""

    env_steps: int
    eval_return: float
    eval_return_std: float
    seconds: float
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


class RunLog:
    """Writes ``curve.csv``, ``curve.png`` and TensorBoard events into a run's folder."""

    def __init__(self, folder: Path, config: Settings, rows: Sequence[Row] = ()) -> None:
        self._path = folder / "curve.csv"
        self._picture = folder / "curve.png"
        self._title = f"{config.task}, preset {config.preset}, seed {config.seed}"
        self.rows = list(rows)
        self._events = SummaryWriter(str(folder / "tensorboard"))
        header = [
            *(f"# {key}: {value}" for key, value in provenance().items()),
            f"# torch: {torch.__version__}, {torch.get_num_threads()} threads",
            f"# settings: {config.model_dump_json()}",
        ]
        self._path.write_text("\n".join(header) + "\n" + ",".join(COLUMNS) + "\n", encoding="utf-8")
        for row in self.rows:
            self._append(row)

    def add(self, row: Row) -> None:
        """Record one evaluation."""
        self.rows.append(row)
        self._append(row)
        for name in COLUMNS[1:]:
            self._events.add_scalar(name, getattr(row, name), row.env_steps)

    def close(self) -> None:
        """Flush the events and draw the curve."""
        self._events.close()
        if self.rows:
            draw_curve(self.rows, self._picture, self._title)

    def _append(self, row: Row) -> None:
        with self._path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow([f"{getattr(row, name):.6g}" for name in COLUMNS])


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
