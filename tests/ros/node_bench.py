"""Real nodes in one process, spun by the test itself: nothing here sleeps."""

import gc
import json
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from maac_ros.nodes.common import RELIABLE, Exit, profile
from maac_ros.nodes.policy_node import PolicyNode
from maac_ros.nodes.sim_node import SimNode

PATIENCE = 60.0
"""Seconds after which a test gives up; everything it waits for takes a fraction of one."""


def parameters(**values):
    """Arguments of a node's process."""
    flags = [f"{name}:={json.dumps(value)}" for name, value in values.items()]
    return ["--ros-args", *(word for flag in flags for word in ("-p", flag))]


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
        return self._add(create, parameters)

    def launch(self, resolved):
        """Create a node as a graph describes its process."""
        create = {"policy_node": PolicyNode, "sim_node": SimNode}[resolved.executable]
        rules = [f"{old}:={new}" for old, new in resolved.remappings.items()]
        words = ["--ros-args", *(word for rule in rules for word in ("-r", rule))]
        names = {"namespace": resolved.namespace, "cli_args": words}
        return self._add(create, resolved.parameters, **names)

    def _add(self, create, parameters, **names):
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = create(self.leave, context=self.context, parameter_overrides=overrides, **names)
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def policy(self, cli_args=None, **parameters):
        named = {p.replace("mpc_", "mpc."): v for p, v in parameters.items()}
        return self._add(PolicyNode, named, cli_args=cli_args)

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
        while self.nodes:
            self.remove(self.nodes[-1])
        self.executor.remove_node(self.probe)
        self.probe.destroy_node()
        self.executor.shutdown()
        self.context.try_shutdown()
        # A destroyed lifecycle node stays in the graph, with its services, until its state machine is freed.
        # Nodes and their callbacks refer to each other, so that takes the garbage collector.
        gc.collect()
