"""The node graphs ``sim_train``, ``sim_deploy`` and ``robot``, described once.

The launch files build launch actions from them (:mod:`maac_ros.launching`); ``maac up`` starts the same processes
where the launch package is not installed (:mod:`maac_ros.up`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from maac_ros.errors import ConfigError

Value = bool | int | float | str


@dataclass(frozen=True)
class Argument:
    """One ``key:=value`` of a graph.

    Attributes:
        name: the key.
        default: decides the type too; a string that is ``required`` has no default.
        description: shown by ``--show-args``.
        choices: allowed strings.
        required: must be given.
    """

    name: str
    default: Value
    description: str
    choices: tuple[str, ...] = ()
    required: bool = False

    @property
    def default_text(self) -> str:
        """The default as a user would write it."""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    def parse(self, text: str) -> Value:
        """The value that ``text`` stands for.

        Raises:
            ConfigError: naming key, value and what was expected.
        """
        if self.required and not text:
            raise ConfigError(f"{self.name}: required: {self.description}")
        if self.choices and text not in self.choices:
            raise ConfigError(
                f"{self.name}: got '{text}'; expected one of: {', '.join(self.choices)}"
            )
        if isinstance(self.default, bool):
            if text.lower() not in {"true", "false"}:
                raise ConfigError(f"{self.name}: got '{text}'; expected true or false")
            return text.lower() == "true"
        if isinstance(self.default, str):
            return text
        kind, expected = (
            (int, "a whole number") if isinstance(self.default, int) else (float, "a number")
        )
        try:
            number = kind(text)
        except ValueError as reason:
            raise ConfigError(f"{self.name}: got '{text}'; expected {expected}") from reason
        if not math.isfinite(number):
            raise ConfigError(f"{self.name}: got '{text}'; expected a finite number")
        return number


@dataclass(frozen=True)
class Ref:
    """Stands for the value of an argument."""

    name: str


@dataclass(frozen=True)
class NodeSpec:
    """One process.

    Attributes:
        executable: of the package maac_ros; the module in :mod:`maac_ros.nodes` has the same name.
        parameters: ROS parameters.
        remappings: ROS names, from and to.
        namespace: ROS namespace.
        enclaves: under SROS 2, below which path its enclave is; empty for none of its own.
        params_file: YAML file of further ROS parameters; empty for none.
        log_level: of its loggers.
        ends_graph: when this process ends, the others are stopped.
        wanted: the process is left out where this is false, 0 or empty.
    """

    executable: str
    parameters: Mapping[str, Value | Ref]
    remappings: Mapping[str, str | Ref] = field(default_factory=dict)
    namespace: str | Ref = ""
    enclaves: str | Ref = Ref("enclaves")
    params_file: str | Ref = Ref("params_file")
    log_level: str | Ref = Ref("log_level")
    ends_graph: bool = False
    wanted: Value | Ref = True


@dataclass(frozen=True)
class Graph:
    """Arguments, and the processes they are for."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    nodes: tuple[NodeSpec, ...]


@dataclass(frozen=True)
class ResolvedNode:
    """A :class:`NodeSpec` with its arguments filled in. Its ROS name is that of the executable.

    ``enclave`` holds its keys under SROS 2; empty for none of its own. What ``params_file`` says counts for more than
    ``parameters``; empty for none.
    """

    executable: str
    parameters: Mapping[str, Value]
    remappings: Mapping[str, str]
    namespace: str
    enclave: str
    params_file: str
    log_level: str
    ends_graph: bool


def resolve(graph: Graph, given: Mapping[str, str]) -> tuple[ResolvedNode, ...]:
    """Fill in what a user gave, and the defaults of the rest.

    Raises:
        ConfigError: for an unknown key, a missing one, or a value that cannot be used.
    """
    known = {argument.name: argument for argument in graph.arguments}
    for key, text in given.items():
        if key not in known:
            raise ConfigError(
                f"{graph.name}: unknown argument '{key}' (value '{text}'); "
                f"expected one of: {', '.join(known)}"
            )
    values = {
        name: argument.parse(given.get(name, argument.default_text))
        for name, argument in known.items()
    }

    def fill(value: Value | Ref) -> Value:
        return values[value.name] if isinstance(value, Ref) else value

    def enclave(node: NodeSpec) -> str:
        folder = str(fill(node.enclaves)).rstrip("/")
        return f"{folder}/{node.executable}" if folder else ""

    def params_file(node: NodeSpec) -> str:
        path = str(fill(node.params_file))
        if path and not os.path.isfile(path):
            raise ConfigError(f"params_file: got '{path}'; expected a YAML file of ROS parameters")
        return path

    return tuple(
        ResolvedNode(
            executable=node.executable,
            parameters={key: fill(value) for key, value in node.parameters.items()},
            remappings={key: str(fill(value)) for key, value in node.remappings.items()},
            namespace=str(fill(node.namespace)),
            enclave=enclave(node),
            params_file=params_file(node),
            log_level=str(fill(node.log_level)),
            ends_graph=node.ends_graph,
        )
        for node in graph.nodes
        if fill(node.wanted)
    )


