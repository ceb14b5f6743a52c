"""``policy_node``: runs a bundle on a robot, or on the simulator that stands in for it.

In: ``joint_states`` (sensor_msgs/JointState, joints by name) and, where the task has a floating base, ``odom``
(nav_msgs/Odometry, twist in the child frame). Out: ``policy_controller/commands`` (std_msgs/Float64MultiArray,
in command units), ``~/plan`` while planning (trajectory_msgs/JointTrajectory, joint efforts in N or N·m),
``~/metadata`` (std_msgs/String, latched: the bundle's manifest), ``~/telemetry`` (std_msgs/Float64MultiArray, a row
for each tick, see :mod:`maac_ros.nodes.telemetry`), ``/diagnostics`` at 1 Hz. On request it records every tick, so that
``maac replay`` can do them again. Services: ``~/stop`` (latched),
``~/clear_stop``, ``~/reload``.

The lifecycle: configure loads, verifies and warms up the bundle; activate starts to command; deactivate sends the
safe command and stops; cleanup forgets the bundle. Whatever ends commanding, the safe command is sent last.

Ages of observations are in ROS time, from ``header.stamp``: on hardware the clocks of robot and node must agree;
with ``use_sim_time`` both come from ``/clock``.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger as TriggerService
from trajectory_msgs.msg import JointTrajectory

from maac_ros import scheduling
from maac_ros.binding import Binding, load_robot
from maac_ros.bundle import Bundle, manifest_yaml, require_same_task
from maac_ros.controller import Command, Controller
from maac_ros.errors import ConfigError, MaacError, ObservationError
from maac_ros.nodes import messages, policy_status
from maac_ros.nodes.common import (
    BEST_EFFORT,
    LATCHED,
    RELIABLE,
    Exit,
    declare,
    diagnostics,
    in_thread,
    open_publisher,
    profile,
    run_node,
    steady_clock,
)
from maac_ros.nodes.control_loop import ControlLoop, RosTime
from maac_ros.nodes.inbox import Inbox
from maac_ros.nodes.loading import load, load_beside
from maac_ros.nodes.policy_parameters import (
    AT_CONFIGURE,
    AT_RUNTIME,
    AT_START,
    SPECS,
    check_values,
    controller_settings,
)
from maac_ros.nodes.reader import Reader
from maac_ros.nodes.rivals import Rivals
from maac_ros.nodes.telemetry import TickRecord
from maac_ros.recording import FlightRecorder
from maac_ros.task import load_task
from maac_ros.terms import Source

READ_AT_CONFIGURE = (
    "task",
    "robot",
    "trigger",
    "seed",
    "reliable_sensors",
    "stamped_cmd_vel",
    "goals",
    "record",
    "use_sim_time",
)


class PolicyNode(LifecycleNode):
    """See the module's docstring.

    Args:
        leave: ends the process.
        arguments: of :class:`rclpy.node.Node`.
    """

    def __init__(self, leave: Exit, **arguments: Any) -> None:
        super().__init__("policy_node", **arguments)
        self._leave = leave
        self._loop: ControlLoop | None = None
        self._bundle: Bundle | None = None
        self._recorder: FlightRecorder | None = None
        self._reader: Reader | None = None
        self._rivals: Rivals | None = None
        self._failure = self._refusal = self._stopped = ""
        self._asked_for = 0
        self._loading = threading.Lock()
        self._taking_back = False
        self._interfaces: list[Callable[[], object]] = []
        values = declare(self, (*AT_CONFIGURE, *AT_RUNTIME, *AT_START))
        check_values(values)
        if values["thread_priority"]:
            scheduling.prioritise(values["thread_priority"])
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self._metadata = self.create_publisher(String, "~/metadata", LATCHED)
        self.create_service(TriggerService, "~/stop", self._on_stop)
        self.create_service(TriggerService, "~/clear_stop", self._on_clear_stop)
        self.create_service(TriggerService, "~/reload", self._on_reload)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady_clock())

    def autostart(self) -> bool:
        """Configure and activate. Returns whether that succeeded."""
        return (
            self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            and self.trigger_activate() == TransitionCallbackReturn.SUCCESS
        )

    def close(self) -> None:
        """Send the safe command, when commanding, end all threads, and finish the recording."""
        self._halt()
        self._close_threads()

    def _close_threads(self) -> None:
        for each in (self._reader, self._rivals, self._recorder):
            if each is not None:
                each.close()

    def _halt(self) -> None:
        if self._loop is not None:
            self._loop.stop()
            self._commands.wait_for_all_acked(Duration(seconds=0.5))

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        # rclpy swallows what a transition raises.
        try:
            self._configure()
        except Exception as reason:
            known = isinstance(reason, MaacError)
            self._failure = str(reason) if known else f"internal error: {reason!r}"
            self.get_logger().error(
                f"cannot be configured: {self._failure}"
                + ("" if known else f"\n{traceback.format_exc()}")
            )
            self._release()
            return TransitionCallbackReturn.FAILURE
        self._failure = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._loop is not None
        assert self._rivals is not None
        if not self._rivals.silent():
            self._failure = f"somebody else commands on {self._commands.topic_name}"
            self.get_logger().error(f"cannot be activated: {self._failure}")
            return TransitionCallbackReturn.FAILURE
        self._failure = ""
        self._rivals.close()
        self._rivals = None
        self._loop.start()
        self.get_logger().info("commanding")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        self._listen_for_rivals()
        self.get_logger().info("no longer commanding; the safe command was the last one sent")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        self._release()
        self._leave.request()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        self._release()
        return super().on_error(state)

    def _configure(self) -> None:
        values = self._values()
        with ThreadPoolExecutor(1, "loading", initializer=scheduling.give_way) as beside:
            loaded = beside.submit(load, values).result()
        bundle = loaded.bundle
        if values["task"]:
            require_same_task(bundle, load_task(values["task"]))
        task, trigger = bundle.task, values["trigger"]
        self._binding = Binding(task, load_robot(values["robot"]) if values["robot"] else None)
        sensors = RELIABLE if values["reliable_sensors"] else BEST_EFFORT
        clock = self.get_clock()
        ros_time = RosTime(lambda: clock.now().nanoseconds, lambda: clock.ros_time_is_active)
        drawn = values["goals"] == "drawn"
        self._inbox = inbox = Inbox(
            task, trigger == "observation", ros_time.simulated, drawn, self._binding.joystick
        )
        kind = self._command_type()
        self._commands = open_publisher(self, kind, self._binding.controller.topic, RELIABLE)
        self._plans = open_publisher(self, JointTrajectory, "~/plan", RELIABLE)
        self._telemetry = open_publisher(self, Float64MultiArray, "~/telemetry", profile(depth=100))
        for publisher in (self._commands, self._plans, self._telemetry):
            self._interfaces.append(partial(self.destroy_publisher, publisher))
        self._reader = Reader(self, partial(self._on_thread_failure, "reader"))
        for source in inbox.sources:
            self._reader.subscribe(*self._taker(source, inbox), sensors)
        if task.goal is not None:
            asking = messages.goal_reader(
                self._binding, task.goal, drawn, values["stamped_cmd_vel"]
            )
            # A goal may be asked for once only.
            taker = self._goal_taker(asking, inbox)
            self._reader.subscribe(asking.kind, asking.topic, taker, RELIABLE)
        if values["record"]:
            self._recorder = FlightRecorder(
                Path(values["record"]).expanduser(),
                self.get_fully_qualified_name(),
            )
            self.get_logger().info(f"recording into '{self._recorder.folder}'")
        self._loop = ControlLoop(
            loaded,
            inbox,
            ros_time,
            self._send,
            self._measure,
            partial(self._on_thread_failure, "control"),
            trigger,
            self._recorder,
        )
        if self._stopped:
            self._loop.latch_stop(self._stopped)
        self._reader.start()
        self._listen_for_rivals()
        self._use(bundle, manifest_yaml(bundle.manifest))

    def _command_type(self) -> type:
        forward = self._binding.controller.interface == "forward"
        return Float64MultiArray if forward else JointTrajectory

    def _listen_for_rivals(self) -> None:
        """While this node does not command."""
        self._rivals = Rivals(
            self,
            self._command_type(),
            self._commands.topic_name,
            self._binding.task.control.period_s,
            partial(self._on_thread_failure, "listening"),
        )

    def _use(self, bundle: Bundle, metadata: str) -> None:
        self._bundle, self._refusal = bundle, ""
        self._metadata.publish(String(data=metadata))
        self.get_logger().info(f"bundle '{bundle.path}' for task '{bundle.task.name}' is ready")

    def _release(self) -> None:
        for destroy in self._interfaces:
            destroy()
        self._interfaces = []
        self._close_threads()
        # A stop is for whoever stopped to clear, not for a configure.
        self._stopped = self._latched
        if self._loop is not None:
            self._loop.close()
        self._loop = self._bundle = self._reader = self._rivals = self._recorder = None

    # In and out

    def _taker(self, source: Source, inbox: Inbox) -> tuple[type, str, Callable[[Any], None]]:
        """Message type of ``source``, its topic, and what takes its messages in."""
        read = messages.state_reader(source, self._binding)

        def receive(message: Any) -> None:
            stamp_ns = messages.stamp_to_ns(message.header.stamp)
            try:
                inbox.put(source, stamp_ns, read(message))
            except ObservationError as reason:
                inbox.put(source, stamp_ns, reason)

        return messages.STATE_MESSAGES[source], getattr(self._binding.topics, source), receive

    def _goal_taker(self, asking: messages.GoalReader, inbox: Inbox) -> Callable[[Any], None]:
        """What takes in the messages of who asks for the goal."""
        clock = self.get_clock()

        def receive(message: Any) -> None:
            stamp_ns = messages.stamp_to_ns(message.header.stamp) if asking.stamped else 0
            now_ns = clock.now().nanoseconds
            try:
                refusal = inbox.ask(stamp_ns, asking.read(message), now_ns)
            except ObservationError as reason:
                refusal = inbox.ask(stamp_ns, reason, now_ns)
            if refusal:
                self.get_logger().error(f"refused: {refusal}", throttle_duration_sec=1.0)

        return receive

    def _send(self, command: Command, answers_ns: int) -> None:
        """Publish a command; called by the control thread."""
        binding = self._binding
        values = binding.command_to_robot(command.values)
        if binding.controller.interface == "forward":
            self._commands.publish(messages.command_message(values, answers_ns))
        else:
            self._commands.publish(
                messages.trajectory_message(
                    values, binding.command_names, binding.task.control.period_s
                )
            )
        if command.plan is not None and self._plans.get_subscription_count():
            self._plans.publish(
                messages.plan_message(
                    command.plan.actions, binding, binding.task.control.period_s, answers_ns
                )
            )

    def _measure(self, tick: TickRecord) -> None:
        """Publish the numbers of a tick; called by the control thread."""
        if self._telemetry.get_subscription_count():
            self._telemetry.publish(Float64MultiArray(data=tick.row()))

    def _on_thread_failure(self, thread: str, reason: Exception) -> None:
        self.get_logger().fatal(f"the {thread} thread failed: {reason!r}")
        self._leave.request(1)

    def _publish_diagnostics(self) -> None:
        for change in self._loop.transitions() if self._loop is not None else ():
            before = change.before.value if change.before else "none"
            told = f"mode {before} -> {change.after.value}"
            if change.reason:
                self.get_logger().warning(f"{told}: {change.reason}")
            else:
                self.get_logger().info(told)
        self._diagnostics.publish(
            diagnostics(
                self,
                *policy_status.status(
                    self._bundle, self._loop, self._failure, self._recorder, self._concerns()
                ),
            )
        )

    def _concerns(self) -> list[str]:
        """What is wrong with the topics."""
        if self._loop is None or self._reader is None:
            return []
        told = self._reader.refused()
        told += self._inbox.goal_concerns()
        if self._refusal:
            told.append(self._refusal)
        topic = self._commands.topic_name
        if self._loop.running and not self.count_subscribers(topic):
            told.append(f"nobody listens to {topic}")
        # Two that command one robot overrule each other.
        if (rivals := self.count_publishers(topic) - 1) > 0:
            told.append(f"{rivals} more publish commands on the same topic")
        return told

    # Parameters and services

    def _values(self) -> dict[str, Any]:
        return {name: self.get_parameter(name).value for name in SPECS}

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        changed = {p.name: p.value for p in changes if p.name in SPECS}
        try:
            check_values(changed)
            if self._loop is None:
                return SetParametersResult(successful=True)
            # What stays as it is may be set at any time, as when a file of all parameters is loaded.
            fixed = [
                p.name
                for p in changes
                if p.name in READ_AT_CONFIGURE and p.value != self.get_parameter(p.name).value
            ]
            if fixed:
                raise ConfigError(f"{fixed[0]}: is read at configure only; clean up the node first")
            if any(spec.name in changed for spec in AT_RUNTIME):
                manifest = self._loop.controller.bundle.manifest
                self._loop.configure(controller_settings({**self._values(), **changed}, manifest))
        except MaacError as reason:
            return SetParametersResult(successful=False, reason=str(reason))
        if "bundle" in changed and not self._taking_back:
            self.executor.create_task(self._replace_bundle)
        return SetParametersResult(successful=True)

    def _on_stop(
        self, _: TriggerService.Request, response: TriggerService.Response
    ) -> TriggerService.Response:
        self._stopped = "stopped by ~/stop"
        if self._loop is not None:
            self._loop.latch_stop(self._stopped)
        self.get_logger().warning("stopped by ~/stop; the safe command holds until ~/clear_stop")
        response.success, response.message = True, "the safe command holds until ~/clear_stop"
        return response

    def _on_clear_stop(
        self, _: TriggerService.Request, response: TriggerService.Response
    ) -> TriggerService.Response:
        if not self._latched:
            response.message = "not stopped"
            return response
        self._stopped = ""
        if self._loop is not None:
            self._loop.clear_stop()
        commanding = self._loop is not None and self._loop.running
        self.get_logger().info("the stop is cleared")
        response.success = True
        response.message = "commanding again" if commanding else "cleared; nothing is commanded yet"
        return response

    @property
    def _latched(self) -> str:
        """Why the stop is latched, whatever state the node is in; empty when it is not."""
        return self._loop.controller.stopped if self._loop is not None else self._stopped

    async def _on_reload(
        self, _: TriggerService.Request, response: TriggerService.Response
    ) -> TriggerService.Response:
        response.success, response.message = await self._replace_bundle()
        return response

    async def _replace_bundle(self) -> tuple[bool, str]:
        """Load the bundle that the parameters name, and go on with it; tells whether it does, or why not."""
        loop, values = self._loop, self._values()
        if loop is None:
            return False, "not configured: configure loads the bundle"

        self._asked_for += 1
        number = self._asked_for

        def load_next() -> tuple[Controller, str] | None:
            with self._loading:  # one after the other: a load takes memory and a core
                if number != self._asked_for:
                    return None
                return load_beside(values, loop.controller.bundle.task)

        try:
            loaded = await in_thread(self.executor, load_next)
        except Exception as reason:  # of whatever kind: a robot is being commanded
            told = str(reason) if isinstance(reason, MaacError) else repr(reason)
            self._refusal = f"the old bundle goes on, another is refused: {told}"
            self.get_logger().error(self._refusal)
            if number == self._asked_for and loop is self._loop:
                self._take_back(str(loop.controller.bundle.path))
            return False, told
        if loop is not self._loop:
            return False, "the node was cleaned up while the bundle was loading"
        if loaded is None or number != self._asked_for:
            return False, "another bundle was asked for meanwhile"
        controller, metadata = loaded
        loop.swap(controller, controller_settings(self._values(), controller.bundle.manifest))
        self._use(controller.bundle, metadata)
        return True, f"runs '{controller.bundle.path}'"

    def _take_back(self, bundle: str) -> None:
        """Let the parameter name the bundle that runs, so that a later configure finds it."""
        self._taking_back = True
        try:
            self.set_parameters([Parameter("bundle", value=bundle)])
        finally:
            self._taking_back = False


def _create(leave: Exit) -> PolicyNode:
    node = PolicyNode(leave)
    if node.get_parameter("autostart").value and not node.autostart():
        leave.request(1)
    return node


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(_create, arguments)


if __name__ == "__main__":
    sys.exit(main())
