"""Fixtures with real nodes, in a domain of this test run's own."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# rclpy reads these when it is imported; other test runs on this host must not be heard, nor the other workers of this
# one, which have one parent and are numbered.
if "PYTEST_XDIST_WORKER" in os.environ:
    number = os.getppid() + int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
else:
    number = os.getpid()
os.environ["ROS_DOMAIN_ID"] = str(60 + number % 40)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if os.environ.get("ROS_DISTRO") == "humble":
    os.environ["ROS_LOCALHOST_ONLY"] = "1"  # the same; later distributions call it deprecated
os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="maac_ros_log_"))

import time

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from node_bench import Bench
from sensor_msgs.msg import JointState

from maac_ros.nodes.common import RELIABLE
from maac_ros.resources import named_file

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_finish():
    """What has been imported stays: every bench collects garbage, and need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def start():
    """``start(module, *arguments)``: a process in a group of its own, as launch starts it."""
    started = []

    def make(module, *arguments):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield make
    for process in started:
        process.send_signal(signal.SIGINT)  # `up` stops the processes that it started
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise


class JointSource:
    """A pendulum's joint states, stamped now by the probe's clock."""

    def __init__(self, bench):
        self._bench = bench
        self._publisher = bench.probe.create_publisher(JointState, "joint_states", RELIABLE)

    def publish(
        self, names=("slider", "hinge"), position=(0.1, 0.05), velocity=(0.2, -0.1), **stamp
    ):
        message = JointState(name=list(names), position=list(position), velocity=list(velocity))
        message.header.stamp = self._bench.probe.get_clock().now().to_msg()
        for field, value in stamp.items():
            setattr(message.header.stamp, field, value)
        self._publisher.publish(message)

    def until(self, predicate, what="what the test waits for", **message):
        """Publish, at a robot's rate, until ``predicate`` holds."""
        due = time.monotonic()

        def check():
            nonlocal due
            if time.monotonic() >= due:
                self.publish(**message)
                due = time.monotonic() + 0.01
            return predicate()

        self._bench.until(check, what)

    def matched(self):
        return self._publisher.get_subscription_count() > 0


@pytest.fixture
def joints(bench):
    return JointSource(bench)


@pytest.fixture
def short_task(tmp_path):
    """``short_task(name, steps)``: a shipped task with shorter episodes, as a file."""

    def make(name, steps):
        data = yaml.safe_load(named_file("tasks", name, "task").read_text(encoding="utf-8"))
        data["simulation"]["episode_steps"] = steps
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    return make
