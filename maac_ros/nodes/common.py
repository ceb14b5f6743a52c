"""What the nodes share: their life from start to signal, parameters with descriptors, QoS profiles, diagnostics."""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.task import Future
from rclpy.utilities import remove_ros_args

from maac_ros import scheduling
from maac_ros.errors import ConfigError, MaacError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_SWITCH_SECONDS = 0.0005
"""After which a thread that computes lets others go on. By default that is 5 ms, and a tick would wait for it more than
once while a bundle is loaded."""

_POLL_SECONDS = 0.1
"""A signal is noticed within this time: Python runs its handlers only between two waits."""


def profile(
    reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
    depth: int = 1,
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
) -> QoSProfile:
    """A QoS profile that keeps the last ``depth`` messages."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=durability,
    )


BEST_EFFORT = profile(ReliabilityPolicy.BEST_EFFORT)
"""Sensor data: the newest or nothing."""

RELIABLE = profile()
"""Commands, and sensor data where none may be lost: matches best-effort subscriptions too."""

LATCHED = profile(durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""What a late subscriber must still get."""


_OVERRIDES = QoSOverridingOptions.with_default_policies()


@contextlib.contextmanager
def _overriding(topic: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ParameterException, InvalidQosOverridesError) as reason:
        raise ConfigError(f"qos_overrides of {topic}: {reason}") from reason


def open_publisher(node: Node, kind: type, topic: str, quality: QoSProfile) -> Publisher:
    """Publish on ``topic`` with ``quality``, or as the parameters ``qos_overrides.<topic>.publisher.*`` say.

    Raises:
        ConfigError: when those cannot be used.
    """
    # The overrides are written into the profile.
    with _overriding(topic):
        return node.create_publisher(
            kind, topic, copy.copy(quality), qos_overriding_options=_OVERRIDES
        )


def open_subscription(
    node: Node,
    kind: type,
    topic: str,
    callback: Callable[[Any], None],
    quality: QoSProfile,
    **further: Any,
) -> Subscription:
    """Listen to ``topic`` with ``quality``, or as the parameters ``qos_overrides.<topic>.subscription.*`` say.

    Args:
        node, kind, topic, callback, quality, further: of :meth:`rclpy.node.Node.create_subscription`.

    Raises:
        ConfigError: when those cannot be used.
    """
    with _overriding(topic):
        return node.create_subscription(
            kind, topic, callback, copy.copy(quality), qos_overriding_options=_OVERRIDES, **further
        )


DISCOVERY_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


def confine(environment: MutableMapping[str, str]) -> bool:
    """Keep the nodes of this process to this host, unless ``environment`` says how far they reach.

    Returns whether that was left open. The distribution before this variable, humble, is left as it is: there, a
    confined node and a tool that is not do not hear each other.
    """
    told = {DISCOVERY_RANGE, "ROS_LOCALHOST_ONLY"} & environment.keys()
    if told or environment.get("ROS_DISTRO") == "humble":
        return False
    environment[DISCOVERY_RANGE] = "LOCALHOST"
    return True


_SOURCE_LINE = re.compile(r",? at /\S+:\d+")


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Around the start of a context and its nodes: what ROS refuses of arguments and environment is told as our own.

    Raises:
        ConfigError: in place of ROS's errors, which would name places in its sources.
    """
    try:
        yield
    except rclpy_implementation.UnknownROSArgsError as reason:
        raise ConfigError(f"arguments: ROS does not know {reason}") from reason
    except (rclpy_implementation.RCLError, ParameterException) as reason:
        told = _SOURCE_LINE.sub("", str(reason)).strip()
        if "security libraries" in told:
            told += "; the wheels of ROS 2 are built without them: source a distribution, or unset ROS_SECURITY_ENABLE"
        raise ConfigError(f"ROS 2 did not start: {told}") from reason


@contextlib.contextmanager
def listening_node(name: str) -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """A node that only listens, in a context of its own, and its executor; all end with the block, however it ends.

    Raises:
        ConfigError: as :func:`starting` does.
    """
    context = rclpy.Context()
    try:
        with starting():
            rclpy.init(context=context)
            node = Node(name, context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            yield node, executor
        finally:
            executor.shutdown()
            node.destroy_node()
    finally:
        context.try_shutdown()


def _require_no_others(arguments: Sequence[str]) -> None:
    """Raise :class:`ConfigError` for arguments that are not for ROS, which nobody would read."""
    if others := remove_ros_args(list(arguments))[1:]:
        raise ConfigError(
            f"arguments: got '{' '.join(others)}'; expected those of ROS only, after --ros-args"
        )


class Exit:
    """Asks the process of a node to end. Thread-safe."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.code = 0

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def request(self, code: int = 0) -> None:
        """End the process; the largest exit code asked for wins."""
        self.code = max(self.code, code)
        self._asked.set()


