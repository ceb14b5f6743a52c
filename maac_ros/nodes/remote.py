"""Parameters and services of another process's node, asked for and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from std_srvs.srv import Trigger

_POLL_SECONDS = 0.1

Await = Callable[[Callable[[], bool], str], None]
"""Spins until something is done, which it is told in words too, and raises what it must when it is not in time."""


class Remote:
    """What one node asks of another one.

    Args:
        node: that asks.
        name: of the other one, such as ``/policy_node``.
        until: spins ``node``.
    """

    def __init__(self, node: Node, name: str, until: Await) -> None:
        self._node, self._name, self._until = node, name, until
        self._set = node.create_client(SetParameters, f"{name}/set_parameters")
        self._get = node.create_client(GetParameters, f"{name}/get_parameters")
        self._triggers: dict[str, Any] = {}

    def ready(self, *triggers: str) -> None:
        """Wait until parameters and these services can be had."""
        for client in (self._set, self._get, *map(self._trigger, triggers)):
            self._until(client.service_is_ready, f"service {client.srv_name}")

    def set(self, name: str, value: bool | int | float | str) -> str:
        """Set a parameter; returns why it was refused, empty where it was taken."""
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg()]
        result = self._call(self._set, request).results[0]
        return "" if result.successful else result.reason or "no reason given"

    def get(self, name: str) -> Any:
        """Value of a parameter."""
        answer = self._call(self._get, GetParameters.Request(names=[name]))
        return parameter_value_to_python(answer.values[0])

    def trigger(self, service: str) -> bool:
        """Call a ``std_srvs/Trigger`` below the node's name; returns whether it succeeded."""
        return bool(self._call(self._trigger(service), Trigger.Request()).success)

    def refuses_bundle(self, bundle: str) -> None:
        """Ask for a bundle that cannot be used, and wait until the parameter names the one that runs again."""
        self.set("bundle", bundle)

        def refused() -> bool:
            # Each question takes time from a node that is being measured.
            time.sleep(_POLL_SECONDS)
            return bool(self.get("bundle") != bundle)

        self._until(refused, f"refusal of bundle '{bundle}'")

    def _trigger(self, service: str) -> Any:
        if service not in self._triggers:
            self._triggers[service] = self._node.create_client(Trigger, f"{self._name}/{service}")
        return self._triggers[service]

    def _call(self, client: Any, request: Any) -> Any:
        self._until(client.service_is_ready, f"service {client.srv_name}")
        future = client.call_async(request)
        self._until(future.done, f"answer of {client.srv_name}")
        return future.result()