def _refs(*names: str) -> dict[str, Value | Ref]:
    return {name: Ref(name) for name in names}


_TASK = Argument("task", "inverted_pendulum", "task: a shipped name, or path to a YAML file")
_BUNDLE = Argument(
    "bundle", "", "folder of the bundle to run, or the name of a shipped one", required=True
)
_TASKS_BUNDLE = Argument(
    "bundle",
    "",
    "folder of the bundle to run, or the name of a shipped one; empty for the task's shipped one",
)
_USE_MPC = Argument("use_mpc", False, "refine the policy by planning; can be changed while running")
_MAX_AGE = Argument(
    "max_observation_age_ms",
    0.0,
    "older observations lead to the safe command, ms; 0 for five control periods",
)
_RATE_LIMIT = Argument(
    "action_rate_limit", 0.0, "largest change of a command per second, command units; 0 for none"
)
_RECOVERY = Argument(
    "recovery_ticks", 5, "ticks in a row without a fault that end the safe command"
)
_TICK_LIMIT = Argument(
    "tick_limit_ms",
    0.0,
    "a tick that takes longer is overruled by the safe command, ms; 0 for five control periods, at least 100 ms",
)
_ROBOT = Argument(
    "robot",
    "",
    "how the robot is wired: a shipped name, or path to a YAML file; empty for the simulator's topics and units",
)
_RECORD = Argument(
    "record",
    "",
    "folder for a recording of every tick, which `maac replay` repeats; empty for none",
)
_PRIORITY = Argument(
    "thread_priority",
    0,
    "real-time priority of the policy node, 1 to 99, which needs the right to one; 0 for none",
)
_CAMERA_HZ = Argument(
    "camera_hz", 0.0, "pictures a second of the robot on camera_node/image; 0 for none"
)
_ENCLAVES = Argument(
    "enclaves",
    "",
    "under SROS 2, where the enclaves of the nodes are, such as /maac; empty for none",
)
_NODES = (
    Argument(
        "params_file",
        "",
        "YAML file of ROS parameters for the nodes, such as `ros2 param dump` writes; where it names one that is an "
        "argument here too, the file counts; empty for none",
    ),
    Argument(
        "log_level",
        "info",
        "what the nodes log",
        choices=("debug", "info", "warn", "error", "fatal"),
    ),
    _ENCLAVES,
)
"""Arguments of every graph, for all of its nodes."""

_TRIGGERS = ("timer", "observation")

SIM_TRAIN = Graph(
    name="sim_train",
    description="Learn a task in simulation, with progress on topics.",
    arguments=(
        _TASK,
        Argument("preset", "default", "learning settings: a shipped name, or path to a YAML file"),
        Argument("seed", 0, "seed of every random stream"),
        Argument("env_steps", 0, "environment steps in all; 0 for the preset's number"),
        Argument("run_dir", "", "folder for the run; empty for a new one below runs/"),
        *_NODES,
    ),
    nodes=(
        NodeSpec(
            "trainer_node",
            parameters=_refs("task", "preset", "seed", "env_steps", "run_dir"),
            ends_graph=True,
        ),
    ),
)

_OWN_CLOCK: Mapping[str, str | Ref] = {"/clock": "clock"}
"""Simulated robots in namespaces have times of their own."""

