"""What runs on a robot needs neither PyTorch nor the learner."""

import json
import subprocess
import sys

PROGRAM = """
import importlib, json, pkgutil, sys
import maac_ros
missing = []
for module in pkgutil.walk_packages(maac_ros.__path__, "maac_ros."):
    try:
        importlib.import_module(module.name)
    except ImportError as reason:  # ROS 2 is not installed everywhere; launch/ is a folder here
        missing.append((module.name, reason.name.partition(".")[0]))
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([sorted(loaded & {"torch", "maac_learning"}), missing]))
"""
ROS = {"rclpy", "launch", "launch_ros", "builtin_interfaces", "diagnostic_msgs", "nav_msgs"}


def test_no_module_of_maac_ros_imports_pytorch_or_the_learner():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    loaded, missing = json.loads(done.stdout)
    assert loaded == []
    for module, package in missing:
        assert module.startswith("maac_ros.nodes") or module == "maac_ros.launching", module
        assert package in ROS, (module, package)


def test_core_does_not_import_ros():
    program = (
        "import sys, maac_ros.controller, maac_ros.evaluation, maac_ros.graph, maac_ros.up; "
        "print('rclpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
