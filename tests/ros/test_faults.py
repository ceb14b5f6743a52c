"""Faults of a robot, its simulator, its bundle and its node: what is commanded, what is said, how it ends.

Real processes and DDS. ``pytest tests/ros/test_faults.py --fault-table docs/faults.md`` writes what was observed as
the table of the docs; a test sees that the table there is not another one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from node_bench import Bench
from std_msgs.msg import Float64MultiArray

from maac_ros.bundle import load_bundle
from maac_ros.nodes.common import profile
from maac_ros.nodes.faults import BASE_FAULTS, JOINT_FAULTS, StandInRobot, resting_state
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.resources import bundle_folder

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "faults.md"
MODE = COLUMNS.index("mode")
TICKS = 15
"""That are watched while a fault lasts."""

SAFE, POLICY = "safe", "policy"
AGED = "joint_states is … ms old; limit 500 ms"
ITSELF = "by itself"

EXPECTED = {
    "silence": (SAFE, AGED),
    "one message of 50": (SAFE, AGED),
    "every second message lost": (POLICY, ""),
    "duplicated messages": (POLICY, ""),
    "reordered messages": (POLICY, ""),
    "stamps two seconds late": (SAFE, AGED),
    "stamps a second ahead": (SAFE, "joint_states is stamped … ms in the future"),
    "clock an hour behind": (SAFE, AGED),
    "clock an hour ahead": (SAFE, "joint_states is stamped … ms in the future"),
    "no stamp": (SAFE, "joint_states: header.stamp is 0; its age cannot be told"),
    "joints in another order": (POLICY, ""),
    "a joint missing": (SAFE, "joint 'hinge' is missing; the message has 'slider'"),
    "a joint renamed": (SAFE, "joint 'hinge' is missing; the message has 'slider', 'other'"),
    "a joint listed twice": (SAFE, "joints listed more than once: slider"),
    "an empty message": (SAFE, "joint 'slider', 'hinge' is missing; the message has no joints"),
    "no velocities": (SAFE, "field 'velocity' has 0 values for 2 joints"),
    "a position that is NaN": (SAFE, "hinge/position = nan"),
    "a position that is infinite": (SAFE, "hinge/position = inf"),
    "a position that is huge": (SAFE, "hinge/position = 1e+300"),
    "a position that is implausible": (
        SAFE,
        "observation is implausible: joint_states hinge/position = 5 rad",
    ),
    "a velocity that is NaN": (SAFE, "hinge/velocity = nan"),
    "a velocity that is infinite": (SAFE, "hinge/velocity = -inf"),
    "a velocity that is huge": (SAFE, "hinge/velocity = 1e+300"),
    "silence of odom alone": (SAFE, "odom is … ms old; limit 400 ms"),
    "odom of another frame": (SAFE, "odom: child_frame_id: got 'camera'; expected 'torso'"),
    "odom without orientation": (
        SAFE,
        "odom: pose.pose.orientation has length 0; expected a unit quaternion",
    ),
    "a base position that is NaN": (SAFE, "base/position_z = nan"),
    "a base velocity that is NaN": (SAFE, "base/linear_velocity_x = nan"),
    "a base velocity that is infinite": (SAFE, "base/linear_velocity_x = inf"),
}


@dataclass
class Row:
    """A line of the table, as it was observed."""

    fault: str
    commanded: str
    said: str
    ends: str

    def __str__(self):
        said = self.said.replace("|", "\\|") or "–"
        return f"| {self.fault} | {self.commanded} | {said} | {self.ends} |"


@dataclass
class Table:
    rows: list = field(default_factory=list)

    def add(self, fault, commanded, said="", ends=ITSELF):
        self.rows.append(Row(fault, commanded, said, ends))


HEAD = """# What can go wrong, and what happens then

Written by the tests that make each fault, with real processes (`tests/ros/test_faults.py`): the robot's messages come
from a stand-in, the policy node runs in a process of its own at its bundle's rate. *Safe* is the task's safe command,
published explicitly; *policy* means that the policy goes on commanding. What is said is on `/diagnostics`, or in the
answer of the service or the parameter; an ellipsis stands for a number that varies.

