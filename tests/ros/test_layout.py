"""The layouts for Foxglove, PlotJuggler and RViz show topics and services that there are, and telemetry by its name."""

import json
import re
from xml.etree import ElementTree

import yaml

from maac_ros.binding import ODOM_FRAME
from maac_ros.nodes.camera_node import CameraNode
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.resources import share_directory
from maac_ros.task import load_task

CONFIG = share_directory() / "config"
LAYOUT = json.loads((CONFIG / "foxglove/maac_ros.json").read_text(encoding="utf-8"))
PLOTS = ElementTree.parse(CONFIG / "plotjuggler/maac_ros.xml").getroot()
SCENE = yaml.safe_load((CONFIG / "rviz/maac_ros.rviz").read_text(encoding="utf-8"))
PANELS = LAYOUT["configById"]


def paths():
    return [path for panel in PANELS.values() for path in panel.get("paths", ())]


def placed(node):
    """Panels in the tree of the layout."""
    return [node] if isinstance(node, str) else [*placed(node["first"]), *placed(node["second"])]


def test_every_panel_has_its_place():
    assert sorted(placed(LAYOUT["layout"])) == sorted(PANELS)


def test_topics_and_services_are_those_of_the_nodes(bench, untrained_bundle):
    bench.simulator(task="hopper")
    bench.add(CameraNode, task="hopper")
    node = bench.policy(bundle=str(untrained_bundle("hopper").path), use_sim_time=True)
    assert node.autostart()
    topics = {re.split(r"\.", path["value"])[0] for path in paths()}
    topics |= {panel["topicToRender"] for panel in PANELS.values() if "topicToRender" in panel}
    topics |= {
        panel["imageMode"]["imageTopic"] for panel in PANELS.values() if "imageMode" in panel
    }
    services = {panel["serviceName"] for panel in PANELS.values() if "serviceName" in panel}
    topics |= {topic.get("name") for topic in PLOTS.iter("topic")}
    assert len(topics) > 4
    assert len(services) == 2
    bench.until(lambda: all(bench.probe.count_publishers(topic) for topic in topics), "topics")
    bench.until(
        lambda: services <= {name for name, _ in bench.probe.get_service_names_and_types()},
        "services",
    )


def test_columns_of_telemetry_are_the_ones_that_are_named():
    shown = {
        path["label"]: COLUMNS[int(found[1])]
        for path in paths()
        if (found := re.fullmatch(r"/policy_node/telemetry\.data\[(\d+)\]", path["value"]))
    }
    mode = "mode: " + ", ".join(f"{i} {m.replace('mpc', 'MPC')}" for i, m in enumerate(MODES))
    assert shown == {
        mode: "mode",
        "tick": "tick_s",
        "policy": "inference_s",
        "planner": "planning_s",
        "age of the observation": "observation_age_s",
        "disagreement": "disagreement",
        "one-step residual": "residual",
        "share beyond the limits": "exceedance",
    }


def test_plots_are_of_subscribed_topics_and_of_values_that_they_have():
    topics = [topic.get("name") for topic in PLOTS.iter("topic")]
    curves = [curve.get("name") for curve in PLOTS.iter("curve")]
    assert len(set(curves)) == len(curves) > 10
    joints = set(load_task("hopper").robot.joints)
    for curve in curves:
        (topic,) = [topic for topic in topics if curve.startswith(f"{topic}/")]
        if topic == "/joint_states":
            joint, quantity = curve.removeprefix("/joint_states/").split("/")
            assert joint in joints
            assert quantity in {"position", "velocity"}
    columns = {}
    for area in PLOTS.iter("DockArea"):
        for curve in area.iter("curve"):
            if found := re.fullmatch(r"/policy_node/telemetry/data\[(\d+)\]", curve.get("name")):
                columns[COLUMNS[int(found[1])]] = area.get("name")
    assert set(columns) == set(COLUMNS) - {"stamp_s"}
    assert columns["mode"] == "mode: " + ", ".join(
        f"{i} {mode.replace('mpc', 'MPC')}" for i, mode in enumerate(MODES)
    )
    assert columns["missed"] == "missed deadlines"
    assert columns["residual"] == "disagreement, one-step residual, share beyond the limits"


def test_scene_is_in_the_odometrys_frame_and_of_topics_that_there_are(bench):
    bench.simulator(task="ant")
    bench.add(CameraNode, task="ant")
    manager = SCENE["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == ODOM_FRAME
    topics = {shown["Topic"]["Value"] for shown in manager["Displays"] if "Topic" in shown}
    assert len(topics) == 2
    bench.until(lambda: all(bench.probe.count_publishers(topic) for topic in topics), "topics")
