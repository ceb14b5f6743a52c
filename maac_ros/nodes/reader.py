"""Takes the messages of some subscriptions in a thread of its own.

An executor of rclpy gathers every entity of its nodes anew before each message, which takes longer than a tick of the
controller. Here the wait is for the subscriptions alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.subscription import Subscription

from maac_ros.nodes.common import open_subscription

_POLL_NS = 100_000_000
"""The end of the context, which wakes nobody, is noticed within this time."""


def type_name(kind: type) -> str:
    """A message type as the graph names it, such as ``sensor_msgs/msg/JointState``."""
    package, kind_of_interface, *_ = kind.__module__.split(".")
    return f"{package}/{kind_of_interface}/{kind.__name__}"


class _NeverExecuted(ReentrantCallbackGroup):
    """Keeps the executor from the subscriptions."""

    def can_execute(self, entity: Any) -> bool:
        return False


class Reader:
    """Reads subscriptions of ``node`` between :meth:`start` and :meth:`close`.

    They have no events: an executor that waits for those would wake for every message too. :meth:`refused` tells what
    the event of refused quality of service would.

    Args:
        node: its executor sees to everything else.
        failed: is told, from the reader's thread, of an exception that ended it.
    """

    def __init__(self, node: Node, failed: Callable[[Exception], None]) -> None:
        self._node, self._failed = node, failed
        self._group = _NeverExecuted()
        self._subscriptions: list[Subscription] = []
        self._ending = threading.Event()
        self._wake = GuardCondition(None, None, context=node.context)
        self._thread: threading.Thread | None = None

    def subscribe(
        self, kind: type, topic: str, callback: Callable[[Any], None], quality: QoSProfile
    ) -> None:
        """Let ``callback``, called from the reader's thread, have the messages of ``topic``; before :meth:`start`."""
        self._subscriptions.append(
            open_subscription(
                self._node,
                kind,
                topic,
                callback,
                quality,
                callback_group=self._group,
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            )
        )

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read no more, and destroy the subscriptions."""
        self._ending.set()
        if self._thread is not None:
            self._wake.trigger()
            self._thread.join()
            self._thread = None
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def refused(self) -> list[str]:
        """Publishers that are not heard since type or quality of service does not match, and why."""
        told = []
        for subscription in self._subscriptions:
            wanted = type_name(subscription.msg_type)
            for publisher in self._node.get_publishers_info_by_topic(subscription.topic_name):
                match, reason = qos_check_compatible(
                    publisher.qos_profile, subscription.qos_profile
                )
                if publisher.topic_type != wanted:
                    reason = f"it is {publisher.topic_type}; expected {wanted}"
                elif match != QoSCompatibility.ERROR:
                    continue
                name = publisher.node_namespace.rstrip("/") + "/" + publisher.node_name
                told.append(f"{subscription.topic_name} of {name} is not heard: {reason}")
        return told

    def _run(self) -> None:
        try:
            self._read(self._node.context)
        except Exception as reason:  # else the robot would be deaf without a word
            self._failed(reason)

    def _read(self, context: Context) -> None:
        handles = [subscription.handle for subscription in self._subscriptions]
        with contextlib.ExitStack() as stack:
            for handle in (context.handle, self._wake.handle, *handles):
                stack.enter_context(handle)
            waiting = rclpy_implementation.WaitSet(len(handles), 1, 0, 0, 0, 0, context.handle)
            while not self._ending.is_set() and context.ok():
                waiting.clear_entities()
                waiting.add_guard_condition(self._wake.handle)
                for handle in handles:
                    waiting.add_subscription(handle)
                waiting.wait(_POLL_NS)
                ready = waiting.get_ready_entities("subscription")
                for subscription, handle in zip(self._subscriptions, handles, strict=True):
                    if handle.pointer not in ready:
                        continue
                    taken = handle.take_message(subscription.msg_type, subscription.raw)
                    if taken is not None and not self._ending.is_set():
                        subscription.callback(taken[0])