class RunnableNode(Protocol):
    """What :func:`run_node` needs of a node, beside being one."""

    def close(self) -> None:
        """Leave the robot safe and end threads; the context is still valid."""

    def destroy_node(self) -> None: ...


def run_node(create: Callable[[Exit], RunnableNode], arguments: Sequence[str] | None = None) -> int:
    """Run a node until a signal or its own wish; return the exit code of the process, which must end then.

    rclpy's own handlers would end the context first, and nothing, not even the safe command, could be sent.
    """
    leave = Exit()
    for number in _SIGNALS:
        signal.signal(number, lambda *_: leave.request())
    confined = confine(os.environ)
    sys.setswitchinterval(_SWITCH_SECONDS)
    # What stays for good, all modules. To go through them takes 40 ms, in which no thread can go on.
    gc.collect()
    gc.freeze()
    try:
        try:
            with starting():
                rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
                _require_no_others(sys.argv if arguments is None else arguments)
                node = create(leave)
        except MaacError as reason:
            print(f"error: {reason}", file=sys.stderr)
            return 1
        if confined:
            get_logger("maac_ros").info(
                f"reaches this host only; {DISCOVERY_RANGE}=SUBNET opens it to the network"
            )
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            while not leave.asked:
                executor.spin_once(timeout_sec=_POLL_SECONDS)
        finally:
            node.close()
            executor.shutdown()
            node.destroy_node()
        return leave.code
    finally:
        rclpy.try_shutdown()
        # A Ctrl-C reaches a launched node twice: from the terminal, and then from launch.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def in_thread(executor: Executor, work: Callable[[], Any]) -> Future:
    """Do slow ``work`` beside the executor, which goes on with messages; await the result in a service callback.

    It is done at no real-time priority, whatever the process has.
    """
    future = Future(executor=executor)

    def run() -> None:
        scheduling.give_way()
        try:
            future.set_result(work())
        except Exception as reason:
            future.set_exception(reason)
        executor.wake()

    threading.Thread(target=run, name="service", daemon=True).start()
    return future


def steady_clock() -> Clock:
    """For timers that must fire while simulated time stands still."""
    return Clock(clock_type=ClockType.STEADY_TIME)


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of a node.

    Attributes:
        name: in dotted ROS form.
        default: decides the type too.
        description: shown by ``ros2 param describe``.
        low, high: range of a number, both ends included.
        choices: allowed strings.
        fixed: can be given at start only.
    """

    name: str
    default: bool | int | float | str | tuple[str, ...]
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    fixed: bool = False

    def check(self, value: Any) -> None:
        """Raise :class:`ConfigError` unless ``value``, of the right type and in range, can be used."""
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{self.name}: got {value}; expected a finite number")
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"{self.name}: got '{value}'; expected one of: {', '.join(self.choices)}"
            )

    def declare(self, node: Node) -> None:
        descriptor = ParameterDescriptor(
            description=self.description,
            additional_constraints=f"one of: {', '.join(self.choices)}" if self.choices else "",
            read_only=self.fixed,
        )
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
                ]
            else:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)
                ]
        default = list(self.default) if isinstance(self.default, tuple) else self.default
        node.declare_parameter(self.name, default, descriptor)


def declare(node: Node, specs: Sequence[ParameterSpec]) -> dict[str, Any]:
    """Declare parameters and return their values.

    Raises:
        ConfigError: when a value given at start cannot be used.
    """
    for spec in specs:
        spec.declare(node)
    values = {spec.name: node.get_parameter(spec.name).value for spec in specs}
    for spec in specs:
        spec.check(values[spec.name])
    return values


def diagnostics(
    node: Node, hardware: str, level: bytes, message: str, values: Mapping[str, object]
) -> DiagnosticArray:
    """One status of ``node``, stamped now."""
    array = DiagnosticArray()
    array.header.stamp = node.get_clock().now().to_msg()
    array.status = [
        DiagnosticStatus(
            level=level,
            name=node.get_fully_qualified_name(),
            message=message,
            hardware_id=hardware,
            values=[KeyValue(key=key, value=readable(value)) for key, value in values.items()],
        )
    ]
    return array


def readable(value: object) -> str:
    """A value as a diagnostic shows it."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
