"""What the nodes may reach: this host by default, and under SROS 2 the names in their policies."""

import contextlib
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from node_bench import PATIENCE
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node

from maac_ros.binding import Binding
from maac_ros.nodes.camera_node import CameraNode
from maac_ros.nodes.common import DISCOVERY_RANGE, confine
from maac_ros.nodes.live_check import listen
from maac_ros.nodes.shown_robot import ShownRobot
from maac_ros.nodes.trainer_node import TrainerNode
from maac_ros.task import load_task

POLICIES = Path(__file__).resolve().parents[2] / "config" / "sros2"
NEWER_THAN_HUMBLE = "get_type_description"


def allowed(node):
    """Names that the policy of ``node`` allows, by what it may do with them."""
    enclave = ElementTree.parse(POLICIES / f"{node}.xml").getroot().find("enclaves/enclave")
    profile = enclave.find("profiles/profile")
    assert enclave.get("path") == f"/maac/{node}"
    assert (profile.get("ns"), profile.get("node")) == ("/", node)
    names = {"publish": set(), "subscribe": set(), "reply": set(), "request": set()}
    for group in profile:
        ((access, value),) = group.items()
        assert value == "ALLOW"
        names[access] |= {element.text for element in group}
    return names


@pytest.mark.parametrize(
    "node", ["policy_node", "sim_node", "camera_node", "trainer_node", "viewer", "maac_check"]
)
def test_policies_allow_what_the_nodes_do_and_nothing_else(bench, untrained_bundle, tmp_path, node):
    """Ant is the task with every source of the robot's state that it needs; a goal comes on one topic or another, or
    on none, and other tasks have an IMU, and sensors.
    """
    spare = {f"/{node}/{NEWER_THAN_HUMBLE}", "/cmd_vel", "/goal", "/joy", "/imu", "/sensors"}
    if node == "policy_node":
        made = bench.policy(bundle=str(untrained_bundle("ant").path), use_sim_time=True)
        # Not activated: it listens for others who command.
        assert made.trigger_configure() == TransitionCallbackReturn.SUCCESS
    elif node == "sim_node":
        bench.simulator(task="ant")
    elif node == "camera_node":
        bench.add(CameraNode, task="ant", use_sim_time=True)
    elif node == "viewer":
        bench.add(Viewer, use_sim_time=True)
    elif node == "maac_check":
        seconds = 2 * PATIENCE  # until the test is done: the thread ends with the process
        threading.Thread(
            target=listen, args=(Binding(load_task("ant")), seconds), daemon=True
        ).start()
        spare.add("/clock")  # its time is that of the machine
    else:
        bench.add(TrainerNode, run_dir=str(tmp_path / "run"))
    wanted = allowed(node)
    assert not wanted.pop("request")
    found = {}
    bench.until(lambda: bench.probe.get_node_names().count(node) == 1, f"{node} alone of its name")

    def complete():
        found["publish"] = names("publisher")
        found["subscribe"] = names("subscriber")
        found["reply"] = names("service")
        return all(wanted[access] - found[access] <= spare for access in wanted)

    def names(kind):
        ask = getattr(bench.probe, f"get_{kind}_names_and_types_by_node")
        try:
            return {name for name, _ in ask(node, "/")}
        except RuntimeError:  # rclpy.node.NodeNameNonExistentError: not discovered yet
            return set()

    with contextlib.suppress(AssertionError):
        bench.until(complete)  # what is missing is told below
    for access, names_allowed in wanted.items():
        assert found[access] | spare >= names_allowed, access
        assert found[access] <= names_allowed, access
    assert not bench.probe.get_client_names_and_types_by_node(node, "/")


class Viewer(Node):
    """The node of ``maac view``, without its window."""

    def __init__(self, _, **arguments):
        super().__init__("viewer", **arguments)
        self._shown = ShownRobot(self, Binding(load_task("ant")))

    def close(self):
        self._shown.simulation.close()


def test_an_operator_may_ask_and_look_and_not_command():
    operator, names = allowed("operator"), [allowed(node) for node in ("policy_node", "sim_node")]
    assert operator["request"] == set().union(*(node["reply"] for node in names))
    assert operator["publish"] & set().union(*(node["subscribe"] for node in names)) == {
        "/cmd_vel",
        "/goal",
        "/joy",
    }
    camera = allowed("camera_node")["publish"]
    published = set().union(camera, *(node["publish"] for node in names))
    assert operator["subscribe"] == published
    assert not operator["reply"]


def test_nodes_stay_on_this_host_unless_told_otherwise():
    environment = {"ROS_DISTRO": "jazzy"}
    assert confine(environment)
    assert environment[DISCOVERY_RANGE] == "LOCALHOST"
    for told in (
        {DISCOVERY_RANGE: "SUBNET"},
        {"ROS_LOCALHOST_ONLY": "0"},
        {"ROS_DISTRO": "humble"},
    ):
        environment = dict(told)
        assert not confine(environment)
        assert environment == told
