"""The parameters of the policy node, and the controller settings they stand for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maac_ros import scheduling, schema
from maac_ros.bundle import Manifest
from maac_ros.check import AGE_PERIODS
from maac_ros.controller import ControllerSettings
from maac_ros.errors import ConfigError
from maac_ros.inference import CPU_PROVIDERS, available_providers
from maac_ros.modes import Rules
from maac_ros.nodes.common import ParameterSpec
from maac_ros.task import PlannerSettings

DEFAULT_BUDGET = 0.8
"""Share of the control period that a plan may take."""

MOST_PLANNER_THREADS = 4
"""So many are taken unasked at most: the robot has other things to compute."""

DEFAULT_TICK_PERIODS, LEAST_TICK_LIMIT_S = 5.0, 0.1
"""Control periods after which a tick counts as hung, and the time that it may take whatever the period."""

AT_CONFIGURE = (
    ParameterSpec(
        "bundle",
        "",
        "Folder of the bundle, or the name of a shipped one; empty for that of the task. Another one is "
        "verified beside the one that runs, and taken up between two ticks or refused; ~/reload reads it anew.",
    ),
    ParameterSpec(
        "task",
        "",
        "Task (shipped name, or path to a YAML file) that the bundle must fit; empty to take the "
        "bundle's own. Read at configure.",
    ),
    ParameterSpec(
        "robot",
        "",
        "How the task's robot is wired (shipped name, or path to a YAML file); empty for the simulator's topics and "
        "units. Read at configure.",
    ),
    ParameterSpec(
        "providers",
        CPU_PROVIDERS,
        "ONNX Runtime execution providers, best first. Read at configure and by ~/reload.",
    ),
    ParameterSpec(
        "trigger",
        "timer",
        "What starts a tick: 'timer', absolute deadlines at the bundle's control period, on the newest "
        "messages; 'observation', the moment at which every source has come with one and the same new "
        "stamp. Read at configure.",
        choices=("timer", "observation"),
    ),
    ParameterSpec(
        "seed",
        0,
        "Seed of the planner's random stream. Read at configure.",
        low=0,
        high=2**31 - 1,
    ),
    ParameterSpec(
        "reliable_sensors",
        False,
        "Ask for reliable instead of best-effort sensor data; a simulator in lockstep needs it. "
        "Read at configure.",
    ),
    ParameterSpec(
        "goals",
        "topic",
        "Where the task has a goal: 'topic', what was asked for last; 'drawn', the one that comes with the stamp of "
        "each state, as sim_node sends those that it draws. Read at configure.",
        choices=("drawn", "topic"),
    ),
    ParameterSpec(
        "stamped_cmd_vel",
        True,
        "Take geometry_msgs/TwistStamped on cmd_vel, else Twist, where the task's goal comes from there. Read at "
        "configure.",
    ),
    ParameterSpec(
        "record",
        "",
        "Folder in which each configure begins a recording of every tick, an MCAP file that `maac replay` repeats; "
        "empty for none. Read at configure.",
    ),
)

AT_RUNTIME = (
    ParameterSpec("use_mpc", False, "Refine the policy by planning over the learned model."),
    ParameterSpec(
        "mpc.candidates",
        0,
        "Action sequences a planning iteration draws, 8 to 65536; 0 for the bundle's own number.",
        low=0,
        high=65536,
    ),
    ParameterSpec(
        "mpc.horizon",
        0,
        "Model steps before the value that closes the horizon, 1 to 100; 0 for the bundle's own number.",
        low=0,
        high=100,
    ),
    ParameterSpec(
        "mpc.iterations",
        0,
        "Planning iterations a tick, 1 to 100; 0 for the bundle's own number.",
        low=0,
        high=100,
    ),
    ParameterSpec(
        "mpc.threads",
        0,
        "Threads that share out the candidates, 1 to 64, where each has enough of them; plans do not depend on it. 0 "
        "for as many as the process has cores, up to four, and one where the bundle runs on another provider than the "
        "CPU.",
        low=0,
        high=64,
    ),
    ParameterSpec(
        "mpc.budget_ms",
        0.0,
        "Time a plan may take, ms; 0 for 80 % of the control period, which it may not exceed with the trigger 'timer'.",
        low=0,
        high=10_000,
    ),
    ParameterSpec(
        "mpc.model_fallback",
        True,
        "Let the policy act alone while the model does not describe the robot: while its one-step residual or "
        "the disagreement of its members is often beyond what the bundle's calibration calls usual.",
    ),
    ParameterSpec(
        "max_observation_age_ms",
        0.0,
        "Older observations lead to the safe command, ms of ROS time since header.stamp, a control period or more; 0 "
        "for five control periods.",
        low=0,
        high=60_000,
    ),
    ParameterSpec(
        "max_odom_age_ms",
        0.0,
        "The same for odom, which often comes at a rate of its own, ms; 0 for max_observation_age_ms.",
        low=0,
        high=60_000,
    ),
    ParameterSpec(
        "max_imu_age_ms",
        0.0,
        "The same for imu, ms; 0 for max_observation_age_ms.",
        low=0,
        high=60_000,
    ),
    ParameterSpec(
        "plausible_margin",
        1.0,
        "How far an observation entry may lie outside the range of the training data, as a share of the width of "
        "that range, before it leads to the safe command; 0 for no limit.",
        low=0,
        high=1e9,
    ),
    ParameterSpec(
        "recovery_ticks",
        5,
        "Ticks in a row without a fault that end the safe command which a fault led to, the last one included.",
        low=1,
        high=100_000,
    ),
    ParameterSpec(
        "stop_after_ms",
        2000.0,
        "A fault that lasts longer, once the robot has been commanded, latches the stop until ~/clear_stop, ms; "
        "0 for never.",
        low=0,
        high=1e9,
    ),
    ParameterSpec(
        "tick_limit_ms",
        0.0,
        "A tick that takes longer is overruled by the safe command, ms, a control period or more; 0 for five control "
        "periods, and at least 100 ms.",
        low=0,
        high=60_000,
    ),
    ParameterSpec(
        "action_rate_limit",
        0.0,
        "Largest change of a command entry per second, in command units, against the previous command; "
        "0 for none.",
        low=0,
        high=1e9,
    ),
    ParameterSpec(
        "engage_ms",
        0.0,
        "Time over which the command moves from the safe one to the policy's when it begins to act, or does again, ms; "
        "0 for at once.",
        low=0,
        high=60_000,
    ),
)

AT_START = (
    ParameterSpec(
        "autostart",
        False,
        "Configure and activate at start, without a lifecycle manager; the process ends when that fails.",
        fixed=True,
    ),
    ParameterSpec(
        "thread_priority",
        0,
        "Real-time priority of all threads of the node (SCHED_FIFO), 1 to 99, so that ticks do not wait for what else "
        "the cores have to do; needs the right to one. 0 for none.",
        low=0,
        high=scheduling.MOST,
        fixed=True,
    ),
)

SPECS = {spec.name: spec for spec in (*AT_CONFIGURE, *AT_RUNTIME, *AT_START)}


def check_values(values: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError`, naming parameter, value and expectation, for what no bundle could use."""
    for name, value in values.items():
        SPECS[name].check(value)
    if unknown := [p for p in values.get("providers", ()) if p not in available_providers()]:
        raise ConfigError(
            f"providers: unknown '{unknown[0]}'; expected some of: {', '.join(available_providers())}"
        )
    if not values.get("providers", CPU_PROVIDERS):
        raise ConfigError("providers: got none; expected at least one")
    changed = {
        field: values[f"mpc.{field}"]
        for field in ("candidates", "horizon", "iterations")
        if values.get(f"mpc.{field}")
    }
    schema.parse(changed, PlannerSettings, "mpc", ConfigError)


