"""Real nodes in one process, spun by the test itself: nothing here sleeps."""

import os
import tempfile

# rclpy reads these when it is imported; other test runs on this host must not be heard.
os.environ["ROS_DOMAIN_ID"] = str(60 + os.getpid() % 40)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if os.environ.get("ROS_DISTRO") == "humble":
    os.environ["ROS_LOCALHOST_ONLY"] = "1"  # the same; later distributions call it deprecated
os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="maac_ros_log_"))

import time

import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from maac_ros.nodes.common import RELIABLE, Exit, profile  # noqa: E402
from maac_ros.nodes.policy_node import PolicyNode  # noqa: E402
from maac_ros.nodes.sim_node import SimNode  # noqa: E402
from maac_ros.resources import named_file  # noqa: E402

PATIENCE = 60.0
"""Seconds after which a test gives up; everything it waits for takes a fraction of one."""


class Bench:
    """A context of its own, a probe node, and the nodes under test on one executor."""

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes = []
        self.leave = Exit()
        self.probe = Node("probe", context=self.context)
        self.executor.add_node(self.probe)

    def add(self, create, **parameters):
        """Create a node with parameters and spin it with the others."""
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = create(self.leave, context=self.context, parameter_overrides=overrides)
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def policy(self, **parameters):
        return self.add(PolicyNode, **{p.replace("mpc_", "mpc."): v for p, v in parameters.items()})

    def simulator(self, **parameters):
        return self.add(SimNode, **parameters)

    def remove(self, node):
        node.close()
        self.nodes.remove(node)
        self.executor.remove_node(node)
        node.destroy_node()

    def until(self, predicate, what="what the test waits for"):
        deadline = time.monotonic() + PATIENCE
        while not predicate():
            assert time.monotonic() < deadline, f"no {what} within {PATIENCE:g} s"
            self.executor.spin_once(timeout_sec=0.01)

    def result(self, future):
        self.until(future.done, "answer")
        return future.result()

    def call(self, service, name, request):
        client = self.probe.create_client(service, name)
        self.until(client.service_is_ready, f"service {name}")
        return self.result(client.call_async(request))

    def trigger(self, name):
        return self.call(Trigger, name, Trigger.Request())

    def set_parameter(self, node, name, value):
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        return self.call(SetParameters, f"/{node.get_name()}/set_parameters", request).results[0]

    def listen(self, kind, topic, quality=RELIABLE):
        """Messages of ``topic``, in a list that grows."""
        heard = []
        self.probe.create_subscription(kind, topic, heard.append, quality)
        return heard

    def commands(self):
        return self.listen(Float64MultiArray, "policy_controller/commands", profile(depth=5000))

    def diagnostics(self):
        """Statuses of the policy node, with their values as a dictionary."""
        statuses = []

        def take(message):
            for status in message.status:
                values = {pair.key: pair.value for pair in status.values}
                statuses.append((status.level, status.message, values))

        self.probe.create_subscription(DiagnosticArray, "/diagnostics", take, profile(depth=100))
        return statuses

    def close(self):
        for node in list(self.nodes):
            self.remove(node)
        self.executor.remove_node(self.probe)
        self.probe.destroy_node()
        self.executor.shutdown()
        self.context.try_shutdown()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


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
