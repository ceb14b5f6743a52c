"""Conversions between ROS messages and the core's arrays: pure functions, joints by name, never by position."""

from __future__ import annotations

import array
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Quaternion, Twist, TwistStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from sensor_msgs.msg import Imu, JointState, Joy
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from maac_ros.binding import ODOM_FRAME, Binding
from maac_ros.errors import MaacError, ObservationError
from maac_ros.observation import LARGEST, JointReading, RobotState, Vector, body_to_world
from maac_ros.observation_terms import Goal
from maac_ros.task import Task
from maac_ros.terms import Source

_STAMP_LABEL = re.compile(r"stamp=(\d+)\.(\d{9})")


_POINT_FIELDS = (("positions", "position"), ("velocities", "velocity"), ("effort", "effort"))
"""Fields of a trajectory's point, by the quantity that they tell."""

_SHORTEST, _LONGEST = 0.95, 1.05
"""Norms of what is taken for a unit quaternion: rounding and filters change them by far less."""


class CommandError(MaacError):
    """A command message does not fit the robot it is meant for."""


def stamp_to_ns(stamp: Time) -> int:
    """A message's time stamp in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(nanoseconds: int) -> Time:
    """Nanoseconds as a message's time stamp."""
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


@dataclass(frozen=True)
class JointNeeds:
    """What a task reads from ``joint_states``.

    Attributes:
        names: the robot's names of the joints of ``task.robot.joints``, in that order.
        position: those of them whose position is needed.
        velocity: those whose velocity is needed.
        effort: those whose effort is needed.
    """

    names: tuple[str, ...]
    position: tuple[str, ...]
    velocity: tuple[str, ...]
    effort: tuple[str, ...] = ()

    @classmethod
    def of(cls, binding: Binding) -> JointNeeds:
        task = binding.task
        needed = {e.name for e in task.observation_entries() if e.source == "joint_states"}
        # Where a joint is must be known before it can be held there.
        needed |= {f"{e.joint}/position" for e in task.action_entries() if e.safe is None}
        named = dict(zip(task.robot.joints, binding.names, strict=True))

        def whose(quantity: str) -> tuple[str, ...]:
            return tuple(name for joint, name in named.items() if f"{joint}/{quantity}" in needed)

        return cls(binding.names, whose("position"), whose("velocity"), whose("effort"))


class BaseReading(NamedTuple):
    """State of the floating base, with the units and frames of :class:`RobotState`."""

    position: Vector
    orientation: Vector
    linear_velocity: Vector
    angular_velocity: Vector


class InertialReading(NamedTuple):
    """What an IMU tells of the floating base, with the units and frames of :class:`RobotState`."""

    orientation: Vector
    angular_velocity: Vector


class SensorsReading(NamedTuple):
    """What sensors told, (S,), in the order of ``task.sensors``."""

    values: Vector


Reading = JointReading | BaseReading | InertialReading | SensorsReading
"""What a source of the robot's state said."""


def read_joint_state(message: JointState, needs: JointNeeds) -> JointReading:
    """Pick the task's joints out of ``message``, which may list more joints, in any order, as the robot has them.

    Raises:
        ObservationError: naming the joint or field that is needed and missing.
    """
    _require_once("joint_states: joints", message.name)
    row = {name: i for i, name in enumerate(message.name)}
    return JointReading(
        _pick("position", message.position, row, needs.names, needs.position),
        _pick("velocity", message.velocity, row, needs.names, needs.velocity),
        _pick("effort", message.effort, row, needs.names, needs.effort),
    )


def _pick(
    quantity: str,
    values: Sequence[float],
    row: dict[str, int],
    names: tuple[str, ...],
    needed: tuple[str, ...],
) -> Vector:
    picked = np.full(len(names), np.nan)
    if missing := [joint for joint in needed if joint not in row]:
        raise ObservationError(
            f"joint_states: joint {_quoted(missing)} is missing; the message has {_quoted(row)}"
        )
    if len(values) != len(row):
        # An empty field is allowed by the message, but never stands for zeros.
        if needed:
            raise ObservationError(
                f"joint_states: field '{quantity}' has {len(values)} values for {len(row)} joints; "
                f"the task needs the {quantity} of {_quoted(needed)}"
            )
        return picked
    for i, joint in enumerate(names):
        if joint in row:
            picked[i] = values[row[joint]]
    return picked


