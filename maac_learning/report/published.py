"""``config/published.yaml``: what other methods reach, and what this project means to reach."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Literal

from pydantic import Field

from maac_learning.report.texts import steps, whole
from maac_ros import schema
from maac_ros.errors import ConfigError
from maac_ros.resources import share_directory


class Bar(schema.Description):
    """The return to reach on a task."""

    eval_return: float
    """Evaluation return, undiscounted."""
    env_steps: int = Field(ge=1)
    """Environment steps it is judged at."""
    kind: Literal["mean_at", "reached_within"]
    """The mean over seeds at just these steps, or every seed by then, at any evaluation."""

    def __str__(self) -> str:
        word = "at" if self.kind == "mean_at" else "within"
        return f"{whole(self.eval_return)} {word} {steps(self.env_steps)}"


class PublishedTask(schema.Description):
    """A task of the benchmark."""

    title: str
    bar: Bar
    published_as: str | None = None
    """Task whose published returns it is compared with; by default its own."""


class Method(schema.Description):
    """A method's mean returns, by task and environment steps."""

    name: str
    reference: str
    notes: str = ""
    own_rewards: tuple[str, ...] = ()
    """Tasks on which its rewards are not Gymnasium's: shown, never compared."""
    returns: dict[str, dict[int, float]]
    """Task, environment steps, mean evaluation return."""
    converged: dict[str, float] = Field(default={})
    """Task, mean return at the end of training."""

    def at(self, task: str, env_steps: int) -> float | None:
        """Return that can be compared with ours, if there is one."""
        if task in self.own_rewards:
            return None
        return self.returns.get(task, {}).get(env_steps)


class Published(schema.Description):
    """The whole file."""

    schema_version: Literal[1]
    source: str
    tasks: dict[str, PublishedTask]
    methods: tuple[Method, ...]

    def title(self, task: str) -> str:
        """A task's name as people write it."""
        return self.tasks[task].title if task in self.tasks else task

    def bar(self, task: str) -> Bar | None:
        """The return to reach; None for a task that is not of the benchmark."""
        return self.tasks[task].bar if task in self.tasks else None


def load_published() -> Published:
    """Read the shipped file, with the returns of a task that is ``published_as`` another filled in.

    Raises:
        ConfigError: when it is missing or not of the schema.
    """
    published = schema.load(share_directory() / "config" / "published.yaml", Published, ConfigError)
    aliases = {
        name: task.published_as for name, task in published.tasks.items() if task.published_as
    }
    methods = tuple(_with_aliases(method, aliases) for method in published.methods)
    return published.model_copy(update={"methods": methods})


def _with_aliases(method: Method, aliases: Mapping[str, str]) -> Method:
    def known(tasks: Container[str]) -> list[tuple[str, str]]:
        return [(name, other) for name, other in aliases.items() if other in tasks]

    own, returns, converged = method.own_rewards, method.returns, method.converged
    return method.model_copy(
        update={
            "own_rewards": (*own, *(name for name, _ in known(own))),
            "returns": returns | {name: returns[other] for name, other in known(returns)},
            "converged": converged | {name: converged[other] for name, other in known(converged)},
        }
    )