| fault | commanded | said | ends |
|-|-|-|-|
"""


@pytest.fixture(scope="module")
def table(request):
    made = Table()
    path = request.config.getoption("--fault-table")
    if path and hasattr(request.config, "workerinput"):
        pytest.fail("--fault-table: needs all faults in one process; leave out -n")
    yield made
    if path:
        Path(path).write_text(HEAD + "\n".join(map(str, made.rows)) + "\n", encoding="utf-8")


def matches(said, text):
    return re.search(".+".join(map(re.escape, said.split("…"))), text) is not None


class Rig:
    """A policy node in a process of its own, and the robot that it thinks it has."""

    def __init__(self, bundle, log, **parameters):
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
        self.robot = StandInRobot(self.bench.probe, task, lambda: resting_state(task))
        self.log = log
        self.parameters = {"bundle": str(bundle), "autostart": True, "stop_after_ms": 0.0}
        self.parameters["max_observation_age_ms"] = 500.0
        self.parameters |= parameters
        self.process = self.start()

    def start(self, module="maac_ros.nodes.policy_node", **parameters):
        values = parameters or self.parameters
        words = [word for k, v in values.items() for word in ("-p", f"{k}:={json.dumps(v)}")]
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

    def healthy(self):
        """Wait until the policy has commanded for some ticks in a row."""
        since = len(self.ticks)
        self.until(lambda: self.modes(since)[-5:] == [POLICY] * 5, "commands of the policy")

    def said(self, text, since):
        """Wait for a status that says so; returns the modes of some ticks while it lasts."""
        self.until(lambda: any(matches(text, s[1]) for s in self.statuses[since:]), f"'{text}'")

    def watch(self):
        """Modes of some ticks, and the commands meanwhile."""
        ticks, commands = len(self.ticks), len(self.commands)
        self.until(lambda: len(self.ticks) >= ticks + TICKS, "ticks")
        return set(self.modes(ticks)), np.array([list(c.data) for c in self.commands[commands:]])

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
def simulated(rigs):
    return rigs.get("simulated", Simulated)


def endure(rig, fault, table):
    """Let ``fault`` befall the messages, see what is commanded and said, and that it ends with the fault."""
    expected, said = EXPECTED[fault.name]
    assert (fault.effect == "none") == (expected == POLICY)
    rig.healthy()
    _, before = rig.watch()
    statuses, ticks = len(rig.statuses), len(rig.ticks)
    rig.robot.befall(fault)
    try:
        if said:
            rig.said(said, statuses)
        modes, commands = rig.watch()
    finally:
        rig.robot.befall(None)
    if expected == SAFE:
        # A message now and then is good for a few ticks, until it is too old.
        assert SAFE in set(rig.modes(ticks))
        if fault.effect == "safe":
            assert modes == {SAFE}
            assert not commands.any()
    else:
        assert set(rig.modes(ticks)) == {POLICY}
        np.testing.assert_array_equal(commands, np.broadcast_to(before[-1], commands.shape))
    rig.healthy()
    commanded = (
        "safe, once each message is too old" if fault.effect == "safe at times" else expected
    )
    table.add(fault.name, commanded, said)


@pytest.mark.parametrize("fault", JOINT_FAULTS, ids=lambda fault: fault.name)
def test_fault_of_joint_states(pendulum, table, fault):
    endure(pendulum, fault, table)


@pytest.mark.parametrize("fault", BASE_FAULTS, ids=lambda fault: fault.name)
def test_fault_of_odometry(ant, table, fault):
    endure(ant, fault, table)


def test_lasting_silence_latches_the_stop(pendulum, table):
    rig = pendulum
    assert set_parameter(rig, "stop_after_ms", 500.0).successful
    rig.healthy()
    statuses = len(rig.statuses)
    rig.robot.befall(JOINT_FAULTS[0])
    said = "stopped until ~/clear_stop: the safe command has lasted 0.5 s: " + AGED
    rig.said(said, statuses)
    rig.robot.befall(None)
    modes, commands = rig.watch()
    assert modes == {"stopped"}
    assert not commands.any()
    assert set_parameter(rig, "stop_after_ms", 0.0).successful
    assert trigger(rig, "clear_stop").success
    rig.healthy()
    table.add("silence for longer than `stop_after_ms`", SAFE, said, "with `~/clear_stop`")


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
    ("fault", "name", "value", "said"),
    [
        ("parameter out of range", "mpc.horizon", 101, "mpc.horizon"),
        ("parameter of another type", "use_mpc", 7, "expected 'Type.BOOL' got 'Type.INTEGER'"),
        (
            "parameter that is NaN",
            "mpc.budget_ms",
            float("nan"),
            "mpc.budget_ms",
        ),
        (
            "parameter that is read at configure",
            "trigger",
            "observation",
            "trigger: is read at configure only; clean up the node first",
        ),
    ],
)
def test_fault_of_a_parameter(pendulum, table, fault, name, value, said):
    pendulum.healthy()
    ticks = len(pendulum.ticks)
    answer = set_parameter(pendulum, name, value)
    assert not answer.successful
    assert said in answer.reason
    pendulum.watch()
    assert set(pendulum.modes(ticks)) == {POLICY}
    table.add(fault, POLICY, f"refused: {answer.reason}", "at once: the old value holds")


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


@pytest.mark.parametrize(
    ("fault", "damage", "said"),
    [
        ("reload: a file cut short", truncate, "policy.onnx: sha256"),
        ("reload: a bit flipped", flip, "model.onnx: sha256"),
        ("reload: a file gone", remove, "value.onnx"),
        (
            "reload: weights that are NaN",
            nan_weights,
            "policy.onnx: output 'action' is not finite on the golden inputs",
        ),
        ("reload: weights outside the file", external_data, "its data lies outside the file"),
        ("reload: another schema version", schema_version, "schema_version"),
        ("reload: the bundle of another task", other_task, "does not fit task 'inverted_pendulum'"),
    ],
)
def test_fault_of_a_bundle(pendulum, table, tmp_path, fault, damage, said):
    folder = tmp_path / "bundle"
    shutil.copytree(pendulum.bundle.path, folder)
    damage(folder)
    pendulum.healthy()
    ticks = len(pendulum.ticks)
    assert set_parameter(pendulum, "bundle", str(folder)).successful
    answer = trigger(pendulum, "reload")
    assert not answer.success
    assert said in answer.message
    pendulum.watch()
    assert set(pendulum.modes(ticks)) == {POLICY}
    told = answer.message.replace(f"{folder}/", "").replace(str(folder), "…")
    told = re.sub(r"[0-9a-f]{64}", "…", told).partition("\n")[0]
    table.add(fault, POLICY, f"refused: {told}", "at once: the old bundle goes on")
    assert set_parameter(pendulum, "bundle", str(pendulum.bundle.path)).successful


def test_model_that_is_slower_than_the_period(pendulum, table):
    rig = pendulum
    rig.healthy()
    ticks = len(rig.ticks)
    # The stand-in does not move as a pendulum would: its model would be doubted.
    assert set_parameter(rig, "mpc.model_fallback", False).successful
    assert set_parameter(rig, "mpc.candidates", 16384).successful
    assert set_parameter(rig, "use_mpc", True).successful
    said = "policy: no plan fits 32.0 ms"
    rig.said(said, len(rig.statuses))
    rig.watch()
    assert set(rig.modes(ticks)) == {POLICY}
    assert set_parameter(rig, "mpc.candidates", 16).successful
    ticks = len(rig.ticks)
    rig.until(lambda: "mpc" in rig.modes(ticks), "plan")
    assert set_parameter(rig, "use_mpc", False).successful
    assert set_parameter(rig, "mpc.model_fallback", True).successful
    rig.healthy()
    table.add("a plan that does not fit the period", POLICY, said, "as soon as one fits")


def test_node_that_is_frozen(pendulum, table):
    rig = pendulum
    rig.healthy()
    ticks, statuses = len(rig.ticks), len(rig.statuses)
    rig.process.send_signal(signal.SIGSTOP)
    thawed = time.monotonic() + 0.5
    rig.until(lambda: time.monotonic() > thawed, "half a second")
    rig.process.send_signal(signal.SIGCONT)
    said = "… deadlines missed"
    rig.until(
        lambda: any(matches(said, s[1]) or "safe" in s[1] for s in rig.statuses[statuses:]), said
    )
    rig.healthy()
    assert max(tick.data[COLUMNS.index("missed")] for tick in rig.ticks[ticks:]) >= 10
    table.add("the node frozen for half a second", "nothing, then as before", said)


def test_second_policy_node_on_one_topic(pendulum, table):
    rig = pendulum
    rig.healthy()
    values = {"bundle": str(rig.bundle.path), "autostart": True}
    second = rig.start(**values)
    said = "1 more publish commands on the same topic"
    try:
        rig.said(said, len(rig.statuses))
    finally:
        second.send_signal(signal.SIGINT)
        second.wait(15)
    statuses = len(rig.statuses)
    rig.until(lambda: any(said not in s[1] for s in rig.statuses[statuses:]), "a status without it")
    rig.healthy()
    table.add("a second policy node on the same topic", "by both", said, "when one of them ends")


def test_node_that_is_killed_and_started_again(pendulum, table):
    rig = pendulum
    rig.process.kill()
    rig.process.wait()
    rig.process = rig.start()
    ticks = len(rig.ticks)
    rig.until(lambda: len(rig.ticks) > ticks, "tick of the new process")
    rig.healthy()
    table.add(
        "the node killed (`kill -9`)",
        "nothing: the robot's controller must time out",
        "no more `/diagnostics`",
        "when it is started again",
    )


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
            autostart=True,
        )

    def start(self, name, **parameters):
        return Rig.start(self, f"maac_ros.nodes.{name}", **parameters)

    def ready(self):
        self.more_ticks()

    def check(self):
        modes = {MODES[int(tick.data[MODE])] for tick in self.ticks}
        assert modes <= {SAFE, POLICY}

    def more_ticks(self, count=10):
        seen = len(self.ticks)
        self.bench.until(lambda: len(self.ticks) >= seen + count, "ticks")

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
    simulated.simulator.send_signal(signal.SIGSTOP)
    simulated.no_ticks()
    simulated.simulator.send_signal(signal.SIGCONT)
    simulated.more_ticks()
    table.add(
        "the simulator frozen", "nothing new: simulated time stands still", "", "when it goes on"
    )


def test_simulator_that_is_slow(simulated, table):
    simulated.simulator.send_signal(signal.SIGINT)
    simulated.simulator.wait(15)
    simulated.no_ticks()
    ticks = len(simulated.ticks)
    simulated.simulator = simulated.start("sim_node", seed=3, realtime_factor=0.1)
    simulated.more_ticks(5)
    assert {MODES[int(t.data[MODE])] for t in simulated.ticks[ticks:]} == {POLICY}
    table.add("a simulator ten times slower", POLICY, "", "not needed: ages are in simulated time")


def test_simulator_that_is_killed_and_started_again(simulated, table):
    simulated.simulator.kill()
    simulated.simulator.wait()
    simulated.no_ticks()
    simulated.simulator = simulated.start("sim_node", seed=2)
    simulated.more_ticks()
    table.add(
        "the simulator killed (`kill -9`)",
        "nothing new: simulated time stands still",
        "",
        "when it is started again, though its time begins anew",
    )


def test_table_in_the_docs_is_that_of_these_tests():
    """By its faults, and what is said of those of the messages; the rest is written by the tests themselves."""
    lines = [line.split(" | ") for line in DOCS.read_text(encoding="utf-8").splitlines()]
    rows = {line[0].removeprefix("| "): line[1:] for line in lines if len(line) == 4}
    del rows["fault"]
    assert len(rows) >= 25
    for fault in (*JOINT_FAULTS, *BASE_FAULTS):
        commanded, said = EXPECTED[fault.name]
        assert rows[fault.name][0].startswith(commanded), fault.name
        assert rows[fault.name][1] == (said or "–"), fault.name
