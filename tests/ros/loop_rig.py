"""A control loop without a node: messages are put in by hand, and the clock is set by hand."""

import dataclasses
import threading
import time

import numpy as np

from maac_ros.controller import Controller, ControllerSettings
from maac_ros.nodes.control_loop import ControlLoop, RosTime
from maac_ros.nodes.inbox import Inbox
from maac_ros.observation import JointReading

SECOND = 1_000_000_000
READING = JointReading(np.array([0.1, 0.05]), np.array([0.2, -0.1]))


class Rig:
    """A loop on a hand-set ROS clock, with what it sent and measured."""

    def __init__(
        self,
        bundle,
        trigger,
        simulated=False,
        recorder=None,
        clock=time.perf_counter,
        **settings,
    ):
        self.now_ns = 100 * SECOND
        self.sent, self.ticks, self.failures = [], [], []
        self.changed = threading.Condition()
        base = ControllerSettings(bundle.task.planner, mpc_budget_s=1.0, max_observation_age_s=0.2)
        self.inbox = Inbox(bundle.task, trigger == "observation", lambda: simulated)
        self.controller = Controller(bundle, dataclasses.replace(base, **settings), clock=clock)
        self.loop = ControlLoop(
            self.controller,
            self.inbox,
            RosTime(lambda: self.now_ns, lambda: simulated),
            self._send,
            self.ticks.append,
            self.failures.append,
            trigger,
            recorder,
        )

    def _send(self, command, answers_ns):
        with self.changed:
            self.sent.append((command, answers_ns))
            self.changed.notify()

    def put(self, stamp_ns, reading=READING):
        self.inbox.put("joint_states", stamp_ns, reading)

    def until_sent(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.sent) >= count, timeout=10)
        return self.sent[-1]

    def until(self, predicate):
        """Wait for what the loop does without sending."""
        deadline = time.monotonic() + 10
        while not predicate():
            assert time.monotonic() < deadline
            time.sleep(0.002)