def _require_once(what: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ObservationError(f"{what} listed more than once: {', '.join(twice)}")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "no joints"


def joint_state_message(reading: JointReading, names: Sequence[str], stamp_ns: int) -> JointState:
    """What ``reading`` says of joints, in the order of ``names``."""
    message = JointState(name=list(names))
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.position = _doubles(reading.position)
    message.velocity = _doubles(reading.velocity)
    if reading.effort is not None and not np.isnan(reading.effort).all():
        message.effort = _doubles(reading.effort)
    return message


def sensors_message(readings: Vector, names: Sequence[str], stamp_ns: int) -> JointState:
    """Readings of sensors by name, as positions: the one message of ROS's own for numbers with names and a stamp."""
    message = JointState(name=list(names), position=_doubles(readings))
    message.header.stamp = ns_to_stamp(stamp_ns)
    return message


def read_sensors(message: JointState, names: Sequence[str]) -> SensorsReading:
    """The readings of ``names`` out of names and positions, in any order; there may be more.

    Raises:
        ObservationError: naming what is missing, or there twice.
    """
    return SensorsReading(np.array(_named_positions("sensors", message, names)))


def _named_positions(topic: str, message: JointState, names: Iterable[str]) -> list[float]:
    """The positions of ``names``, in that order; raises :class:`ObservationError` where one is missing or not alone."""
    if len(message.position) != len(message.name):
        raise ObservationError(
            f"{topic}: field 'position' has {len(message.position)} values for {len(message.name)} names"
        )
    _require_once(f"{topic}: names", message.name)
    told = dict(zip(message.name, message.position, strict=True))
    if missing := [name for name in names if name not in told]:
        raise ObservationError(
            f"{topic}: {_quoted(missing)} is missing; the message has {_quoted(told)}"
        )
    return [told[name] for name in names]


def _axes(field: str, told: str, turned: Sequence[str]) -> dict[str, frozenset[str]]:
    """The components of a vector, and the entries that each is needed for: of ``told`` that of its own axis, and all of
    what the vector is ``turned`` for.
    """
    mixed = frozenset(f"base/{quantity}_{axis}" for quantity in turned for axis in "xyz")
    return {f"{field}.{axis}": mixed | {f"base/{told}_{axis}"} for axis in "xyz"}


_BASE_FIELDS: Mapping[Source, Mapping[str, frozenset[str]]] = {
    "odom": {
        **_axes("pose.pose.position", "position", ()),
        **_axes(
            "twist.twist.linear", "linear_velocity", ("linear_velocity", "body_linear_velocity")
        ),
        **_axes("twist.twist.angular", "angular_velocity", ("world_angular_velocity",)),
    },
    "imu": _axes("angular_velocity", "angular_velocity", ("world_angular_velocity",)),
}
"""Numbers of the messages about the base, and the observation entries that they are needed for."""


def needed_fields(source: Source, task: Task) -> tuple[str, ...]:
    """The numbers of a message of ``odom`` or ``imu`` that ``task`` cannot do without."""
    observed = {entry.name for entry in task.observation_entries() if entry.source == source}
    return tuple(field for field, serves in _BASE_FIELDS[source].items() if serves & observed)


def read_odometry(
    message: Odometry, frame: str, odom_frame: str, needed: Sequence[str]
) -> BaseReading:
    """The base state, its linear velocity turned from the child frame into the world frame.

    Args:
        message: pose in the world frame, twist in the child frame.
        frame: the child frame that the task expects.
        odom_frame: the world frame that it expects; empty for any.
        needed: fields that must be numbers.

    Raises:
        ObservationError: when a frame is another one, a number that is needed is none, or the orientation is no
            rotation.
    """
    if odom_frame:
        _require_frame("odom: header.frame_id", message.header.frame_id, odom_frame)
    _require_frame("odom: child_frame_id", message.child_frame_id, frame)
    _require_numbers("odom", message, needed)
    pose, twist = message.pose.pose, message.twist.twist
    orientation = _rotation("odom", message, "pose.pose.orientation")
    linear = np.array([twist.linear.x, twist.linear.y, twist.linear.z])
    return BaseReading(
        np.array([pose.position.x, pose.position.y, pose.position.z]),
        orientation,
        body_to_world(orientation) @ linear,
        np.array([twist.angular.x, twist.angular.y, twist.angular.z]),
    )


def read_imu(message: Imu, frame: str, needed: Sequence[str]) -> InertialReading:
    """Orientation and angular velocity of the base, whose axes are those of the IMU.

    Args:
        message: of the IMU.
        frame: that the task expects.
        needed: fields that must be numbers.

    Raises:
        ObservationError: when the frame is another one, a number that is needed is none, or the orientation is not
            given, or is no rotation.
    """
    _require_frame("imu: header.frame_id", message.header.frame_id, frame)
    for field in ("orientation", "angular_velocity"):
        # The message's own way to say that there is no estimate.
        if getattr(message, f"{field}_covariance")[0] == -1.0:
            raise ObservationError(f"imu: {field}_covariance[0] is -1: the {field} is not given")
    _require_numbers("imu", message, needed)
    turning = message.angular_velocity
    return InertialReading(
        _rotation("imu", message, "orientation"), np.array([turning.x, turning.y, turning.z])
    )


def _require_frame(what: str, got: str, expected: str) -> None:
    if got != expected:
        raise ObservationError(f"{what}: got '{got}'; expected '{expected}'")


def _require_numbers(source: Source, message: Odometry | Imu, fields: Iterable[str]) -> None:
    """Raise :class:`ObservationError` naming every one of ``fields`` that is NaN, infinite or too large."""
    values = {field: attrgetter(field)(message) for field in fields}
    # Once a vector is turned nobody can tell any more which of its components it was.
    if bad := [f"{field} = {v:g}" for field, v in values.items() if not abs(v) <= LARGEST]:
        raise ObservationError(
            f"{source}: {', '.join(bad)}; expected a finite number of single precision"
        )


def _rotation(source: Source, message: Odometry | Imu, field: str) -> Vector:
    """The quaternion ``field`` as w, x, y, z, which ROS lists as x, y, z, w, of norm 1."""
    _require_numbers(source, message, (f"{field}.{part}" for part in "wxyz"))
    q = attrgetter(field)(message)
    norm = math.hypot(q.w, q.x, q.y, q.z)
    # One that was never set has norm 0.
    if not _SHORTEST <= norm <= _LONGEST:
        raise ObservationError(
            f"{source}: {field} has norm {norm:.4g}; expected {_SHORTEST:g} to {_LONGEST:g}"
        )
    return np.array([q.w, q.x, q.y, q.z]) / norm


def _set_rotation(q: Quaternion, orientation: Vector) -> None:
    # An episode may begin with another norm: to MuJoCo only the direction counts.
    q.w, q.x, q.y, q.z = (orientation / np.linalg.norm(orientation)).tolist()


def imu_message(state: RobotState, frame: str, stamp_ns: int) -> Imu:
    """Orientation and angular velocity of the base; the acceleration is not given."""
    message = Imu()
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.header.frame_id = frame
    _set_rotation(message.orientation, state.base_orientation)
    turning = message.angular_velocity
    turning.x, turning.y, turning.z = state.base_angular_velocity.tolist()
    message.linear_acceleration_covariance[0] = -1.0
    return message


def odometry_message(
    state: RobotState, frame: str, stamp_ns: int, odom_frame: str = ODOM_FRAME
) -> Odometry:
    """The base state, its linear velocity turned from the world frame into the child frame."""
    message = Odometry()
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.header.frame_id = odom_frame
    message.child_frame_id = frame
    pose, twist = message.pose.pose, message.twist.twist
    pose.position.x, pose.position.y, pose.position.z = state.base_position.tolist()
    _set_rotation(pose.orientation, state.base_orientation)
    linear = body_to_world(state.base_orientation).T @ state.base_linear_velocity
    twist.linear.x, twist.linear.y, twist.linear.z = linear.tolist()
    twist.angular.x, twist.angular.y, twist.angular.z = state.base_angular_velocity.tolist()
    return message


STATE_MESSAGES: Mapping[Source, type] = {
    "joint_states": JointState,
    "odom": Odometry,
    "imu": Imu,
    "sensors": JointState,
}
"""Type of the messages of each source of the robot's state."""


def state_reader(source: Source, binding: Binding) -> Callable[[Any], Reading]:
    """What turns a message of ``source`` into what the task's robot says; it raises :class:`ObservationError`."""
    needs = JointNeeds.of(binding)
    needed = needed_fields(source, binding.task) if source in _BASE_FIELDS else ()
    readers: dict[Source, Callable[[Any], Reading]] = {
        "joint_states": lambda message: binding.from_robot(read_joint_state(message, needs)),
        "odom": lambda message: read_odometry(
            message, binding.base_frame, binding.odom_frame, needed
        ),
        "imu": lambda message: read_imu(message, binding.imu_frame, needed),
        "sensors": lambda message: read_sensors(message, binding.task.sensors),
    }
    return readers[source]


class GoalReader(NamedTuple):
    """Who asks for the goal.

    Attributes:
        kind: type of the messages.
        topic: on which they come.
        read: what of them is asked for, (G,); it raises :class:`ObservationError`.
        stamped: whether they have a header.
    """

    kind: type
    topic: str
    read: Callable[[Any], Vector]
    stamped: bool = True


def goal_reader(binding: Binding, goal: Goal, drawn: bool, stamped: bool = True) -> GoalReader:
    """By whom and how the robot is asked for ``goal``, its task's goal term.

    Args:
        binding: of the robot.
        goal: of its task.
        drawn: a simulator asks, and no joystick.
        stamped: velocity commands are TwistStamped, and not Twist.
    """
    joystick = binding.joystick
    if joystick is not None and not drawn:
        return GoalReader(
            Joy, binding.topics.joy, lambda told: joystick.goal(told.axes, told.buttons, goal)
        )
    topic = getattr(binding.topics, goal.source)
    if goal.source == "goal":
        return GoalReader(JointState, topic, lambda told: read_named_goal(told, goal))
    if stamped:
        return GoalReader(TwistStamped, topic, lambda told: read_twist(told.twist, goal))
    return GoalReader(Twist, topic, lambda told: read_twist(told, goal), stamped=False)


def read_twist(message: Twist, goal: Goal) -> Vector:
    """The goal (G,) that a velocity command asks for.

    Raises:
        ObservationError: when a number that is asked for is not finite.
    """
    return _finite_goal(
        goal, [getattr(getattr(message, part), axis) for part, axis in _twist_parts(goal)]
    )


def read_named_goal(message: JointState, goal: Goal) -> Vector:
    """The goal (G,) out of names and positions, in any order; there may be more.

    Raises:
        ObservationError: naming what is missing, there twice or not finite.
    """
    return _finite_goal(goal, _named_positions("goal", message, goal.ranges))


def _finite_goal(goal: Goal, values: list[float]) -> Vector:
    answer = np.array(values, dtype=np.float64)
    if bad := [
        f"{name} = {value:g}"
        for name, value in zip(goal.ranges, values, strict=True)
        if not np.isfinite(value)
    ]:
        raise ObservationError(f"{goal.source}: {', '.join(bad)}; expected a finite number")
    return answer


def goal_message(values: Vector, goal: Goal, stamp_ns: int) -> TwistStamped | JointState:
    """What asks for the goal (G,): the inverse of :func:`read_twist` and :func:`read_named_goal`."""
    if goal.source == "goal":
        named = JointState(name=list(goal.ranges), position=_doubles(values))
        named.header.stamp = ns_to_stamp(stamp_ns)
        return named
    message = TwistStamped()
    message.header.stamp = ns_to_stamp(stamp_ns)
    for (part, axis), value in zip(_twist_parts(goal), values.tolist(), strict=True):
        setattr(getattr(message.twist, part), axis, value)
    return message


def _twist_parts(goal: Goal) -> list[list[str]]:
    return [name.split("_") for name in goal.ranges]


def command_message(values: Vector, answers_ns: int) -> Float64MultiArray:
    """A command (A,) as forward controllers take it.

    The message has no header, so the label of its only dimension tells which observation the command
    answers, by stamp; 0 for none. Controllers ignore the label; a lockstep simulator needs it.
    """
    message = Float64MultiArray(data=_doubles(values))
    seconds, nanoseconds = divmod(answers_ns, 1_000_000_000)
    message.layout.dim = [
        MultiArrayDimension(
            label=f"stamp={seconds}.{nanoseconds:09d}", size=values.size, stride=values.size
        )
    ]
    return message


def read_command(message: Float64MultiArray, size: int) -> tuple[Vector, int | None]:
    """The command (A,) and the stamp of the observation it answers; None from a sender that does not tell.

    Raises:
        CommandError: when its length is not ``size``, or a value is not finite.
    """
    values = np.array(message.data, dtype=np.float64)
    if values.size != size:
        raise CommandError(f"command has {values.size} values; expected {size}")
    if not np.isfinite(values).all():
        raise CommandError(f"command is not finite: {values.tolist()}")
    label = _STAMP_LABEL.fullmatch(message.layout.dim[0].label) if message.layout.dim else None
    return values, label and int(label[1]) * 1_000_000_000 + int(label[2])


def trajectory_message(values: Vector, names: Sequence[str], period_s: float) -> JointTrajectory:
    """Positions (A,) to be reached a control period from now, as joint trajectory controllers take them."""
    message = JointTrajectory(joint_names=list(names))  # no stamp: at once
    message.points.append(
        JointTrajectoryPoint(positions=_doubles(values), time_from_start=_duration(period_s))
    )
    return message


def read_trajectory(message: JointTrajectory, names: Sequence[str]) -> Vector:
    """The positions (A,), in the order of ``names``, of a trajectory's first point.

    Raises:
        CommandError: when joints or positions are missing, or a value is not finite.
    """
    if not message.points or set(message.joint_names) != set(names):
        raise CommandError(
            f"trajectory of {_quoted(message.joint_names)} with {len(message.points)} points; expected one or more "
            f"of {_quoted(names)}"
        )
    positions = np.array(message.points[0].positions, dtype=np.float64)
    if positions.size != len(names):
        raise CommandError(f"trajectory has {positions.size} positions; expected {len(names)}")
    if not np.isfinite(positions).all():
        raise CommandError(f"trajectory is not finite: {positions.tolist()}")
    return positions[[message.joint_names.index(name) for name in names]]


def plan_message(
    actions: NDArray[np.floating], binding: Binding, period_s: float, stamp_ns: int
) -> JointTrajectory:
    """A plan (H, A), command units, as the joints' positions, velocities and efforts (N or N·m) over time.

    Of each joint a point tells what the joint is commanded; what else the point's fields hold of it is NaN.
    """
    entries = binding.task.action_entries()
    message = JointTrajectory(joint_names=list(binding.driven_names))
    message.header.stamp = ns_to_stamp(stamp_ns)
    told = {
        field: np.array([entry.quantity == quantity for entry in entries])
        for field, quantity in _POINT_FIELDS
    }
    for step, values in enumerate(binding.physical(actions.astype(np.float64))):
        message.points.append(
            JointTrajectoryPoint(
                time_from_start=_duration(step * period_s),
                **{
                    field: _doubles(np.where(those, values, np.nan))
                    for field, those in told.items()
                    if those.any()
                },
            )
        )
    return message


def _duration(seconds: float) -> Duration:
    whole, nanoseconds = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(sec=whole, nanosec=nanoseconds)


def _doubles(values: NDArray[np.floating]) -> array.array[float]:
    # By far the cheapest way into a message field.
    return array.array("d", np.asarray(values, dtype=np.float64).tobytes())
