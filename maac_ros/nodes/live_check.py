"""What a running robot's topics say, beside what task and binding expect of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from maac_ros.binding import Binding
from maac_ros.check import AGE_PERIODS, Finding
from maac_ros.errors import MaacError
from maac_ros.nodes import messages
from maac_ros.nodes.common import BEST_EFFORT, RELIABLE, confine, listening_node, profile
from maac_ros.nodes.reader import type_name
from maac_ros.terms import Source


@dataclass
class _Heard:
    """What came on one topic.

    Attributes:
        times_s: steady time of each message.
        problem: the newest one that the policy node could not use.
        ages_s: of the messages, by the node's clock, where they have a stamp.
    """

    times_s: list[float] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    problem: str = ""


def listen(binding: Binding, seconds: float) -> list[Finding]:
    """Listen to the topics of ``binding`` for so long, and compare."""
    confine(os.environ)
    with listening_node("maac_check") as (node, executor):
        sources = {
            source: getattr(binding.topics, source) for source in sorted(binding.task.sources())
        }
        heard = {
            source: _subscribe(node, binding, source, topic) for source, topic in sources.items()
        }
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left)
        found = []
        for source, topic in sources.items():
            found += _source(node, binding, source, topic, heard[source])
        if binding.task.goal is not None:
            found.append(_goal(node, binding))
        found.append(_controller(node, binding))
        return found


def _subscribe(node: Node, binding: Binding, source: Source, topic: str) -> _Heard:
    heard = _Heard()
    read = messages.state_reader(source, binding)

    def receive(message: Any) -> None:
        heard.times_s.append(time.monotonic())
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        if stamp_ns == 0:
            heard.problem = "header.stamp is 0"
            return
        heard.ages_s.append((node.get_clock().now().nanoseconds - stamp_ns) * 1e-9)
        try:
            read(message)
        except MaacError as reason:
            heard.problem = str(reason)

    node.create_subscription(messages.STATE_MESSAGES[source], topic, receive, BEST_EFFORT)
    return heard


def _source(
    node: Node, binding: Binding, source: Source, topic: str, heard: _Heard
) -> list[Finding]:
    found = [
        _type(
            node,
            f"live {topic}: type",
            topic,
            (messages.STATE_MESSAGES[source],),
            node.get_publishers_info_by_topic,
        )
    ]
    for publisher in node.get_publishers_info_by_topic(topic):
        match, reason = qos_check_compatible(_reported(publisher), BEST_EFFORT)
        if match == QoSCompatibility.ERROR:
            found.append(
                Finding(f"live {topic}: QoS", "MISMATCH", f"of {publisher.node_name}: {reason}")
            )
    if not heard.times_s:
        found.append(Finding(f"live {topic}", "MISMATCH", "no message came"))
        return found
    if heard.problem:
        found.append(Finding(f"live {topic}: content", "MISMATCH", heard.problem))
    else:
        found.append(Finding(f"live {topic}: content", "ok", "all that the task needs is there"))
    period_s = binding.task.control.period_s
    limit_s = AGE_PERIODS * period_s
    if len(heard.times_s) > 1:
        rate = (len(heard.times_s) - 1) / (heard.times_s[-1] - heard.times_s[0])
        told = f"{rate:.3g} Hz; the policy acts at {1 / period_s:g} Hz"
        found.append(
            Finding(f"live {topic}: rate", "ok" if rate * limit_s >= 1.0 else "MISMATCH", told)
        )
    if heard.ages_s:
        oldest = max(heard.ages_s, key=abs)
        told = f"at most {oldest * 1e3:.3g} ms on arrival; limit {limit_s * 1e3:g} ms"
        if abs(oldest) <= limit_s:
            found.append(Finding(f"live {topic}: age", "ok", told))
        else:
            told += "; are the clocks synchronised, or is time simulated?"
            found.append(Finding(f"live {topic}: age", "note", told))
    return found


def _goal(node: Node, binding: Binding) -> Finding:
    goal = binding.task.goal
    assert goal is not None
    asking = messages.goal_reader(binding, goal, drawn=False)
    topic = asking.topic
    kinds = (TwistStamped, Twist) if asking.kind is TwistStamped else (asking.kind,)
    finding = _type(node, f"live {topic}: type", topic, kinds, node.get_publishers_info_by_topic)
    if finding.verdict == "MISMATCH" and not node.get_publishers_info_by_topic(topic):
        return Finding(
            f"live {topic}", "note", "nobody asks for anything: the resting goal will hold"
        )
    return finding


def _controller(node: Node, binding: Binding) -> Finding:
    controller = binding.controller
    kind = Float64MultiArray if controller.interface == "forward" else JointTrajectory
    topic = controller.topic
    finding = _type(
        node, f"live {topic}: type", topic, (kind,), node.get_subscriptions_info_by_topic
    )
    if finding.verdict == "MISMATCH":
        return finding
    for listener in node.get_subscriptions_info_by_topic(topic):
        match, reason = qos_check_compatible(RELIABLE, _reported(listener))
        if match == QoSCompatibility.ERROR:
            return Finding(f"live {topic}: QoS", "MISMATCH", f"of {listener.node_name}: {reason}")
    if others := [p.node_name for p in node.get_publishers_info_by_topic(topic)]:
        told = f"{finding.told}; {', '.join(others)} already commands there"
        return Finding(finding.what, "note", told)
    return finding


def _reported(end: TopicEndpointInfo) -> QoSProfile:
    """What the graph tells of an endpoint's quality of service, without deadlines, which it tells in another form."""
    quality = end.qos_profile
    return profile(quality.reliability, durability=quality.durability)


def _type(
    node: Node,
    what: str,
    topic: str,
    kinds: tuple[type, ...],
    endpoints: Callable[[str], list[Any]],
) -> Finding:
    """Whether somebody is at the other end of ``topic``, with one of these types."""
    expected = [type_name(kind) for kind in kinds]
    others = [end for end in endpoints(topic) if end.node_name != node.get_name()]
    if not others:
        return Finding(what, "MISMATCH", f"nobody is there; expected {' or '.join(expected)}")
    wrong = [end for end in others if end.topic_type not in expected]
    if wrong:
        told = f"{wrong[0].node_name} has {wrong[0].topic_type}; expected {' or '.join(expected)}"
        return Finding(what, "MISMATCH", told)
    return Finding(what, "ok", f"{others[0].topic_type} of {others[0].node_name}")
