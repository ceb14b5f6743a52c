"""Fixtures shared by all tests."""

import os

import pytest
import servo_robot
import yaml
from filelock import FileLock

from maac_ros.bundle import Bundle, load_bundle
from maac_ros.resources import named_file
from maac_ros.task import load_task


def pytest_addoption(parser):
    parser.addoption(
        "--fault-table", help="file to write the table of faults to (tests/ros/test_faults.py)"
    )


@pytest.fixture(scope="session")
def untrained_bundle(tmp_path_factory):
    """``untrained_bundle(task_name)``: a bundle of random networks, made once for all workers; not to be changed.

    Of a shipped task, or of ``servo_robot``.
    """
    from maac_learning.export import export_untrained_bundle

    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "untrained"
    shared.mkdir(exist_ok=True)
    made: dict[str, Bundle] = {}

    def make(name: str) -> Bundle:
        if name not in made:
            folder = shared / name
            with FileLock(f"{folder}.lock"):
                if not folder.exists():
                    if name == "servo_robot":
                        task = servo_robot.load(tmp_path_factory.mktemp("task"))
                    else:
                        task = load_task(name)
                    export_untrained_bundle(task, folder)
            made[name] = load_bundle(folder)
        return made[name]

    return make


@pytest.fixture
def robot_file(tmp_path):
    """``robot_file(change)``: path of the reaching arm's binding with ``change`` made to it."""

    def make(change=lambda robot: None):
        shipped = named_file("robots", "reaching_arm", "robot")
        data = yaml.safe_load(shipped.read_text(encoding="utf-8"))
        change(data)
        path = tmp_path / "robot.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    return make
