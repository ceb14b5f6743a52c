"""The policy node on a robot that the test plays."""

import re
import shutil
import threading
from itertools import pairwise

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import ChangeState, GetState
from node_bench import Bench
from rcl_interfaces.srv import DescribeParameters, ListParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from maac_ros.modes import Mode
from maac_ros.nodes import policy_node
from maac_ros.nodes.common import BEST_EFFORT, LATCHED, RELIABLE, profile
from maac_ros.nodes.policy_parameters import SPECS
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.resources import share_directory

SAFE = [0.0]
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture(scope="module")
def bundle(untrained_bundle):
    return untrained_bundle("inverted_pendulum").path


@pytest.fixture
def commanding(bench, joints, bundle):
    """``commanding(**parameters)``: an active policy node that hears joint states."""

    def make(**parameters):
        given = {"bundle": str(bundle), "trigger": "observation", "seed": 1} | parameters
        node = bench.policy(**given)
        commands = bench.commands()
        assert node.autostart()
        bench.until(
            lambda: (
                joints.matched() and bench.probe.count_publishers("/policy_controller/commands")
            ),
            "match",
        )
        joints.until(lambda: commands, "command")
        return node, commands

    return make


def data(message):
    return list(message.data)


def test_lifecycle(bench, joints, bundle):
    node = bench.policy(bundle=str(bundle))
    commands = bench.commands()

    def state():
        return bench.call(GetState, "/policy_node/get_state", GetState.Request()).current_state.id

    assert state() == State.PRIMARY_STATE_UNCONFIGURED
    assert node.trigger_configure() == SUCCESS
    assert state() == State.PRIMARY_STATE_INACTIVE
    bench.until(joints.matched, "subscription")
    joints.publish()
    for _ in range(2):
        assert node.trigger_activate() == SUCCESS
        assert state() == State.PRIMARY_STATE_ACTIVE
        seen = len(commands)
        joints.until(lambda n=seen: [c for c in commands[n:] if data(c) != SAFE], "command")
        assert node.trigger_deactivate() == SUCCESS
        seen = len(commands)
        bench.until(lambda: data(commands[-1]) == SAFE, "safe command")
        joints.publish()
        assert state() == State.PRIMARY_STATE_INACTIVE
        assert data(commands[-1]) == SAFE
    assert node.trigger_cleanup() == SUCCESS
    assert state() == State.PRIMARY_STATE_UNCONFIGURED
    assert not joints.matched()


def test_shutdown_transition_ends_the_process(bench, commanding):
    _, commands = commanding()
    request = ChangeState.Request()
    request.transition.label = "shutdown"
    request.transition.id = 7
    assert bench.call(ChangeState, "/policy_node/change_state", request).success
    bench.until(lambda: data(commands[-1]) == SAFE, "safe command")
    assert bench.leave.asked
    assert bench.leave.code == 0


def test_use_mpc_is_switched_while_running(bench, joints, commanding):
    node, _ = commanding()
    modes = bench.listen(Float64MultiArray, "/policy_node/telemetry")
    plans = bench.listen(JointTrajectory, "/policy_node/plan")
    bench.until(lambda: node.count_subscribers("/policy_node/plan"), "subscription")
    for use_mpc, mode in ((True, "mpc"), (False, "policy"), (True, "mpc")):
        assert bench.set_parameter(node, "use_mpc", use_mpc).successful
        modes.clear()
        joints.until(
            lambda m=mode: modes and modes[-1].data[COLUMNS.index("mode")] == MODES.index(m), mode
        )
    assert plans[-1].joint_names == ["slider"]
    assert len(plans[-1].points) == 5
    assert abs(plans[-1].points[0].effort[0]) <= 300.0


