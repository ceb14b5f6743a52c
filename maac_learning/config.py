"""Learning settings: typed, validated, frozen. A preset is a YAML file of the same fields."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from maac_ros import schema
from maac_ros.errors import ConfigError
from maac_ros.resources import named_file
from maac_ros.task import load_task

Activation = Literal["silu", "relu", "tanh"]
Widths = tuple[int, ...]


class ModelConfig(schema.Description):
    """Ensemble of dynamics networks."""

    members: int = Field(default=5, ge=1, le=64)
    """Networks in the ensemble."""
    hidden: Widths = (200, 200, 200, 200)
    """Widths of the hidden layers."""
    activation: Activation = "silu"
    """Activation of the hidden layers."""
    layer_norm: bool = True
    """Normalise hidden layers before their activation."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size of AdamW."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay of AdamW."""
    batch_size: int = Field(default=256, ge=1)
    """Rows a member sees in one gradient step."""
    fit_every: int = Field(default=1000, ge=1)
    """Environment steps between two fits."""
    first_fit_steps: int = Field(default=5000, ge=1)
    """Gradient steps of the first fit, at most."""
    fit_steps: int = Field(default=500, ge=1)
    """Gradient steps of each later fit, at most."""
    validate_every: int = Field(default=50, ge=1)
    """Gradient steps between two validations."""
    patience: int = Field(default=5, ge=1)
    """Validations without improvement after which a fit stops."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the data held out."""
    max_validation: int = Field(default=2000, ge=1)
    """Rows held out at most."""


class RolloutConfig(schema.Description):
    """Chained model rollouts that fill D_model with states (Algorithm 1, line 7)."""

    length: int = Field(default=10, ge=1)
    """Model steps a rollout is chained for."""
    batch: int = Field(default=1000, ge=1)
    """Rollouts started, from real states, each time."""
    every: int = Field(default=250, ge=1)
    """Updates between two batches of rollouts."""
    real_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of real states in an update's batch; the rest comes from D_model."""


class AgentConfig(schema.Description):
    """Policy, critics and their objective."""

    horizon: int = Field(default=5, ge=0, le=50)
    """H: model steps before the terminal Q-function."""
    hidden: Widths = (256, 256)
    """Widths of the hidden layers of policy and critics."""
    policy_activation: Activation = "silu"
    """Activation of the policy's hidden layers."""
    critic_activation: Activation = "silu"
    """Activation of the critics' hidden layers."""
    layer_norm: bool = True
    """Normalise hidden layers before their activation."""
    critics: int = Field(default=5, ge=2, le=16)
    """Q-functions; the smaller of two drawn at random makes the target, the mean of all guides the actor."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Adam's step size for policy, critics and temperature."""
    discount: float = Field(default=0.995, gt=0, lt=1)
    """Gamma, a control step."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """Share of the critics that moves into the target critics at each update."""
    batch_size: int = Field(default=256, ge=1)
    """States an update starts from; rounded up to a multiple of the ensemble's members."""
    updates_per_step: float = Field(default=1.0, gt=0)
    """Updates an environment step."""
    critic_warmup: int = Field(default=250, ge=0)
    """Updates of the critics alone after each model fit."""
    first_updates: int = Field(default=3000, ge=0)
    """Updates after the first model fit, before the policy acts for the first time."""
    initial_temperature: float = Field(default=0.1, gt=0)
    """Weight of the entropy at the start; it is then tuned."""
    target_entropy_per_action: float = -1.0
    """Entropy that the temperature is tuned for, a dimension of the action."""
    max_gradient_norm: float = Field(default=10.0, gt=0)
    """Gradients of policy and critics are clipped to this norm."""


class EvaluationConfig(schema.Description):
    """Evaluation of the deterministic policy during training."""

    every: int = Field(default=1000, ge=1)
    """Environment steps between two evaluations."""
    episodes: int = Field(default=10, ge=1)
    """Episodes an evaluation."""
    stop_at_return: float | None = None
    """Stop training once every evaluation episode reaches this return."""


class TrainConfig(schema.Description):
    """Everything that decides a training run."""

    task: str = "inverted_pendulum"
    """Shipped task name, or path to a task's YAML file."""
    preset: str = "default"
    """Shipped preset name, or path to a preset's YAML file."""
    seed: int = Field(default=0, ge=0)
    """Seed of every random stream."""
    env_steps: int = Field(default=50_000, ge=1)
    """Environment steps in all."""
    random_steps: int = Field(default=5000, ge=1)
    """First steps, taken with uniformly random actions."""
    device: str = "auto"
    """PyTorch device; 'auto' takes CUDA where there is one."""
    threads: int = Field(default=0, ge=0)
    """Threads PyTorch may use on the CPU; 0 leaves its own default."""
    checkpoint_every: int = Field(default=5000, ge=1)
    """Environment steps between two checkpoints."""
    model: ModelConfig = ModelConfig()
    rollout: RolloutConfig = RolloutConfig()
    agent: AgentConfig = AgentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.random_steps > self.env_steps:
            raise ValueError(
                f"random_steps: got {self.random_steps}; expected at most env_steps ({self.env_steps})"
            )
        return self


class Preset(schema.Description):
    """A preset file: settings for every task, and what differs for some."""

    schema_version: Literal[1]
    description: str
    settings: dict[str, Any] = Field(default={})
    tasks: dict[str, dict[str, Any]] = Field(default={})


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` laid over it, group by group."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        result[key] = (
            merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return result


def load_train_config(
    task: str, preset: str = "default", overrides: dict[str, Any] | None = None
) -> TrainConfig:
    """Settings of ``preset`` for ``task``, with ``overrides`` (nested, by field name) on top.

    Raises:
        ConfigError: when a file is missing, a key unknown or a value out of range.
        TaskError: when the task's file is malformed.
    """
    path = named_file("presets", preset, "preset")
    loaded = schema.load(path, Preset, ConfigError)
    settings = merged(loaded.settings, loaded.tasks.get(load_task(task).name, {}))
    settings = merged(settings, overrides or {})
    return schema.parse(
        {**settings, "task": task, "preset": preset}, TrainConfig, str(path), ConfigError
    )