_AT_LEAST_A_PERIOD = (
    "max_observation_age_ms",
    "max_odom_age_ms",
    "max_imu_age_ms",
    "tick_limit_ms",
)


def _check_times(values: Mapping[str, Any], period_ms: float) -> None:
    """Refuse what would have the safe command for ever, or every deadline missed."""
    expected = f"0, or at least the control period of {period_ms:g} ms"
    for name in _AT_LEAST_A_PERIOD:
        if 0 < values[name] < period_ms:
            raise ConfigError(f"{name}: got {values[name]:g}; expected {expected}")
    # A simulator in lockstep waits for the answer.
    if values["trigger"] == "timer" and values["mpc.budget_ms"] > period_ms:
        raise ConfigError(
            f"mpc.budget_ms: got {values['mpc.budget_ms']:g}; expected at most the control period of {period_ms:g} ms"
        )


def _planner_threads(providers: Sequence[str]) -> int:
    """How many threads a plan takes where nobody says."""
    if tuple(providers) != CPU_PROVIDERS:
        return 1
    return min(len(os.sched_getaffinity(0)), MOST_PLANNER_THREADS)


def controller_settings(values: Mapping[str, Any], manifest: Manifest) -> ControllerSettings:
    """What ``values`` (every parameter) mean for a bundle; 0 stands for its defaults.

    Raises:
        ConfigError: when a time is shorter than a control period, or longer, where that cannot be.
    """
    planner = manifest.task.planner
    period_s = manifest.control_period_s
    _check_times(values, period_s * 1e3)
    changed = {
        field: values[f"mpc.{field}"] or getattr(planner, field)
        for field in ("candidates", "horizon", "iterations")
    }
    budget_s = values["mpc.budget_ms"] * 1e-3 or DEFAULT_BUDGET * period_s
    age_s = values["max_observation_age_ms"] * 1e-3 or AGE_PERIODS * period_s
    return ControllerSettings(
        planner=planner.model_copy(update=changed),
        planner_threads=values["mpc.threads"] or _planner_threads(values["providers"]),
        mpc_budget_s=budget_s,
        use_mpc=values["use_mpc"],
        plausible_margin=values["plausible_margin"] or np.inf,
        max_observation_age_s=age_s,
        max_odom_age_s=values["max_odom_age_ms"] * 1e-3 or None,
        max_imu_age_s=values["max_imu_age_ms"] * 1e-3 or None,
        action_rate_limit=values["action_rate_limit"] or np.inf,
        engage_s=values["engage_ms"] * 1e-3,
        model_fallback=values["mpc.model_fallback"],
        tick_limit_s=values["tick_limit_ms"] * 1e-3
        or max(DEFAULT_TICK_PERIODS * period_s, LEAST_TICK_LIMIT_S),
        rules=Rules(values["recovery_ticks"], values["stop_after_ms"] * 1e-3 or np.inf),
    )