def test_planner_is_resized_while_running(bench, joints, commanding):
    node, _ = commanding(use_mpc=True)
    plans = bench.listen(JointTrajectory, "/policy_node/plan")
    bench.until(lambda: node.count_subscribers("/policy_node/plan"), "subscription")
    assert bench.set_parameter(node, "mpc.horizon", 2).successful
    joints.until(lambda: plans and len(plans[-1].points) == 2, "shorter plan")
    assert bench.set_parameter(node, "mpc.horizon", 0).successful
    joints.until(lambda: len(plans[-1].points) == 5, "plan of the bundle's own length")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("mpc.candidates", 3, "mpc: candidates: got 3; "),
        ("mpc.horizon", 101, "Max: 100"),
        ("mpc.budget_ms", -1.0, "Min: 0.0"),
        ("mpc.budget_ms", float("nan"), "out of range"),
        ("max_observation_age_ms", 1e9, "Max: 60000.0"),
        ("use_mpc", 1, "type"),
        (
            "providers",
            ["NoSuchProvider"],
            "providers: unknown 'NoSuchProvider'; expected some of: ",
        ),
        ("trigger", "never", "trigger: got 'never'; expected one of: timer, observation"),
        ("trigger", "observation", "trigger: is read at configure only"),
        ("autostart", True, "read-only"),
    ],
)
def test_parameter_is_refused_with_a_reason(bench, bundle, name, value, reason):
    node = bench.policy(bundle=str(bundle))
    assert node.trigger_configure() == SUCCESS
    result = bench.set_parameter(node, name, value)
    assert not result.successful
    assert reason.lower() in result.reason.lower()


def test_every_parameter_is_described(bench):
    bench.policy()
    request = DescribeParameters.Request(names=list(SPECS))
    answer = bench.call(DescribeParameters, "/policy_node/describe_parameters", request)
    for descriptor in answer.descriptors:
        assert descriptor.description, descriptor.name
        if descriptor.type in (2, 3):  # integer, double
            assert descriptor.integer_range or descriptor.floating_point_range, descriptor.name


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"names": ["slider"], "position": [0.0], "velocity": [0.0]}, "joint 'hinge' is missing"),
        ({"velocity": []}, "field 'velocity' has 0 values"),
        ({"position": (0.1, float("nan"))}, "hinge/position = nan"),
        ({"sec": 1}, "joint_states: header.stamp went back by"),
        ({"sec": 0, "nanosec": 0}, "header.stamp is 0"),
    ],
)
def test_bad_observation_gives_the_safe_command_and_says_so(
    bench, joints, commanding, message, reason
):
    _, commands = commanding()
    statuses = bench.diagnostics()
    joints.until(lambda: data(commands[-1]) == SAFE, "safe command", **message)
    joints.until(lambda: any(reason in text for _, text, _ in statuses), "status", **message)
    level, text, values = next(status for status in statuses if reason in status[1])
    assert level == DiagnosticStatus.ERROR
    assert text.startswith("safe command: ")
    assert values["mode"] == "safe"
    assert int(values["ticks.safe"]) >= 1
    assert int(values["fallbacks.observation"]) >= 1
    joints.until(lambda: data(commands[-1]) != SAFE, "command after recovery")


def test_diagnostics_while_commanding(bench, joints, commanding):
    commanding(trigger="timer")
    statuses = bench.diagnostics()

    def told():
        return [s for s in statuses if s[0] == DiagnosticStatus.OK and s[2]["period_p50_ms"]]

    joints.until(told, "OK")
    _, text, values = told()[0]
    assert text == "policy"
    for name in ("tick", "inference", "period", "age"):
        numbers = [float(values[f"{name}_{which}_ms"]) for which in ("p50", "p99", "max")]
        assert 0 < numbers[0] <= numbers[1] <= numbers[2], name
    assert values["planning_p50_ms"] == ""
    assert values["use_mpc"] == "false"
    assert float(values["observation_age_ms"]) < 200
    assert float(values["age_ms.joint_states"]) < 200


