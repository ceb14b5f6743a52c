"""Learning settings: typed, validated, frozen. A preset is a YAML file of the same fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from maac_ros import schema
from maac_ros.errors import ConfigError
from maac_ros.resources import named_file
from maac_ros.task import PlannerSettings, load_task

Activation = Literal["hardswish", "silu", "relu", "tanh"]
Widths = tuple[int, ...]

Norm = Literal["none", "before", "after"]
"""Whether hidden layers are normalised (LayerNorm), and on which side of their activation."""

Spread = Literal["bounded", "softplus"]
"""How a policy's output becomes its standard deviation: a bounded logarithm, or a softplus without an upper bound."""

Start = Literal["uniform", "normal", "orthogonal"]
"""How weights are drawn: uniform within 1 / sqrt(inputs); normal with variance 2 / inputs (He et al., 2015); or
orthogonal, without biases (Saxe et al., 2014)."""


class ModelConfig(schema.Description):
    """Ensemble of dynamics networks."""

    members: int = Field(default=5, ge=1, le=64)
    """Networks in the ensemble."""
    hidden: Widths = (200, 200, 200, 200)
    """Widths of the hidden layers."""
    activation: Activation = "hardswish"
    """Activation of the hidden layers."""
    norm: Norm = "before"
    """LayerNorm of the hidden layers, and on which side of their activation."""
    norm_epsilon: float = Field(default=1e-5, ge=1e-5, le=10)
    """What LayerNorm adds to the variance of the first hidden layer; a tenth of it in each later one, down to 1e-5.
    Large, it leaves small layers as they are, so that a network can still tell how far it is from what it knows."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the first hidden layer that each row of a fit does without (Srivastava et al., 2014), evenly less in
    each later one, down to none of the output."""
    noise: Literal["residual", "trained", "state_dependent"] = "state_dependent"
    """Spread of a prediction: that of the held-out residuals; a parameter of each member and output; or a further
    output of the networks. The last two maximise the likelihood, the first minimises the squared error."""
    variance_power: float = Field(default=0.5, ge=0, le=1)
    """Power of the predicted variance that weighs the likelihood (beta of Seitzer et al., 2022). At 0 it is the plain
    likelihood, which gives up on what is hard to predict; at 1 means learn as from squared error."""
    reward: Literal["learned", "analytic"] = "learned"
    """Reward of model rollouts: an output of the networks, or the task's ``reward.analytic`` terms."""
    bootstrap: Literal["none", "resampled", "weighted"] = "none"
    """Let each member learn from its own resampling of the data, as in the paper: it then never sees a third of them,
    which costs more than the members' greater difference gives. Weighted, it sees all rows, each with a weight of its
    own, drawn once from the exponential distribution (Rubin, 1981)."""
    mirror: bool = True
    """Learn from the mirror image of the data too, where the task's robot has one (``robot.mirror``)."""
    turn: bool = True
    """Learn from the data turned by a leg or more too, where the task's robot is the same then (``robot.turn``)."""
    heading: bool = True
    """Learn in the frame of the robot's heading, where it moves the same in any (``robot.base.any_heading``); not with
    a learned reward, which is one of the world."""
    termination_margin: float = Field(default=0.0, ge=0)
    """How far within the bounds of the task's ``termination`` imagined episodes, and those of plans, end already, in
    standard deviations of what is bounded: a model that is wrong about rare events is so about how often a robot comes
    to its bounds."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Step size of AdamW at the beginning of the first fit."""
    refit_learning_rate: float = Field(default=1e-3, gt=0)
    """The same for later fits. They go on from the fit before, which large steps undo."""
    last_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the step size to which it falls, evenly, towards the end of a fit; at 1 it stays as it is."""
    weight_decay: float = Field(default=1.5, ge=0)
    """Weight decay of AdamW: each step takes this share, times the step size, off the weights."""
    batch_size: int = Field(default=256, ge=1)
    """Rows a member sees in one gradient step."""
    fit_every: int = Field(default=1000, ge=1)
    """Environment steps between two fits."""
    first_fit_steps: int = Field(default=5000, ge=1)
    """Gradient steps of the first fit, at most."""
    fit_steps: int = Field(default=1000, ge=1)
    """Gradient steps of each later fit, at most."""
    recent_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of every batch that is drawn from the newest transitions: those of the present policy are few among all,
    and where the model is wrong about them the policy is wrong."""
    recent_steps: int = Field(default=2000, ge=1)
    """How many transitions those are."""
    validate_every: int = Field(default=50, ge=1)
    """Gradient steps between two validations."""
    patience: int = Field(default=20, ge=1)
    """Validations without improvement after which a fit stops."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the data held out: every so many rows one, the same in every fit."""
    max_validation: int = Field(default=2000, ge=1)
    """Rows held out at most."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.recent_fraction > 0.0 and self.bootstrap == "resampled":
            raise ValueError(
                f"recent_fraction: got {self.recent_fraction:g}; expected 0 where bootstrap is 'resampled', whose rows "
                "have no order"
            )
        return self


class RolloutConfig(schema.Description):
    """Chained model rollouts that fill D_model (Algorithm 1, line 7).

    By default D_model holds the last 200 updates' worth of long rollouts: critics that learn from what an older policy
    would have done stay blind to how the present one fails.
    """

    length: int = Field(default=10, ge=1)
    """Model steps a rollout is chained for, at first."""
    final_length: int | None = Field(default=None, ge=1)
    """Model steps at the end of ``growth``; by default the length does not change."""
    growth: tuple[int, int] = (20_000, 100_000)
    """Environment steps between which the length grows to ``final_length``, linearly."""
    batch: int = Field(default=256, ge=1)
    """Rollouts started, from real states, each time; rounded up to a multiple of the ensemble's members."""
    recent_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the rollouts that start from the newest real states, and so from where the present policy goes."""
    recent_steps: int = Field(default=2000, ge=1)
    """How many states those are."""
    every: int = Field(default=20, ge=1)
    """Updates between two batches of rollouts."""
    kept: int | None = Field(default=10, ge=1)
    """Batches of rollouts that D_model keeps; null for all since the last model fit, which then empties it."""
    real_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of real transitions in an update's batch; the rest comes from D_model."""

    def length_at(self, env_steps: int) -> int:
        """Length of rollouts after so many environment steps."""
        if self.final_length is None:
            return self.length
        first, last = self.growth
        share = min(max((env_steps - first) / max(last - first, 1), 0.0), 1.0)
        return round(self.length + share * (self.final_length - self.length))

    @property
    def longest(self) -> int:
        return max(self.length, self.final_length or 0)