SIM_DEPLOY = Graph(
    name="sim_deploy",
    description="Run a bundle on the simulated robot of its task.",
    arguments=(
        _TASK,
        _TASKS_BUNDLE,
        _USE_MPC,
        Argument(
            "mode",
            "realtime",
            "realtime: the robot moves in time; lockstep: it waits for each command",
            choices=("realtime", "lockstep"),
        ),
        Argument("realtime_factor", 1.0, "simulated seconds a second, in realtime mode"),
        Argument("seed", 0, "seed of the initial states and of the planner"),
        Argument("episodes", 0, "episodes after which everything stops; 0 for no end"),
        _ROBOT,
        Argument(
            "goals",
            "drawn",
            "where the task has a goal: drawn, one for each episode; topic, what others ask for",
            choices=("drawn", "topic"),
        ),
        Argument("mass_factor", 1.0, "masses of the simulated robot, relative to the task's"),
        Argument("friction_factor", 1.0, "friction of all surfaces, relative to the task's"),
        Argument("gain_factor", 1.0, "force of all actuators, relative to the task's"),
        Argument("delay_steps", 0, "control periods by which commands act late"),
        Argument("joint_position_noise", 0.0, "noise on joint positions, rad or m"),
        Argument("joint_velocity_noise", 0.0, "noise on joint velocities, rad/s or m/s"),
        Argument(
            "trigger",
            "observation",
            "what starts a tick: a new observation, or a timer on wall time",
            choices=_TRIGGERS,
        ),
        _MAX_AGE,
        _RATE_LIMIT,
        _TICK_LIMIT,
        _RECOVERY,
        Argument("stop_after_ms", 0.0, "a longer fault latches the stop, ms; 0 for never"),
        _RECORD,
        _PRIORITY,
        _CAMERA_HZ,
        Argument(
            "namespace",
            "",
            "ROS namespace of the nodes, and of the clock: several robots run beside each other",
        ),
        *_NODES,
    ),
    nodes=(
        NodeSpec(
            "sim_node",
            parameters=_refs(
                *("task", "seed", "mode", "realtime_factor", "episodes"),
                *("mass_factor", "friction_factor", "gain_factor", "delay_steps"),
                *("joint_position_noise", "joint_velocity_noise", "robot", "goals"),
            ),
            remappings=_OWN_CLOCK,
            namespace=Ref("namespace"),
            ends_graph=True,
        ),
        NodeSpec(
            "policy_node",
            parameters={
                **_refs("task", "bundle", "robot", "use_mpc", "seed", "trigger", "goals"),
                **_refs("max_observation_age_ms", "action_rate_limit", "tick_limit_ms"),
                **_refs("recovery_ticks", "stop_after_ms", "record", "thread_priority"),
                "use_sim_time": True,
                "reliable_sensors": True,
                "autostart": True,
            },
            remappings=_OWN_CLOCK,
            namespace=Ref("namespace"),
        ),
        NodeSpec(
            "camera_node",
            parameters={**_refs("task", "robot"), "rate_hz": Ref("camera_hz")},
            remappings=_OWN_CLOCK,
            namespace=Ref("namespace"),
            wanted=Ref("camera_hz"),
        ),
    ),
)

ROBOT = Graph(
    name="robot",
    description="Run a bundle on a robot.",
    arguments=(
        Argument(
            "task",
            "",
            "task that the bundle must fit: a shipped name, or path to a YAML file; "
            "empty for the bundle's own",
        ),
        _BUNDLE,
        _ROBOT,
        _USE_MPC,
        Argument("joint_states_topic", "joint_states", "sensor_msgs/JointState of the robot"),
        Argument("odom_topic", "odom", "nav_msgs/Odometry of a floating base"),
        Argument("imu_topic", "imu", "sensor_msgs/Imu of a floating base"),
        Argument(
            "sensors_topic",
            "sensors",
            "sensor_msgs/JointState of other sensors: names, and readings as positions",
        ),
        Argument(
            "command_topic",
            "policy_controller/commands",
            "std_msgs/Float64MultiArray that the robot's controller listens to",
        ),
        Argument(
            "trigger",
            "timer",
            "what starts a tick: a timer at the bundle's rate, or a new observation",
            choices=_TRIGGERS,
        ),
        _MAX_AGE,
        _RATE_LIMIT,
        _TICK_LIMIT,
        Argument(
            "engage_ms", 500.0, "time over which the policy takes over when it begins to act, ms"
        ),
        _RECOVERY,
        Argument("stop_after_ms", 2000.0, "a longer fault latches the stop, ms; 0 for never"),
        _RECORD,
        _PRIORITY,
        Argument(
            "autostart",
            False,
            "command at once; otherwise configure and activate with 'ros2 lifecycle set'",
        ),
        Argument(
            "use_sim_time", False, "time is that of /clock: a simulator stands in for the robot"
        ),
        Argument("namespace", "", "ROS namespace of the node"),
        *_NODES,
    ),
    nodes=(
        NodeSpec(
            "policy_node",
            parameters=_refs(
                "task",
                "bundle",
                "robot",
                "use_mpc",
                "trigger",
                "max_observation_age_ms",
                "action_rate_limit",
                "tick_limit_ms",
                "engage_ms",
                "recovery_ticks",
                "stop_after_ms",
                "record",
                "thread_priority",
                "autostart",
                "use_sim_time",
            ),
            remappings={
                "joint_states": Ref("joint_states_topic"),
                "odom": Ref("odom_topic"),
                "imu": Ref("imu_topic"),
                "sensors": Ref("sensors_topic"),
                "policy_controller/commands": Ref("command_topic"),
            },
            namespace=Ref("namespace"),
            ends_graph=True,
        ),
    ),
)

GRAPHS: Mapping[str, Graph] = {graph.name: graph for graph in (SIM_TRAIN, SIM_DEPLOY, ROBOT)}