def test_that_nobody_listens_is_told(bench, joints, bundle):
    assert bench.policy(bundle=str(bundle)).autostart()
    statuses = bench.diagnostics()
    said = "nobody listens to /policy_controller/commands"
    joints.until(lambda: any(said in text for _, text, _ in statuses), said)
    bench.commands()
    statuses.clear()
    joints.until(lambda: any(text == "policy" for _, text, _ in statuses), "OK")


def test_observations_at_another_rate_than_in_training_are_told(bench, joints, commanding):
    commanding()
    statuses = bench.diagnostics()
    said = "the policy learned to act every 40 ms"
    joints.until(lambda: any(said in text for _, text, _ in statuses), said)
    level, text, _ = next(status for status in statuses if said in status[1])
    assert level == DiagnosticStatus.WARN
    assert "policy; observations come every 1" in text


def test_sensor_whose_quality_of_service_does_not_match_is_named(bench, bundle):
    bench.probe.create_publisher(JointState, "joint_states", BEST_EFFORT)
    statuses = bench.diagnostics()
    assert bench.policy(bundle=str(bundle), reliable_sensors=True).autostart()
    said = "/joint_states of /probe is not heard: "
    bench.until(lambda: statuses and said in statuses[-1][1], said)
    assert statuses[-1][0] == DiagnosticStatus.ERROR


QOS = "qos_overrides./joint_states.subscription"


def test_quality_of_service_is_overridden_by_parameters(bench, bundle):
    commands = "qos_overrides./policy_controller/commands.publisher"
    node = bench.policy(
        bundle=str(bundle),
        **{f"{QOS}.reliability": "reliable", f"{QOS}.depth": 7, f"{commands}.depth": 3},
    )
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    assert node.trigger_configure() == SUCCESS  # declared only once
    (heard,) = node.get_subscriptions_info_by_topic("/joint_states")
    assert heard.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    values = {name: node.get_parameter(name).value for name in (f"{QOS}.depth", f"{QOS}.history")}
    assert values == {f"{QOS}.depth": 7, f"{QOS}.history": "keep_last"}
    # The profiles that other nodes of this process share stay as they are.
    other = bench.simulator()
    assert other.get_parameter(f"{commands.replace('publisher', 'subscription')}.depth").value == 1


@pytest.mark.parametrize(
    ("policy", "value", "said"),
    [
        ("reliability", "perhaps", "qos_overrides of joint_states: .*`reliability`: `perhaps`"),
        ("depth", "many", "qos_overrides of joint_states: .*depth"),
    ],
)
def test_an_override_that_there_cannot_be_is_told(bench, bundle, policy, value, said):
    node = bench.policy(bundle=str(bundle), **{f"{QOS}.{policy}": value})
    statuses = bench.diagnostics()
    assert node.trigger_configure() == FAILURE
    bench.until(lambda: statuses and re.search(said, statuses[-1][1]), said)


def test_sensor_whose_type_does_not_match_is_named(bench, bundle):
    robot = Bench()  # one context has one type a topic
    try:
        robot.probe.create_publisher(Float64MultiArray, "joint_states", RELIABLE)
        statuses = bench.diagnostics()
        assert bench.policy(bundle=str(bundle)).autostart()
        said = (
            "/joint_states of /probe is not heard: it is std_msgs/msg/Float64MultiArray; "
            "expected sensor_msgs/msg/JointState"
        )
        bench.until(lambda: statuses and said in statuses[-1][1], said)
    finally:
        robot.close()


def test_missing_bundle_fails_to_configure_and_says_why(bench, tmp_path):
    node = bench.policy(bundle=str(tmp_path / "nowhere"))
    statuses = bench.diagnostics()
    assert node.trigger_configure() == FAILURE
    assert not node.autostart()
    bench.until(lambda: statuses, "status")
    assert statuses[0][0] == DiagnosticStatus.ERROR
    assert f"bundle '{tmp_path / 'nowhere'}' is not a folder" in statuses[0][1]


