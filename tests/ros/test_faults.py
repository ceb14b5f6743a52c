"""Faults of a robot, its simulator, its bundle and its node: what is commanded, what is said, how it ends.

Real processes and DDS. What is expected of each fault is a row of the table in the docs, and each test sees that it is
what comes. ``pytest tests/ros/test_faults.py --fault-table docs/faults.md`` writes the table, once every row has come
true; a test sees that the table there is not another one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import yaml
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_bench import Bench
from std_msgs.msg import Float64MultiArray

from maac_learning.export import export_untrained_bundle
from maac_ros.bundle import load_bundle
from maac_ros.nodes.common import RELIABLE, profile
from maac_ros.nodes.faults import (
    BASE_FAULTS,
    GOAL_FAULTS,
    IMU_FAULTS,
    JOINT_FAULTS,
    StandInRobot,
    resting_state,
)
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.observation import ObservationBuilder
from maac_ros.observation_terms import Goal, InertialTerm
from maac_ros.resources import bundle_folder
from maac_ros.task import load_task

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "faults.md"
MODE = COLUMNS.index("mode")
TICKS = 15
"""That are watched while a fault lasts."""

SAFE, POLICY = "safe", "policy"
AT_REST, WITHIN = "policy, for the resting goal", "policy, for the goal within its range"
AGED = "joint_states is … ms old; limit 500 ms"
AHEAD = "joint_states is stamped … ms in the future"
NORM = "has norm {}; expected 0.95 to 1.05"
NUMBER = "expected a finite number of single precision"
QUIET = "cmd_vel: no goal for … ms; limit 500 ms; the resting goal holds"
STANDS_STILL = "nothing new, as simulated time stands still; safe after 5 s"
DEAF = "nothing has been heard for … s, whatever simulated time it is"
ITSELF, OLD_VALUE = "by itself", "at once: the old value holds"
OLD_BUNDLE = "at once: the old bundle goes on"


class Row(NamedTuple):
    """What comes of a fault. An ellipsis stands for what varies."""

    commanded: str
    said: str = ""
    ends: str = ITSELF


def refused(said, ends=OLD_BUNDLE):
    return Row(POLICY, f"refused: {said}", ends)


EXPECTED = {
    "silence": Row(SAFE, AGED),
    "one message of 50": Row("safe, once each message is too old", AGED),
    "every second message lost": Row(POLICY),
    "duplicated messages": Row(POLICY),
    "reordered messages": Row(POLICY),
    "stamps two seconds late": Row(SAFE, AGED),
    "stamps a second ahead": Row(SAFE, AHEAD),
    "clock an hour behind": Row(SAFE, AGED),
    "clock an hour ahead": Row(SAFE, AHEAD),
    "a stamp that stands still": Row(SAFE, AGED),
    "no stamp": Row(SAFE, "joint_states: header.stamp is 0; its age cannot be told"),
    "joints in another order": Row(POLICY),
    "a joint missing": Row(SAFE, "joint 'hinge' is missing; the message has 'slider'"),
    "a joint renamed": Row(SAFE, "joint 'hinge' is missing; the message has 'slider', 'other'"),
    "a joint listed twice": Row(SAFE, "joints listed more than once: slider"),
    "an empty message": Row(SAFE, "joint 'slider', 'hinge' is missing; the message has no joints"),
    "no velocities": Row(SAFE, "field 'velocity' has 0 values for 2 joints"),
    "a position that is NaN": Row(SAFE, "hinge/position = nan"),
    "a position that is infinite": Row(SAFE, "hinge/position = inf"),
    "a position that is huge": Row(SAFE, "hinge/position = 1e+300"),
    "a position that is implausible": Row(
        SAFE, "observation is implausible: joint_states hinge/position = 5 rad"
    ),
    "a velocity that is NaN": Row(SAFE, "hinge/velocity = nan"),
    "a velocity that is infinite": Row(SAFE, "hinge/velocity = -inf"),
    "a velocity that is huge": Row(SAFE, "hinge/velocity = 1e+300"),
    "silence for longer than `stop_after_ms`": Row(
        SAFE,
        f"stopped until ~/clear_stop: the safe command has lasted 0.5 s: {AGED}",
        "with `~/clear_stop`",
    ),
    "silence, with the trigger `observation`": Row(
        SAFE, "no new observation for … ms; limit 500 ms"
    ),
    "a stamp that stands still, with the trigger `observation`": Row(
        SAFE, "no new observation for … ms; limit 500 ms"
    ),
    "silence of odom alone": Row(SAFE, "odom is … ms old; limit 400 ms"),
    "odom two seconds late": Row(SAFE, "odom is … ms old; limit 400 ms"),
    "odom of another frame": Row(SAFE, "odom: child_frame_id: got 'camera'; expected 'torso'"),
    "odom in another world frame": Row(SAFE, "odom: header.frame_id: got 'map'; expected 'odom'"),
    "odom without orientation": Row(SAFE, f"odom: pose.pose.orientation {NORM.format(0)}"),
    "odom with an orientation that is too short": Row(
        SAFE, f"odom: pose.pose.orientation {NORM.format(0.55)}"
    ),
    "odom with an orientation that is NaN": Row(
        SAFE, f"odom: pose.pose.orientation.y = nan; {NUMBER}"
    ),
    "odom with a position that is NaN": Row(SAFE, f"odom: pose.pose.position.z = nan; {NUMBER}"),
    "odom with a position that is infinite": Row(
        SAFE, f"odom: pose.pose.position.z = -inf; {NUMBER}"
    ),
    "odom with a position that is huge": Row(
        SAFE, f"odom: pose.pose.position.z = 1e+300; {NUMBER}"
    ),
    "odom with a velocity that is NaN": Row(SAFE, f"odom: twist.twist.linear.y = nan; {NUMBER}"),
    "odom with a velocity that is infinite": Row(
        SAFE, f"odom: twist.twist.linear.y = inf; {NUMBER}"
    ),
    "odom with a velocity that is huge": Row(
        SAFE, f"odom: twist.twist.linear.y = 1e+300; {NUMBER}"
    ),
    "odom with a turning rate that is NaN": Row(
        SAFE, f"odom: twist.twist.angular.z = nan; {NUMBER}"
    ),
    "odom with a turning rate that is infinite": Row(
        SAFE, f"odom: twist.twist.angular.z = inf; {NUMBER}"
    ),
    "odom with a turning rate that is huge": Row(
        SAFE, f"odom: twist.twist.angular.z = 1e+300; {NUMBER}"
    ),
    "silence of imu alone": Row(SAFE, "imu is … ms old; limit 500 ms"),
    "imu two seconds late": Row(SAFE, "imu is … ms old; limit 500 ms"),
    "imu of another frame": Row(SAFE, "imu: header.frame_id: got 'camera'; expected 'imu_link'"),
    "imu that gives no orientation": Row(
        SAFE, "imu: orientation_covariance[0] is -1: the orientation is not given"
    ),
    "imu without orientation": Row(SAFE, f"imu: orientation {NORM.format(0)}"),
    "imu with an orientation that is too long": Row(SAFE, f"imu: orientation {NORM.format(1.45)}"),
    "imu with an orientation that is NaN": Row(SAFE, f"imu: orientation.x = nan; {NUMBER}"),
    "imu with a turning rate that is NaN": Row(SAFE, f"imu: angular_velocity.y = nan; {NUMBER}"),
    "imu with a turning rate that is infinite": Row(
        SAFE, f"imu: angular_velocity.y = -inf; {NUMBER}"
    ),
    "imu with a turning rate that is huge": Row(
        SAFE, f"imu: angular_velocity.y = 1e+300; {NUMBER}"
    ),
    "no more velocity commands": Row(AT_REST, QUIET),
    "velocity commands two seconds late": Row(
        AT_REST, f"cmd_vel: header.stamp is … ms old; limit 500 ms; {QUIET}"
    ),
    "velocity commands an hour ahead": Row(
        AT_REST,
        "cmd_vel: header.stamp is … ms in the future; limit 1000 ms; are the clocks synchronised?; "
        + QUIET,
    ),
    "velocity commands without a stamp": Row(POLICY),
    "reordered velocity commands": Row(POLICY),
    "a velocity command that is NaN": Row(
        AT_REST, f"cmd_vel: linear_x = nan; expected a finite number; {QUIET}"
    ),
    "a velocity command that is infinite": Row(
        AT_REST, f"cmd_vel: linear_x = inf; expected a finite number; {QUIET}"
    ),
    "a velocity command beyond its range": Row(WITHIN, "cmd_vel: linear_x = 3 m/s, clipped to 1"),
    "parameter out of range": refused("Parameter mpc.horizon out of range…value: 101", OLD_VALUE),
    # Types have a name in one distribution and a number in another.
    "parameter of another type": refused("Wrong parameter type, expected '…' got '…'", OLD_VALUE),
    "parameter that is NaN": refused("Parameter mpc.budget_ms out of range…value: nan", OLD_VALUE),
    "parameter that is read at configure": refused(
        "trigger: is read at configure only; clean up the node first", OLD_VALUE
    ),
    "reload: a file cut short": refused(
        "policy.onnx: sha256: got …; expected … (file damaged or replaced)"
    ),
    "reload: a bit flipped": refused(
        "model.onnx: sha256: got …; expected … (file damaged or replaced)"
    ),
    "reload: a file gone": refused("value.onnx: cannot be read: No such file or directory"),
    "reload: weights that are NaN": refused(
        "policy.onnx: output 'action' is not finite on the golden inputs"
    ),
    "reload: weights outside the file": refused(
        "policy.onnx: tensor 'policy._mlp._gain0': its data lies outside the file; expected it inside"
    ),
    "reload: another schema version": refused(
        "bundle.yaml: schema_version: got 99; expected 2 (export the bundle again)"
    ),
    "reload: the bundle of another task": refused(
        "bundle '…' does not fit task 'inverted_pendulum': task name: the bundle has 'hopper'; the task needs "
        "'inverted_pendulum'"
    ),
    "a plan that does not fit the period": Row(
        POLICY, "policy: no plan fits 32.0 ms", "as soon as one fits"
    ),
    "the node frozen for half a second": Row(
        "nothing, then as before", "… deadlines missed (thread_priority is 0)"
    ),
    "a second policy node on the same topic": Row(
        "policy of the first; nothing by the second, which is not activated",
        "somebody else commands on /policy_controller/commands",
        "when it is activated after the first has ended",
    ),
    "somebody else on the same topic": Row(
        "by both", "1 more publish commands on the same topic", "when one of them ends"
    ),
    "the node killed (`kill -9`)": Row(
        "nothing: the robot's controller must time out",
        "no more `/diagnostics`",
        "when it is started again",
    ),
    "the simulator frozen": Row(STANDS_STILL, DEAF, "when it goes on"),
    "a simulator ten times slower": Row(POLICY, "", "not needed: ages are in simulated time"),
    "the simulator killed (`kill -9`)": Row(
        STANDS_STILL, DEAF, "when it is started again, though its time begins anew"
    ),
}

HEAD = """# What can go wrong, and what happens then