class AgentConfig(schema.Description):
    """Policy, critics and their objective."""

    horizon: int = Field(default=5, ge=0, le=50)
    """H of the actor's objective: model steps before the terminal Q-function."""
    termination_width: float = Field(default=0.0, ge=0)
    """Width of the kernel, in standard deviations of the observation, by which the actor's gradient sees terminations
    within the horizon; at 0 it does not."""
    critic_data: Literal["rollout", "transitions"] = "rollout"
    """What the critics learn from: the first state and action of the actor's own rollout, or stored transitions."""
    critic_horizon: int = Field(default=5, ge=0, le=50)
    """Model steps in the critics' targets; from transitions, beyond the stored step."""
    steve: bool = False
    """Weigh the targets of all horizons up to ``critic_horizon`` by the inverse of their variance over models and
    critics (from transitions only); else the longest alone is the target."""
    terminal_samples: int = Field(default=1, ge=1, le=64)
    """Actions drawn at the last state of the actor's objective."""
    hidden: Widths = (256, 256)
    """Widths of the hidden layers of policy and critics."""
    policy_activation: Activation = "hardswish"
    """Activation of the policy's hidden layers."""
    critic_activation: Activation = "hardswish"
    """Activation of the critics' hidden layers."""
    policy_norm: Norm = "before"
    """LayerNorm of the policy's hidden layers, and on which side of their activation."""
    critic_norm: Norm = "before"
    """The same of the critics."""
    policy_spread: Spread = "bounded"
    """How the policy's output becomes its standard deviation."""
    policy_start: Start = "uniform"
    """How the policy's first weights are drawn."""
    critic_start: Start = "uniform"
    """The same of the critics."""
    critics: int = Field(default=5, ge=2, le=16)
    """Q-functions; the smaller of two drawn at random makes the target."""
    actor_critic: Literal["mean", "minimum"] = "mean"
    """What of two critics, drawn at random, guides the actor."""
    bounded_values: bool = True
    """Scale the critics by the range of rewards over 1 - gamma, and clamp the value that closes a target to it."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Adam's step size for policy, critics and temperature."""
    last_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of ``learning_rate`` that is left at the end of a run; from the first model fit on it falls in a straight
    line."""
    discount: float = Field(default=0.995, gt=0, lt=1)
    """Gamma, a control step."""
    target_rate: float = Field(default=0.005, gt=0, le=1)
    """Share of the critics that moves into the target critics at each update: in about as many updates as its inverse,
    what is known of a state travels back by ``critic_horizon`` steps."""
    policy_average_rate: float = Field(default=0.005, gt=0, le=1)
    """Share of the policy that moves, at each update, into the averaged policy, which is what is evaluated and
    exported; at 1 that is the policy itself."""
    batch_size: int = Field(default=256, ge=1)
    """States an update starts from; rounded up to a multiple of the ensemble's members."""
    updates_per_step: float = Field(default=1.0, gt=0)
    """Updates an environment step."""
    update_schedule: Literal["interleaved", "after_fit"] = "interleaved"
    """Updates come between environment steps, or all together after each model fit, so that the policy that begins
    them is the one whose transitions the model has just learned."""
    critic_warmup: int = Field(default=100, ge=0)
    """Updates of the critics alone after each model fit."""
    fresh_optimizers: bool = False
    """Forget the optimisers' momentum after each model fit: it is of another model."""
    first_updates: int = Field(default=3000, ge=0)
    """Updates after the first model fit, before the policy acts for the first time."""
    entropy: bool = True
    """Add the policy's entropy to reward and objective, with a tuned temperature."""
    initial_temperature: float = Field(default=0.1, gt=0)
    """Weight of the entropy at the start."""
    target_entropy_per_action: float = -1.0
    """Entropy that the temperature is tuned for, a dimension of the action."""
    temperature_data: Literal["rollout", "start"] = "rollout"
    """Where that entropy is taken: along the rollout, or at its first state only."""
    max_gradient_norm: float | None = Field(default=10.0, gt=0)
    """Gradients of policy and critics are clipped to this norm; null leaves them."""

    @model_validator(mode="after")
    def _consistent(self) -> AgentConfig:
        if self.critic_data == "rollout" and self.critic_horizon == 0:
            raise ValueError(
                "critic_horizon: got 0; expected at least 1 where critic_data is 'rollout'"
            )
        if self.steve and (self.critic_data == "rollout" or self.critic_horizon == 0):
            raise ValueError(
                "steve: needs critic_data 'transitions' and a critic_horizon of at least 1"
            )
        return self


