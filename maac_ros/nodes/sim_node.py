"""``sim_node``: a task's simulation in the robot's place, with the robot's topics.

Out: ``/clock``, ``joint_states``, ``odom`` and ``imu`` where the task has a floating base, ``sensors`` where it
observes any (sensor_msgs/JointState: names, and readings as positions), and for each finished episode
``~/episode_return`` (std_msgs/Float64) and ``~/episode`` (std_msgs/String, a JSON object with ``episode``, ``steps``,
``return`` and ``terminated``), both latched. In: ``policy_controller/commands``. Services: ``~/reset``, ``~/pause``,
``~/step`` (while paused).

Where the task has a goal, the simulator draws one for each episode and asks for it with every state, on ``cmd_vel``
(geometry_msgs/TwistStamped) or ``goal`` (sensor_msgs/JointState: names and positions). With ``goals: topic`` it asks
for nothing, and rewards what others ask for there.

Every state has a stamp of its own. A policy node labels each command with the stamp of the state it answers
(:func:`maac_ros.nodes.messages.command_message`); a command without such a label counts as an answer to the
present state.

The robot can be made another one while it runs (``mass_factor``, ``friction_factor``, ``gain_factor``), act late
(``delay_steps``) and be seen badly (``joint_position_noise``, ``joint_velocity_noise``), to see what a controller does
that has not learned from it.

``lockstep``: the first command that answers the present state moves the robot by one step, and the next state is
published; any other command is ignored. While no answer comes, the state is published again every 0.2 s of wall
time, and a policy node that has answered it already sends the same answer again. So a state gets exactly one
command whenever a node is started or restarted, or a message is lost before the nodes have found each other, and
the episode does not depend on any timing.

``realtime``: the robot moves at absolute deadlines, a control period divided by ``realtime_factor`` apart, under
the newest command. At the beginning of an episode it keeps still, while time goes on, until a command comes that
answers a state of this episode: a robot must not fall before its controller is up.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Imu, JointState, Joy
from std_msgs.msg import Float64, Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from maac_ros.binding import Binding, load_robot
from maac_ros.conditions import MAX_DELAY_STEPS
from maac_ros.errors import ObservationError
from maac_ros.nodes import messages
from maac_ros.nodes.common import (
    LATCHED,
    RELIABLE,
    Exit,
    ParameterSpec,
    declare,
    open_publisher,
    open_subscription,
    run_node,
    steady_clock,
)
from maac_ros.nodes.simulated_robot import EpisodeSummary, SimulatedRobot
from maac_ros.observation import Vector
from maac_ros.simulation import Simulation
from maac_ros.task import load_task
from maac_ros.timing import Deadlines

REPEAT_SECONDS = 0.2

PARAMETERS = (
    ParameterSpec(
        "task",
        "inverted_pendulum",
        "Task to simulate: a shipped name, or a path to a YAML file.",
        fixed=True,
    ),
    ParameterSpec("seed", 0, "Seed of the initial states.", low=0, high=2**31 - 1, fixed=True),
    ParameterSpec(
        "mode",
        "realtime",
        "'realtime': steps in time, under the newest command; 'lockstep': steps when a command answers "
        "the present state.",
        choices=("realtime", "lockstep"),
        fixed=True,
    ),
    ParameterSpec(
        "realtime_factor",
        1.0,
        "Simulated seconds a second of wall time, in realtime mode.",
        low=0.01,
        high=100,
        fixed=True,
    ),
    ParameterSpec(
        "episodes",
        0,
        "Episodes after which the node ends; 0 for no end.",
        low=0,
        high=2**31 - 1,
        fixed=True,
    ),
    ParameterSpec(
        "robot",
        "",
        "Stand in for this robot (shipped name, or path to a YAML file): its topics, names, signs and units; empty "
        "for the simulator's own.",
        fixed=True,
    ),
    ParameterSpec(
        "goals",
        "drawn",
        "Where the task has a goal: 'drawn', one for each episode, published with every state; 'topic', what "
        "others ask for.",
        choices=("drawn", "topic"),
        fixed=True,
    ),
    ParameterSpec(
        "mass_factor",
        1.0,
        "Masses and inertias, relative to the task's: another robot than was learned from.",
        low=0.05,
        high=20,
    ),
    ParameterSpec(
        "friction_factor", 1.0, "Friction of all surfaces, relative to the task's.", low=0, high=20
    ),
    ParameterSpec(
        "gain_factor",
        1.0,
        "Force of all actuators, relative to the task's.",
        low=0.05,
        high=20,
    ),
    ParameterSpec(
        "delay_steps",
        0,
        "Control periods by which commands act late, from the next episode on.",
        low=0,
        high=MAX_DELAY_STEPS,
    ),
    ParameterSpec(
        "joint_position_noise",
        0.0,
        "Standard deviation of noise on joint positions, rad or m.",
        low=0,
        high=100,
    ),
    ParameterSpec(
        "joint_velocity_noise",
        0.0,
        "Standard deviation of noise on joint velocities, rad/s or m/s.",
        low=0,
        high=1000,
    ),
)


_CONDITIONS = ("mass_factor", "friction_factor", "gain_factor", "delay_steps")
_NOISES = ("joint_position_noise", "joint_velocity_noise")


class SimNode(Node):
    """See the module's docstring.

    Args:
        leave: ends the process, after the last episode.
        arguments: of :class:`rclpy.node.Node`.
    """

    def __init__(self, leave: Exit, **arguments: Any) -> None:
        super().__init__("sim_node", **arguments)
        self._leave = leave
        self._lock = threading.Lock()
        values = declare(self, PARAMETERS)
        self._lockstep = values["mode"] == "lockstep"
        self._episodes_left: int | None = values["episodes"] or None
        self._task = load_task(values["task"])
        self._binding = Binding(
            self._task, load_robot(values["robot"]) if values["robot"] else None
        )
        self._simulation = Simulation(self._task)
        self._goal = self._task.goal
        self._draws_goals = values["goals"] == "drawn"
        if self._goal is not None and not self._draws_goals:
            self._simulation.ask(np.array(list(self._goal.resting.values())))
        self._noise = self._task.simulation.randomize.noise.model_dump()
        defaults = {spec.name: spec.default for spec in PARAMETERS}
        # What the task draws stays drawn, unless something else is asked for.
        self._alter({name: value for name, value in values.items() if value != defaults[name]})
        self.add_on_set_parameters_callback(self._on_parameters)
        self._robot = SimulatedRobot(self._simulation, values["seed"])
        self._actions = len(self._task.action_entries())
        self._command: Vector | None = None  # lockstep: waits for ~/step; realtime: held
        self._paused = self._ended = False
        self._repeated_ns = 0
        self._open_interfaces()
        self._stopping = threading.Event()
        period_s = self._task.control.period_s / values["realtime_factor"]
        self._thread = threading.Thread(
            target=self._run_realtime, args=(period_s,), name="simulation", daemon=True
        )
        self._publish_state()
        if not self._lockstep:
            self._thread.start()

    def _open_interfaces(self) -> None:
        self._clock_publisher = self.create_publisher(Clock, "/clock", RELIABLE)
        binding, topics = self._binding, self._binding.topics
        self._joint_states = open_publisher(self, JointState, topics.joint_states, RELIABLE)
        if self._task.robot.base is not None:
            self._odom = open_publisher(self, Odometry, topics.odom, RELIABLE)
            self._imu = open_publisher(self, Imu, topics.imu, RELIABLE)
        if self._task.sensors:
            self._sensors = open_publisher(self, JointState, topics.sensors, RELIABLE)
        if self._goal is not None:
            self._asking = messages.goal_reader(binding, self._goal, self._draws_goals)
            kind, topic = self._asking.kind, self._asking.topic
            if self._draws_goals:
                self._goals = open_publisher(self, kind, topic, RELIABLE)
            else:
                open_subscription(self, kind, topic, self._on_goal, RELIABLE)
        self._returns = self.create_publisher(Float64, "~/episode_return", LATCHED)
        self._episodes = self.create_publisher(String, "~/episode", LATCHED)
        commands = (
            Float64MultiArray if binding.controller.interface == "forward" else JointTrajectory
        )
        open_subscription(self, commands, binding.controller.topic, self._on_command, RELIABLE)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/step", self._on_step)
        self.create_timer(REPEAT_SECONDS, self._repeat_state, clock=steady_clock())

    def close(self) -> None:
        """End the simulation, and let the last episode's result reach its subscribers."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._simulation.close()
        self._returns.wait_for_all_acked(Duration(seconds=0.5))
        self._episodes.wait_for_all_acked(Duration(seconds=0.5))

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        self._alter({change.name: change.value for change in changes})
        return SetParametersResult(successful=True)

    def _alter(self, values: Mapping[str, Any]) -> None:
        """Take over the factors among ``values``; their ranges have been checked."""
        changes: dict[str, Any] = {
            name.removesuffix("_factor"): values[name] for name in _CONDITIONS if name in values
        }
        noise = {name.removesuffix("_noise"): values[name] for name in _NOISES if name in values}
        with self._lock:
            if noise:
                self._noise |= noise
                changes["noise"] = self._noise
            self._simulation.alter(**changes)

    # Time

    def _on_command(self, message: Float64MultiArray | JointTrajectory) -> None:
        binding, answers_ns = self._binding, None
        try:
            if isinstance(message, JointTrajectory):
                told = messages.read_trajectory(message, binding.command_names)
            else:
                told, answers_ns = messages.read_command(message, self._actions)
            command = binding.command_from_robot(told)
        except messages.CommandError as reason:
            self.get_logger().error(f"refused: {reason}", throttle_duration_sec=1.0)
            return
        with self._lock:
            if self._lockstep:
                if answers_ns is not None and answers_ns != self._robot.stamp_ns:
                    return
                self._command = command
                if not self._paused:
                    self._advance()
            else:
                beginning = self._command is None
                late = answers_ns is not None and answers_ns < self._robot.episode_stamp_ns
                if not (beginning and late):
                    self._command = command

    def _on_goal(self, message: TwistStamped | JointState | Joy) -> None:
        try:
            goal = self._asking.read(message)
        except ObservationError as reason:
            self.get_logger().error(f"refused: {reason}", throttle_duration_sec=1.0)
            return
        with self._lock:
            self._simulation.ask(goal)

    def _run_realtime(self, period_s: float) -> None:
        deadlines = Deadlines(period_s, time.perf_counter())
        while True:
            due, skipped = deadlines.next(time.perf_counter())
            if skipped:
                self.get_logger().warning(
                    f"the simulation is {skipped} steps behind realtime_factor",
                    throttle_duration_sec=5.0,
                )
            if self._stopping.wait(max(0.0, due - time.perf_counter())):
                return
            with self._lock:
                if self._ended:
                    return
                if not self._paused:
                    self._advance()

    def _advance(self) -> None:
        """Let one control period pass, under the present command where there is one."""
        if self._ended:
            return
        if self._command is None:
            self._robot.hold()
        else:
            summary = self._robot.step(self._command)
            if self._lockstep or summary is not None:
                self._command = None
            if summary is not None:
                self._finish(summary)
        if not self._ended:
            self._publish_state()

    def _finish(self, summary: EpisodeSummary) -> None:
        fields = {
            "episode": summary.episode,
            "steps": summary.steps,
            "return": summary.episode_return,
            "terminated": summary.terminated,
        }
        self._returns.publish(Float64(data=summary.episode_return))
        self._episodes.publish(String(data=json.dumps(fields)))
        self.get_logger().info(
            f"episode {summary.episode}: return {summary.episode_return:g} in {summary.steps} steps, "
            + ("terminated" if summary.terminated else "complete")
        )
        if self._episodes_left is not None:
            self._episodes_left -= 1
            if self._episodes_left == 0:
                self._ended = True
                self._leave.request()

    def _publish_state(self) -> None:
        robot, stamp_ns = self._robot, self._robot.stamp_ns
        if self._goal is not None and self._draws_goals:
            self._goals.publish(messages.goal_message(robot.state.goal, self._goal, stamp_ns))
        self._clock_publisher.publish(Clock(clock=messages.ns_to_stamp(stamp_ns)))
        self._joint_states.publish(
            messages.joint_state_message(
                self._binding.to_robot(robot.state.joints), self._binding.names, stamp_ns
            )
        )
        if self._task.robot.base is not None:
            wired = self._binding
            self._odom.publish(
                messages.odometry_message(robot.state, wired.base_frame, stamp_ns, wired.odom_frame)
            )
            self._imu.publish(messages.imu_message(robot.state, wired.imu_frame, stamp_ns))
        if sensors := self._task.sensors:
            self._sensors.publish(messages.sensors_message(robot.state.sensors, sensors, stamp_ns))

    def _repeat_state(self) -> None:
        with self._lock:
            # Only a state that has stood for a whole repeat period: it waits for an answer, or is paused.
            if self._repeated_ns == self._robot.stamp_ns and not self._ended:
                self._publish_state()
            self._repeated_ns = self._robot.stamp_ns

    # Services

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._robot.restart()
            self._command = None
            self._publish_state()
        response.success, response.message = True, "a new episode begins"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._lock:
            self._paused = bool(request.data)
            if not self._paused and self._lockstep and self._command is not None:
                self._advance()
        response.success, response.message = True, "paused" if request.data else "running"
        return response

    def _on_step(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            if not self._paused:
                response.message = "not paused: call ~/pause first"
            elif self._command is None:
                response.message = "no command for the present state yet"
            else:
                self._advance()
                response.success = True
                response.message = f"simulated time {self._robot.stamp_ns * 1e-9:.9g} s"
        return response


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or the last episode."""
    return run_node(SimNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