def test_without_a_bundle_the_tasks_shipped_one_is_taken(bench):
    node = bench.policy(task="inverted_pendulum")
    statuses = bench.diagnostics()
    assert node.trigger_configure() == SUCCESS
    shipped = str(share_directory() / "bundles" / "inverted_pendulum")
    bench.until(lambda: any(v.get("bundle") == shipped for *_, v in statuses), "status")


def test_damaged_bundle_fails_to_configure_and_recovers(bench, bundle, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    (damaged / "policy.onnx").write_bytes(b"not a graph")
    node = bench.policy(bundle=str(damaged))
    statuses = bench.diagnostics()
    assert node.trigger_configure() == FAILURE
    bench.until(lambda: statuses, "status")
    assert "policy.onnx: sha256" in statuses[0][1]
    assert bench.set_parameter(node, "bundle", str(bundle)).successful
    assert node.trigger_configure() == SUCCESS


def test_bundle_of_another_task_fails_to_configure(bench, bundle):
    node = bench.policy(bundle=str(bundle), task="hopper")
    statuses = bench.diagnostics()
    assert node.trigger_configure() == FAILURE
    bench.until(lambda: statuses, "status")
    assert "does not fit task 'hopper'" in statuses[0][1]


def test_unknown_task_fails_to_configure(bench, bundle):
    node = bench.policy(bundle=str(bundle), task="unicycle")
    statuses = bench.diagnostics()
    assert node.trigger_configure() == FAILURE
    bench.until(lambda: statuses, "status")
    assert "unknown task 'unicycle'" in statuses[0][1]


def test_stop_is_latched(bench, joints, commanding):
    _, commands = commanding()
    assert bench.trigger("/policy_node/stop").success
    bench.until(lambda: data(commands[-1]) == SAFE, "safe command")
    seen = len(commands)
    joints.until(lambda: len(commands) > seen + 3, "commands")
    assert all(data(command) == SAFE for command in commands[seen:])
    assert bench.trigger("/policy_node/clear_stop").success
    joints.until(lambda: data(commands[-1]) != SAFE, "command")
    assert bench.trigger("/policy_node/clear_stop").message == "not stopped"


def test_lasting_fault_latches_the_stop(bench, joints, commanding):
    _, commands = commanding(stop_after_ms=400.0)
    statuses = bench.diagnostics()
    lost = {"names": ["slider"], "position": [0.0], "velocity": [0.0]}
    told = "stopped until ~/clear_stop: the safe command has lasted"
    joints.until(lambda: any(told in text for _, text, _ in statuses), "stop", **lost)
    _, text, values = next(status for status in statuses if told in status[1])
    assert "joint 'hinge' is missing" in text
    assert values["mode"] == "stopped"
    assert int(values["transitions.policy_safe"]) == 1
    assert int(values["transitions.safe_stopped"]) == 1
    seen = len(commands)
    joints.until(lambda: len(commands) > seen + 10, "commands")
    assert all(data(command) == SAFE for command in commands[seen:])
    assert bench.trigger("/policy_node/clear_stop").success
    joints.until(lambda: data(commands[-1]) != SAFE, "command")


def test_stop_holds_from_before_the_configure_and_beyond_the_cleanup(bench, joints, bundle):
    node = bench.policy(bundle=str(bundle), trigger="observation")
    commands, statuses = bench.commands(), bench.diagnostics()
    assert bench.trigger("/policy_node/stop").success
    said = "inactive: not commanding; stopped until ~/clear_stop: stopped by ~/stop"
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS
        bench.until(lambda: said in [text for _, text, _ in statuses], said)
        assert node.trigger_activate() == SUCCESS
        seen = len(commands)
        joints.until(lambda n=seen: len(commands) > n + 3, "commands")
        assert all(data(command) == SAFE for command in commands[seen:])
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS
        statuses.clear()
    answer = bench.trigger("/policy_node/clear_stop")
    assert answer.success
    assert answer.message == "cleared; nothing is commanded yet"
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    joints.until(lambda: data(commands[-1]) != SAFE, "command")


def test_reload_swaps_the_bundle_and_refuses_a_bad_one(bench, joints, bundle, commanding, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    # Nobody tells joints while a service is waited for.
    node, commands = commanding(bundle=str(copy), stop_after_ms=0.0)
    manifests = bench.listen(String, "/policy_node/metadata", LATCHED)
    # A latched topic keeps one message: who joins after the second never hears the first.
    bench.until(lambda: len(manifests) == 1, "manifest of the first bundle")
    graph = (copy / "policy.onnx").read_bytes()
    (copy / "policy.onnx").write_bytes(graph[:-1])
    answer = bench.trigger("/policy_node/reload")
    assert not answer.success
    assert "policy.onnx: sha256" in answer.message
    joints.until(lambda: data(commands[-1]) != SAFE, "command of the old bundle")

    (copy / "policy.onnx").write_bytes(graph)
    before = node._loop.controller
    answer = bench.trigger("/policy_node/reload")
    assert answer.success, answer.message
    assert node._loop.controller is not before
    bench.until(lambda: len(manifests) == 2, "manifest of the second bundle")
    assert yaml.safe_load(manifests[-1].data)["task"]["name"] == "inverted_pendulum"
    seen = len(commands)
    joints.until(
        lambda: len(commands) > seen and data(commands[-1]) != SAFE, "command of the new bundle"
    )


def test_bundle_is_swapped_by_its_parameter_and_a_bad_one_refused(
    bench, joints, bundle, commanding, untrained_bundle, tmp_path
):
    other = str(untrained_bundle("hopper").path)
    node, commands = commanding(stop_after_ms=0.0)
    statuses = bench.diagnostics()
    before = node._loop.controller
    assert bench.set_parameter(node, "bundle", other).successful
    said = "the old bundle goes on, another is refused: "
    joints.until(lambda: statuses and said in statuses[-1][1], "refusal")
    assert "does not fit task 'inverted_pendulum'" in statuses[-1][1]
    assert statuses[-1][0] >= DiagnosticStatus.WARN
    assert statuses[-1][2]["bundle"] == str(bundle)
    assert node._loop.controller is before
    # The parameter names what runs, so that the next configure finds it.
    assert node.get_parameter("bundle").value == str(bundle)

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    assert bench.set_parameter(node, "bundle", str(copy)).successful
    joints.until(lambda: statuses[-1][2]["bundle"] == str(copy), "the new bundle")
    assert said not in statuses[-1][1]
    assert node._loop.controller is not before
    seen = len(commands)
    joints.until(lambda: len(commands) > seen and data(commands[-1]) != SAFE, "command")


def test_commands_stay_within_limits_and_rate(bench, joints, commanding):
    _, commands = commanding(trigger="timer", action_rate_limit=1.0)
    joints.until(lambda: len(commands) > 5, "commands", position=(50.0, -50.0))
    values = [0.0] + [data(command)[0] for command in commands]
    assert max(abs(b - a) for a, b in pairwise(values)) <= 0.04 + 1e-12
    assert max(map(abs, values)) <= 3.0


def test_planning_is_given_up_and_taken_up_again_as_the_robot_changes(bench):
    """The shipped pendulum in the simulator, made heavier and light again while it runs."""
    node = bench.policy(
        bundle="inverted_pendulum",
        trigger="observation",
        use_sim_time=True,
        reliable_sensors=True,
        use_mpc=True,
        mpc_candidates=16,
        mpc_iterations=1,
        mpc_budget_ms=10_000.0,
    )
    ticks = bench.listen(Float64MultiArray, "/policy_node/telemetry", profile(depth=1000))
    statuses = bench.diagnostics()
    assert node.autostart()
    simulator = bench.simulator(mode="lockstep", seed=1)

    def now(column):
        return ticks[-1].data[COLUMNS.index(column)]

    bench.until(lambda: len(ticks) > 100, "ticks")
    assert MODES[int(now("mode"))] == "mpc"
    assert now("residual") > 0
    assert now("disagreement") > 0
    assert now("exceedance") < 0.2
    assert bench.set_parameter(simulator, "mass_factor", 2.0).successful
    bench.until(lambda: MODES[int(now("mode"))] == "policy", "the policy alone")
    assert now("exceedance") > 0.3
    bench.until(lambda: statuses and "does not describe the robot" in statuses[-1][1], "diagnosis")
    assert statuses[-1][0] == DiagnosticStatus.WARN
    assert int(statuses[-1][2]["fallbacks.model"]) > 0
    assert bench.set_parameter(simulator, "mass_factor", 1.0).successful
    bench.until(lambda: MODES[int(now("mode"))] == "mpc", "plans again")


def test_recording_is_named_on_diagnostics_and_a_bad_place_for_it_is_refused(
    bench, bundle, commanding, tmp_path
):
    node, _ = commanding(record=str(tmp_path / "recordings"))
    statuses = bench.diagnostics()
    bench.until(lambda: any("recording" in values for _, _, values in statuses), "recording")
    (folder,) = (tmp_path / "recordings").iterdir()
    assert statuses[-1][2]["recording"] == str(folder)
    assert folder.name.startswith("policy_node-")
    assert node.trigger_deactivate() == node.trigger_cleanup() == SUCCESS
    assert (folder / "metadata.yaml").is_file()
    (tmp_path / "file").write_text("")
    assert bench.set_parameter(node, "record", str(tmp_path / "file")).successful
    assert node.trigger_configure() == FAILURE
    bench.until(lambda: "file': cannot be written to" in statuses[-1][1], "reason")


def test_of_two_bundles_asked_for_the_last_one_runs_however_long_the_first_takes(
    bench, joints, bundle, commanding, tmp_path, monkeypatch
):
    """Commands go on while a bundle loads."""
    first, last = tmp_path / "first", tmp_path / "last"
    for copy in (first, last):
        shutil.copytree(bundle, copy)
    node, commands = commanding(stop_after_ms=0.0)
    statuses = bench.diagnostics()
    go_on, loads = threading.Event(), []
    load = policy_node.load_beside

    def slow(values, task):
        loads.append(values["bundle"])
        if values["bundle"] == str(first):
            assert go_on.wait(60)
        return load(values, task)

    monkeypatch.setattr(policy_node, "load_beside", slow)
    assert bench.set_parameter(node, "bundle", str(first)).successful
    bench.until(lambda: loads, "the first load")
    assert bench.set_parameter(node, "bundle", str(last)).successful
    seen = len(commands)
    joints.until(lambda: len(commands) > seen + 20, "commands")
    assert loads == [str(first)]
    go_on.set()
    joints.until(lambda: statuses and statuses[-1][2]["bundle"] == str(last), "the last bundle")
    assert node.get_parameter("bundle").value == str(last)
    assert loads == [str(first), str(last)]


def test_whatever_goes_wrong_in_loading_the_old_bundle_goes_on(
    bench, joints, bundle, commanding, monkeypatch
):
    node, commands = commanding(stop_after_ms=0.0)

    def broken(values, task):
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(policy_node, "load_beside", broken)
    statuses = bench.diagnostics()
    answer = bench.trigger("/policy_node/reload")
    assert not answer.success
    assert "nobody thought of this" in answer.message
    assert bench.set_parameter(node, "bundle", "/elsewhere").successful
    said = "the old bundle goes on, another is refused: RuntimeError('nobody thought of this')"
    joints.until(lambda: statuses and said in statuses[-1][1], "refusal")
    assert node.get_parameter("bundle").value == str(bundle)
    seen = len(commands)
    joints.until(lambda: len(commands) > seen and data(commands[-1]) != SAFE, "command")
    assert not bench.leave.asked


def test_parameters_that_were_dumped_are_loaded_again(bench, commanding, bundle, tmp_path):
    """As `ros2 param dump`, `ros2 param load` and `--params-file` do it, with any of them changed meanwhile."""
    node, commands = commanding(use_mpc=True, mpc_horizon=2, engage_ms=7.0)
    listed = bench.call(ListParameters, "/policy_node/list_parameters", ListParameters.Request())
    names = sorted(listed.result.names)
    assert set(SPECS) < set(names)
    kept = {name: node.get_parameter(name).value for name in names}
    nested = {}
    for name, value in kept.items():
        *groups, last = name.split(".")
        level = nested
        for group in groups:
            level = level.setdefault(group, {})
        level[last] = list(value) if isinstance(value, tuple | list) else value
    file = tmp_path / "policy_node.yaml"
    file.write_text(yaml.safe_dump({"/policy_node": {"ros__parameters": nested}}), encoding="utf-8")

    for name, value in (("use_mpc", False), ("mpc.horizon", 3), ("engage_ms", 0.0)):
        assert bench.set_parameter(node, name, value).successful
    client = AsyncParameterClient(bench.probe, "policy_node")
    bench.until(client.services_are_ready, "parameter services")
    loaded = bench.result(client.load_parameter_file(str(file))).results
    refused = {result.reason for result in loaded if not result.successful}
    # None but those that no node takes after its start.
    fixed = [d.name for d in node.describe_parameters(names) if d.read_only]
    assert set(fixed) & set(SPECS) == {"autostart", "thread_priority"}
    assert refused == {f"Trying to set a read-only parameter: {name}." for name in fixed}
    assert {name: node.get_parameter(name).value for name in names} == kept
    assert commands
    bench.remove(node)

    words = ["--ros-args", "--params-file", str(file)]
    again = bench.policy(cli_args=words)
    assert again.trigger_configure() == SUCCESS
    assert {name: again.get_parameter(name).value for name in names} == kept


def test_clock_is_chosen_before_the_configure(bench, bundle):
    node = bench.policy(bundle=str(bundle))
    assert bench.set_parameter(node, "use_sim_time", True).successful
    assert bench.set_parameter(node, "use_sim_time", False).successful
    assert node.trigger_configure() == SUCCESS
    refused = bench.set_parameter(node, "use_sim_time", True)
    assert not refused.successful
    assert refused.reason == "use_sim_time: is read at configure only; clean up the node first"
    assert node.get_parameter("use_sim_time").value is False


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_observation_age_ms", 0.001, "0, or at least the control period of 40 ms"),
        ("max_odom_age_ms", 39.0, "0, or at least the control period of 40 ms"),
        ("max_imu_age_ms", 39.0, "0, or at least the control period of 40 ms"),
        ("tick_limit_ms", 0.001, "0, or at least the control period of 40 ms"),
        ("mpc.budget_ms", 41.0, "at most the control period of 40 ms"),
    ],
)
def test_times_that_do_not_fit_the_control_period_are_refused(bench, bundle, name, value, expected):
    node = bench.policy(bundle=str(bundle))
    assert node.trigger_configure() == SUCCESS
    refused = bench.set_parameter(node, name, value)
    assert not refused.successful
    assert refused.reason == f"{name}: got {value:g}; expected {expected}"
    assert node.trigger_cleanup() == SUCCESS
    assert bench.set_parameter(node, name, value).successful  # another bundle may be meant
    statuses = bench.diagnostics()
    assert node.trigger_configure() == FAILURE
    bench.until(lambda: any(refused.reason in text for _, text, _ in statuses), "refusal")


def test_plan_that_never_fits_leaves_the_policy_in_charge(bench, joints, commanding):
    """A single model step of so many candidates takes many periods: no tick may hang in it."""
    node, _ = commanding(trigger="timer", use_mpc=True)
    assert bench.set_parameter(node, "mpc.candidates", 65536).successful
    seen = node._loop.controller.statistics.ticks[Mode.POLICY]
    joints.until(lambda: node._loop.controller.statistics.ticks[Mode.POLICY] > seen + 20, "ticks")
    statistics = node._loop.controller.statistics
    assert statistics.fallbacks["budget"] > 0
    assert statistics.fallbacks["hang"] == 0