class EvaluationConfig(schema.Description):
    """Evaluation of the deterministic policy during training."""

    every: int = Field(default=1000, ge=1)
    """Environment steps between two evaluations."""
    episodes: int = Field(default=10, ge=1)
    """Episodes an evaluation."""
    stop_at_return: float | None = None
    """Stop training once every evaluation episode reaches this return."""


class PlanningConfig(schema.Description):
    """Small networks for planning, which an exported bundle has beside its own, and learns from them."""

    hidden: tuple[int, ...] = Field(default=(128, 128), min_length=1)
    """Widths of their hidden layers, where those that they learn from are no narrower."""
    steps: int = Field(default=8000, ge=0)
    """Gradient steps by which each of them is learned; with 0 a bundle has none."""
    value_steps: int = Field(default=5, ge=0)
    """Model steps for which V(s) follows the policy as it acts, without noise, before the critics close it."""


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
    episode_steps: int | None = Field(default=None, ge=1)
    """Longest training episode; time runs out then, as after the task's own ``simulation.episode_steps``, which stay
    those of evaluation. Where a fallen robot's episode goes on, most of what is seen is how it lies there."""
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
    planning: PlanningConfig = PlanningConfig()

    def learning_rate_at(self, env_steps: int) -> float:
        """Step size of policy, critics and temperature after so many environment steps."""
        learning = self.env_steps - self.random_steps
        share = max(env_steps - self.random_steps, 0) / max(learning, 1)
        return self.agent.learning_rate * (1.0 - share * (1.0 - self.agent.last_rate))

    @property
    def uses_model(self) -> bool:
        """Whether anything is learned from the model; if not it is never fitted."""
        agent = self.agent
        return agent.horizon > 0 or agent.critic_horizon > 0 or self.rollout.real_fraction < 1.0

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
    extends: str | None = None
    """Preset that this one changes; its settings for a task come first, then this file's."""
    as_for: str | None = None
    """A task whose settings in the extended preset hold here for every task."""
    settings: dict[str, Any] = Field(default={})
    tasks: dict[str, dict[str, Any]] = Field(default={})

    @model_validator(mode="after")
    def _consistent(self) -> Preset:
        if self.as_for is not None and self.extends is None:
            raise ValueError(
                f"as_for: got '{self.as_for}'; expected a preset to be extended, whose task that is"
            )
        return self


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` laid over it, group by group."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        result[key] = (
            merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return result


def read_overrides(path: Path | None, what: str = "settings") -> dict[str, Any]:
    """Settings of one's own from a YAML file, nested by field name; none without a file.

    Raises:
        ConfigError: when the file cannot be read, or does not hold a mapping.
    """
    if path is None:
        return {}
    given = schema.read_yaml(path, ConfigError)
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: expected a mapping of {what}, got {given!r:.60}")
    return given


def planner_settings(own: PlannerSettings, path: Path | None) -> PlannerSettings:
    """``own`` with the settings in a YAML file on top, if there is one.

    Raises:
        ConfigError: when the file cannot be read, a key is unknown or a value out of range.
    """
    given = read_overrides(path, "planner settings")
    return schema.parse({**own.model_dump(), **given}, PlannerSettings, str(path), ConfigError)


def load_train_config(
    task: str, preset: str = "default", overrides: dict[str, Any] | None = None
) -> TrainConfig:
    """Settings of ``preset`` for ``task``, with ``overrides`` (nested, by field name) on top.

    Raises:
        ConfigError: when a file is missing, a key unknown or a value out of range.
        TaskError: when the task's file is malformed.
    """
    path = named_file("presets", preset, "preset")
    settings = merged(_preset_settings(path, load_task(task).name), overrides or {})
    return schema.parse(
        {**settings, "task": task, "preset": preset}, TrainConfig, str(path), ConfigError
    )


def _preset_settings(path: Path, task: str, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path in extended_by:
        chain = " -> ".join(p.name for p in (*extended_by, path))
        raise ConfigError(f"{path}: extends: presets extend each other in a circle: {chain}")
    preset = schema.load(path, Preset, ConfigError)
    settings = merged(preset.settings, preset.tasks.get(task, {}))
    if preset.extends is None:
        return settings
    base = named_file("presets", preset.extends, "preset")
    known = schema.load(base, Preset, ConfigError).tasks
    if preset.as_for is not None and preset.as_for not in known:
        raise ConfigError(
            f"{path}: as_for: {base.name} has no settings for '{preset.as_for}'; expected one of: {', '.join(known)}"
        )
    return merged(_preset_settings(base, preset.as_for or task, (*extended_by, path)), settings)
