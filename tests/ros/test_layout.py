"""The Foxglove layout shows topics and services that there are, and telemetry under its own names."""

import json
import re

from maac_ros.nodes.camera_node import CameraNode
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.resources import share_directory

LAYOUT = json.loads(
    (share_directory() / "config" / "foxglove" / "maac_ros.json").read_text(encoding="utf-8")
)
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