Written by the tests that make each fault, with real processes (`tests/ros/test_faults.py`): the robot's messages come
from a stand-in, the policy node runs in a process of its own at its bundle's rate. *Safe* is the task's safe command,
published explicitly; *policy* means that the policy goes on commanding. What is said is on `/diagnostics`, or in the
answer of the service or the parameter; an ellipsis stands for what varies.

| fault | commanded | said | ends |
|-|-|-|-|
"""


def text():
    """Of the docs."""
    rows = (
        (name, row.commanded, row.said.replace("|", "\\|") or "–", row.ends)
        for name, row in EXPECTED.items()
    )
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


class Table:
    """Which rows have come true."""

    def __init__(self):
        self.seen = set()

    def add(self, fault):
        self.seen.add(fault)


@pytest.fixture(scope="module")
def table(request):
    made = Table()
    path = request.config.getoption("--fault-table")
    if path and hasattr(request.config, "workerinput"):
        pytest.fail("--fault-table: needs all faults in one process; leave out -n")
    yield made
    if path:
        if missing := [fault for fault in EXPECTED if fault not in made.seen]:
            pytest.fail(f"--fault-table: nothing is written without: {', '.join(missing)}")
        Path(path).write_text(text(), encoding="utf-8")


def matches(said, told, whole=False):
    find = re.fullmatch if whole else re.search
    return find(".+".join(map(re.escape, said.split("…"))), told) is not None


class Rig:
    """A policy node in a process of its own, and the robot that it thinks it has."""

    def __init__(self, bundle, log, goal=None, **parameters):
        self.bench = Bench()
        self.bundle = load_bundle(str(bundle))
        self.low = np.array([a.low for a in self.bundle.manifest.action])
        self.high = np.array([a.high for a in self.bundle.manifest.action])
        self.commands = self.bench.commands()
        self.ticks = self.bench.listen(
            Float64MultiArray, "/policy_node/telemetry", profile(depth=5000)
        )
        self.statuses = self.bench.diagnostics()
        task = self.bundle.task
        self.robot = StandInRobot(self.bench.probe, task, lambda: resting_state(task), goal=goal)
        self.log = log
        self.parameters = {"bundle": str(bundle), "autostart": True, "stop_after_ms": 0.0}
        self.parameters["max_observation_age_ms"] = 500.0
        self.parameters |= parameters
        self.process = self.start()

    def start(self, module="maac_ros.nodes.policy_node", name=None, **parameters):
        values = parameters or self.parameters
        words = [word for k, v in values.items() for word in ("-p", f"{k}:={json.dumps(v)}")]
        words += ["-r", f"__node:={name}"] if name else []
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with self.log.open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, "--ros-args", *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path},
            )

    def until(self, predicate, what="what the test waits for"):
        def check():
            self.robot.pump()
            return predicate()

        self.bench.until(check, what)

    def modes(self, since):
        return [MODES[int(tick.data[MODE])] for tick in self.ticks[since:]]

    def transition(self, node, number):
        """Ask a node for a transition of its lifecycle; returns whether it came about."""
        client = self.bench.probe.create_client(ChangeState, f"{node}/change_state")
        self.until(client.service_is_ready, f"service of {node}")
        request = ChangeState.Request()
        request.transition.id = number
        future = client.call_async(request)
        self.until(future.done, "answer")
        return future.result().success

    def healthy(self):
        """Wait until the policy has commanded for some ticks in a row."""
        since = len(self.ticks)
        self.until(lambda: self.modes(since)[-5:] == [POLICY] * 5, "commands of the policy")

    def said(self, text, since):
        """Wait for a status that says so, and return its message."""
        heard = self.statuses
        self.until(lambda: any(matches(text, s[1]) for s in heard[since:]), f"'{text}'")
        return next(s[1] for s in heard[since:] if matches(text, s[1]))

    def silent(self, text):
        """Wait for a status without ``text``: each tells the worst since the one before, an earlier fault perhaps."""
        since = len(self.statuses)
        self.until(
            lambda: any(not matches(text, s[1]) for s in self.statuses[since:]),
            f"a status without '{text}'",
        )

    def watch(self):
        """Modes of some ticks, and the commands meanwhile."""
        ticks, commands = len(self.ticks), len(self.commands)
        self.until(lambda: len(self.ticks) >= ticks + TICKS, "ticks")
        return set(self.modes(ticks)), np.array([list(c.data) for c in self.commands[commands:]])

    def overtaken(self):
        """How many messages are said to have been dropped; 0 before anything is said."""
        return int(self.statuses[-1][2].get("overtaken_messages", 0)) if self.statuses else 0

    def ready(self):
        self.until(self.robot.heard, "listener")
        self.healthy()

    def check(self):
        """No command that was ever sent is unsafe."""
        values = np.array([list(command.data) for command in self.commands])
        assert np.isfinite(values).all()
        assert (values >= self.low).all()
        assert (values <= self.high).all()

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(15)
        self.bench.close()


class Rigs:
    """The rig under test: nodes of two would hear each other."""

    def __init__(self, folder):
        self._folder = folder
        self._name, self._rig = "", None

    def get(self, name, make):
        """The rig of that name, made when another was in use."""
        if name != self._name:
            self.close()
            self._rig = make(self._folder / f"{name}.log")
            self._name = name
            self._rig.ready()
        return self._rig

    def close(self):
        if self._rig is None:
            return
        rig, self._rig, self._name = self._rig, None, ""
        try:
            rig.check()
        finally:
            rig.close()


@pytest.fixture(scope="module")
def rigs(tmp_path_factory):
    made = Rigs(tmp_path_factory.mktemp("rigs"))
    yield made
    made.close()


@pytest.fixture
def pendulum(rigs):
    return rigs.get("pendulum", lambda log: Rig(bundle_folder("inverted_pendulum"), log))


@pytest.fixture
def ant(rigs, untrained_bundle):
    return rigs.get(
        "ant", lambda log: Rig(untrained_bundle("ant").path, log, max_odom_age_ms=400.0)
    )


@pytest.fixture
def triggered(rigs):
    return rigs.get(
        "triggered", lambda log: Rig(bundle_folder("inverted_pendulum"), log, trigger="observation")
    )


@pytest.fixture
def imu_ant(rigs, tmp_path_factory):
    """An ant that knows its rotation from an IMU."""

    def make(log):
        task = load_task("ant")
        told = [
            term.model_copy(update={"source": "imu"}) if isinstance(term, InertialTerm) else term
            for term in task.observation
        ]
        task = task.model_copy(update={"observation": tuple(told)})
        folder = tmp_path_factory.mktemp("imu") / "ant"
        return Rig(export_untrained_bundle(task, folder).path, log)

    return rigs.get("imu_ant", make)


ASKED = np.array([0.5, -1.0])
"""Of the walking arm."""


@pytest.fixture
def walker(rigs, tmp_path_factory):
    """An arm that is asked for velocities, as if it walked."""

    def make(log):
        arm = load_task("reaching_arm")
        ranges = {"linear_x": (-1.0, 1.0), "angular_z": (-2.0, 2.0)}
        goal = Goal(term="goal", source="cmd_vel", ranges=ranges, timeout_s=0.5)
        effort = arm.reward.model_copy(update={"analytic": (arm.reward.analytic[-1],)})
        observation = (*arm.observation[:-1], goal)
        task = arm.model_copy(
            update={"name": "walking_arm", "observation": observation, "reward": effort}
        )
        folder = tmp_path_factory.mktemp("walker") / "arm"
        return Rig(export_untrained_bundle(task, folder).path, log, goal=ASKED)

    return rigs.get("walker", make)


@pytest.fixture
def simulated(rigs):
    return rigs.get("simulated", Simulated)


def endure(rig, fault, table, name=""):
    """Let ``fault`` befall the messages, see what is commanded and said, and that it ends with the fault.

    Returns the message that says so.
    """
    name = name or fault.name
    row, told = EXPECTED[name], ""
    assert (fault.effect == "none") == row.commanded.startswith(POLICY)
    rig.healthy()
    _, before = rig.watch()
    if row.said:
        rig.silent(row.said)
    statuses, ticks = len(rig.statuses), len(rig.ticks)
    rig.robot.befall(fault)
    try:
        if row.said:
            told = rig.said(row.said, statuses)
        modes, commands = rig.watch()
    finally:
        rig.robot.befall(None)
    if fault.effect == "none":
        assert set(rig.modes(ticks)) == {POLICY}
        np.testing.assert_array_equal(commands, np.broadcast_to(before[-1], commands.shape))
    else:
        # A message now and then is good for a few ticks, until it is too old.
        assert SAFE in set(rig.modes(ticks))
        if fault.effect == "safe":
            assert modes == {SAFE}
            assert not commands.any()
    rig.healthy()
    table.add(name)
    return told


def test_lasting_silence_latches_the_stop(pendulum, table):
    """Before all other faults of that node, as those would count too."""
    rig, name = pendulum, "silence for longer than `stop_after_ms`"
    assert set_parameter(rig, "stop_after_ms", 500.0).successful
    rig.healthy()
    statuses = len(rig.statuses)
    rig.robot.befall(JOINT_FAULTS[0])
    rig.said(EXPECTED[name].said, statuses)
    rig.robot.befall(None)
    modes, commands = rig.watch()
    assert modes == {"stopped"}
    assert not commands.any()
    assert set_parameter(rig, "stop_after_ms", 0.0).successful
    assert trigger(rig, "clear_stop").success
    rig.healthy()
    table.add(name)


@pytest.mark.parametrize("fault", JOINT_FAULTS, ids=lambda fault: fault.name)
def test_fault_of_joint_states(pendulum, table, fault):
    endure(pendulum, fault, table)


@pytest.mark.parametrize("name", ["silence", "a stamp that stands still"])
def test_fault_of_what_triggers_the_ticks(triggered, table, name):
    (fault,) = (fault for fault in JOINT_FAULTS if fault.name == name)
    told = endure(triggered, fault, table, f"{name}, with the trigger `observation`")
    # The first safe command of the fault says how old the last answer was.
    assert 500 <= int(re.search(r"for (\d+) ms", told)[1]) <= 1000


@pytest.mark.parametrize("fault", BASE_FAULTS, ids=lambda fault: fault.name)
def test_fault_of_odometry(ant, table, fault):
    endure(ant, fault, table)


@pytest.mark.parametrize("fault", IMU_FAULTS, ids=lambda fault: fault.name)
def test_fault_of_an_imu(imu_ant, table, fault):
    endure(imu_ant, fault, table)


HOLDS = {POLICY: ASKED, AT_REST: np.zeros(2), WITHIN: np.array([1.0, -1.0])}
"""The goal that the policy acts for."""


@pytest.mark.parametrize("fault", GOAL_FAULTS, ids=lambda fault: fault.name)
def test_fault_of_goals(walker, table, fault):
    rig, row = walker, EXPECTED[fault.name]
    state = resting_state(rig.bundle.task)

    def answer(goal):
        state.goal = goal
        observation = ObservationBuilder(rig.bundle.task).build(state).astype(np.float32)
        return rig.bundle.policy(observation=observation[None])[0][0].astype(np.float64)

    def answered(goal):
        return bool(rig.commands) and np.array_equal(rig.commands[-1].data, answer(goal))

    rig.until(lambda: answered(ASKED), "answer to the goal")
    statuses, ticks = len(rig.statuses), len(rig.ticks)
    dropped = rig.overtaken()
    rig.robot.befall(fault)
    try:
        if row.said:
            rig.said(row.said, statuses)
        _, commands = rig.watch()
        if fault.name == "reordered velocity commands":
            rig.until(lambda: rig.overtaken() > dropped, "overtaken message")
    finally:
        rig.robot.befall(None)
    expected = answer(HOLDS[row.commanded])
    np.testing.assert_array_equal(commands, np.broadcast_to(expected, commands.shape))
    assert set(rig.modes(ticks)) == {POLICY}
    rig.until(lambda: answered(ASKED), "answer to the goal")
    rig.silent("cmd_vel")
    table.add(fault.name)


def set_parameter(rig, name, value):
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return call(rig, SetParameters, "set_parameters", request).results[0]


def trigger(rig, name):
    from std_srvs.srv import Trigger

    return call(rig, Trigger, name, Trigger.Request())


def call(rig, kind, name, request):
    client = rig.bench.probe.create_client(kind, f"/policy_node/{name}")
    rig.until(client.service_is_ready, f"service {name}")
    future = client.call_async(request)
    rig.until(future.done, "answer")
    return future.result()


@pytest.mark.parametrize(
    ("fault", "name", "value"),
    [
        ("parameter out of range", "mpc.horizon", 101),
        ("parameter of another type", "use_mpc", 7),
        ("parameter that is NaN", "mpc.budget_ms", float("nan")),
        ("parameter that is read at configure", "trigger", "observation"),
    ],
)
def test_fault_of_a_parameter(pendulum, table, fault, name, value):
    pendulum.healthy()
    ticks = len(pendulum.ticks)
    answer = set_parameter(pendulum, name, value)
    assert not answer.successful
    assert matches(EXPECTED[fault].said, f"refused: {answer.reason}", whole=True), answer.reason
    pendulum.watch()
    assert set(pendulum.modes(ticks)) == {POLICY}
    table.add(fault)


def truncate(folder):
    data = (folder / "policy.onnx").read_bytes()
    (folder / "policy.onnx").write_bytes(data[: len(data) // 2])


def flip(folder):
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)


def remove(folder):
    (folder / "value.onnx").unlink()


def reseal(folder, name, data):
    """Replace a file, and its digest."""
    import hashlib

    (folder / name).write_bytes(data)
    manifest = yaml.safe_load((folder / "bundle.yaml").read_text())
    manifest["sha256"][name] = hashlib.sha256(data).hexdigest()
    (folder / "bundle.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def edit_graph(folder, edit):
    model = onnx.load(folder / "policy.onnx")
    edit(model)
    reseal(folder, "policy.onnx", model.SerializeToString())


def nan_weights(folder):
    def edit(model):
        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()

    edit_graph(folder, edit)


def external_data(folder):
    def edit(model):
        tensor = model.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secret")

    edit_graph(folder, edit)


def schema_version(folder):
    text = (folder / "bundle.yaml").read_text()
    (folder / "bundle.yaml").write_text(
        re.sub(r"schema_version: \d+", "schema_version: 99", text, count=1)
    )


def other_task(folder):
    shutil.rmtree(folder)
    shutil.copytree(bundle_folder("hopper"), folder)


def used(rig):
    """The bundle that the node says it runs."""
    return rig.statuses[-1][2].get("bundle") if rig.statuses else None


@pytest.fixture
def damaged(pendulum, tmp_path):
    """``damaged(damage)``: what a reload says of the bundle that runs, once its files are damaged."""
    rig, folder = pendulum, tmp_path / "bundle"
    shutil.copytree(rig.bundle.path, folder)
    assert set_parameter(rig, "bundle", str(folder)).successful
    rig.until(lambda: used(rig) == str(folder), "bundle")

    def reload(damage):
        damage(folder)
        answer = trigger(rig, "reload")
        assert not answer.success
        return answer.message.replace(f"{folder}/", "").partition("\n")[0]

    yield reload
    assert set_parameter(rig, "bundle", str(rig.bundle.path)).successful
    assert trigger(rig, "reload").success
    rig.until(lambda: used(rig) == str(rig.bundle.path), "bundle")


@pytest.mark.parametrize(
    ("fault", "damage"),
    [
        ("reload: a file cut short", truncate),
        ("reload: a bit flipped", flip),
        ("reload: a file gone", remove),
        ("reload: weights that are NaN", nan_weights),
        ("reload: weights outside the file", external_data),
        ("reload: another schema version", schema_version),
        ("reload: the bundle of another task", other_task),
    ],
)
def test_fault_of_a_bundle(pendulum, table, damaged, fault, damage):
    pendulum.healthy()
    ticks = len(pendulum.ticks)
    told = damaged(damage)
    assert matches(EXPECTED[fault].said, f"refused: {told}", whole=True), told
    pendulum.watch()
    assert set(pendulum.modes(ticks)) == {POLICY}
    table.add(fault)


def test_model_that_is_slower_than_the_period(pendulum, table):
    rig, name = pendulum, "a plan that does not fit the period"
    rig.healthy()
    ticks = len(rig.ticks)
    # The stand-in does not move as a pendulum would: its model would be doubted.
    assert set_parameter(rig, "mpc.model_fallback", False).successful
    assert set_parameter(rig, "mpc.candidates", 16384).successful
    assert set_parameter(rig, "use_mpc", True).successful
    rig.said(EXPECTED[name].said, len(rig.statuses))
    rig.watch()
    assert set(rig.modes(ticks)) == {POLICY}
    assert set_parameter(rig, "mpc.candidates", 16).successful
    ticks = len(rig.ticks)
    rig.until(lambda: "mpc" in rig.modes(ticks), "plan")
    assert set_parameter(rig, "use_mpc", False).successful
    assert set_parameter(rig, "mpc.model_fallback", True).successful
    rig.healthy()
    table.add(name)


def test_node_that_is_frozen(pendulum, table):
    rig, name = pendulum, "the node frozen for half a second"
    rig.healthy()
    ticks, statuses = len(rig.ticks), len(rig.statuses)
    rig.process.send_signal(signal.SIGSTOP)
    thawed = time.monotonic() + 0.5
    rig.until(lambda: time.monotonic() > thawed, "half a second")
    rig.process.send_signal(signal.SIGCONT)
    said = EXPECTED[name].said
    rig.until(
        lambda: any(matches(said, s[1]) or "safe" in s[1] for s in rig.statuses[statuses:]), said
    )
    rig.healthy()
    assert max(tick.data[COLUMNS.index("missed")] for tick in rig.ticks[ticks:]) >= 10
    table.add(name)


def test_second_policy_node_on_one_topic(pendulum, table):
    rig, name = pendulum, "a second policy node on the same topic"
    rig.healthy()
    rig.parameters, first = {**rig.parameters, "autostart": False}, rig.parameters
    second = rig.start(name="second")
    rig.parameters = first
    try:
        transition = partial(rig.transition, "/second")
        assert transition(Transition.TRANSITION_CONFIGURE)
        rig.said(
            "1 more publish commands on the same topic", len(rig.statuses)
        )  # they know of each other
        for _ in range(2):
            since = len(rig.statuses)
            assert not transition(Transition.TRANSITION_ACTIVATE)
            rig.said(EXPECTED[name].said, since)
        rig.healthy()
        rig.process.send_signal(signal.SIGINT)
        assert rig.process.wait(15) == 0
        commands = len(rig.commands)
        assert transition(Transition.TRANSITION_ACTIVATE)
        rig.until(lambda: len(rig.commands) > commands + 5, "commands of the second")
    finally:
        second.send_signal(signal.SIGINT)
        assert second.wait(15) == 0
    rig.process = rig.start()
    rig.healthy()
    table.add(name)


def test_somebody_else_on_the_command_topic(pendulum, table):
    rig, name = pendulum, "somebody else on the same topic"
    rig.healthy()
    said = EXPECTED[name].said
    topic = "policy_controller/commands"
    publisher = rig.bench.probe.create_publisher(Float64MultiArray, topic, RELIABLE)
    rig.said(said, len(rig.statuses))
    rig.bench.probe.destroy_publisher(publisher)
    rig.silent(said)
    rig.healthy()
    table.add(name)


def test_node_that_is_killed_and_started_again(pendulum, table):
    rig = pendulum
    rig.process.kill()
    rig.process.wait()
    rig.process = rig.start()
    ticks = len(rig.ticks)
    rig.until(lambda: len(rig.ticks) > ticks, "tick of the new process")
    rig.healthy()
    table.add("the node killed (`kill -9`)")


class Simulated:
    """Simulator and policy node, a process each."""

    def __init__(self, log):
        self.bench = Bench()
        self.log = log
        self.ticks = self.bench.listen(
            Float64MultiArray, "/policy_node/telemetry", profile(depth=5000)
        )
        self.statuses = self.bench.diagnostics()
        self.simulator = self.start("sim_node", seed=1)
        self.policy = self.start(
            "policy_node",
            bundle="inverted_pendulum",
            trigger="observation",
            use_sim_time=True,
            reliable_sensors=True,
            stop_after_ms=0.0,
            autostart=True,
        )

    def start(self, name, **parameters):
        return Rig.start(self, f"maac_ros.nodes.{name}", **parameters)

    def until(self, predicate, what):
        self.bench.until(predicate, what)

    modes, healthy, said = Rig.modes, Rig.healthy, Rig.said

    def ready(self):
        self.healthy()

    def check(self):
        assert set(self.modes(0)) <= {SAFE, POLICY}

    def no_ticks(self):
        """Wait until none has come for some periods."""
        seen, since = len(self.ticks), time.monotonic()

        def quiet():
            nonlocal seen, since
            if len(self.ticks) != seen:
                seen, since = len(self.ticks), time.monotonic()
            return time.monotonic() - since > 0.3

        self.bench.until(quiet, "silence")

    def close(self):
        for process in (self.policy, self.simulator):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGINT)
                process.wait(15)
        self.bench.close()


def test_simulator_that_is_paused(simulated, table):
    name = "the simulator frozen"
    simulated.simulator.send_signal(signal.SIGSTOP)
    simulated.no_ticks()
    simulated.said(EXPECTED[name].said, len(simulated.statuses))
    assert simulated.modes(-1) == [SAFE]
    simulated.simulator.send_signal(signal.SIGCONT)
    simulated.healthy()
    table.add(name)


def test_simulator_that_is_slow(simulated, table):
    simulated.simulator.send_signal(signal.SIGINT)
    simulated.simulator.wait(15)
    simulated.no_ticks()
    simulated.simulator = simulated.start("sim_node", seed=3, realtime_factor=0.1)
    simulated.healthy()
    ticks = len(simulated.ticks)
    simulated.until(lambda: len(simulated.ticks) >= ticks + 5, "ticks")
    assert set(simulated.modes(ticks)) == {POLICY}
    table.add("a simulator ten times slower")


def test_simulator_that_is_killed_and_started_again(simulated, table):
    name = "the simulator killed (`kill -9`)"
    statuses = len(simulated.statuses)
    simulated.simulator.kill()
    simulated.simulator.wait()
    simulated.no_ticks()
    simulated.said(EXPECTED[name].said, statuses)
    assert simulated.modes(-1) == [SAFE]
    simulated.simulator = simulated.start("sim_node", seed=2)
    simulated.healthy()
    table.add(name)


def test_table_in_the_docs_is_that_of_these_tests(request):
    if request.config.getoption("--fault-table"):
        pytest.skip("it is being written")
    assert DOCS.read_text(encoding="utf-8") == text()
