"""Starts a simulated robot and its policy node as processes, listens to both, and changes their parameters."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from maac_ros.errors import MaacError
from maac_ros.task import Task
from maac_ros.vetting import TRIES

START_SECONDS = 30.0
"""Time for the nodes to come up, and for each answer of theirs."""

LOADING_SECONDS = START_SECONDS + sum(seconds for _, seconds in TRIES)
"""For an answer about a bundle: it is verified where nobody else wants the core, before it is where others do."""


class NodesError(MaacError):
    """The nodes did not do what was asked of them."""


def isolate() -> None:
    """Keep the DDS traffic on this host, off the user's own domain and off those of the tests (60 to 99)."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(20, 59)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")  # the same, for the distribution before it


class Probe:
    """A ROS node of one's own beside the nodes that are looked at, in a context of its own.

    Args:
        name: of the node.
    """

    def __init__(self, name: str) -> None:
        isolate()
        # rclpy reads the domain when it is imported, so isolate() must have come first.
        import rclpy

        from maac_ros.nodes.common import starting

        self._context = rclpy.Context()
        with starting():
            rclpy.init(context=self._context)
            self.node = rclpy.create_node(name, context=self._context)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def spin(self, timeout_s: float) -> None:
        """Take in one message, or what else has come, within ``timeout_s``."""
        self._executor.spin_once(timeout_sec=timeout_s)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


def start_policy_node(log: Path, **parameters: object) -> subprocess.Popen[bytes]:
    """A policy node, configured and activated at once, as a process of its own.

    Args:
        log: file that its output is added to.
        parameters: of the node; two underscores stand for the dot of a name.
    """
    given = {"autostart": True, **parameters}
    words = [
        word
        for name, value in given.items()
        for word in ("-p", f"{name.replace('__', '.')}:={json.dumps(value)}")
    ]
    with log.open("a", encoding="utf-8") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "maac_ros.nodes.policy_node", "--ros-args", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def process_size(process: int | str) -> tuple[float, int]:
    """Resident memory in MiB, and threads, of a process by its number, or of this one, ``self``.

    Raises:
        OSError: when there is no such process, or no ``/proc``.
        KeyError: when it has ended and nobody has taken notice yet.
    """
    text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"])


class Observer:
    """Use as a context: the nodes end with it.

    Args:
        bundle: folder of the bundle, or the name of a shipped one.
        task: the bundle's own, shipped or not.
        arguments: of the graph ``sim_deploy``.
        log: file for the output of the nodes.

    Attributes:
        rows: telemetry, a row a tick, see :mod:`maac_ros.nodes.telemetry`.
        returns: of the finished episodes.
        episodes: the same by the simulator's number of the episode, as far as they were heard.
    """

    def __init__(
        self, bundle: Path | str, task: Task, arguments: Mapping[str, object], log: Path
    ) -> None:
        self._probe = Probe("observer")
        from std_msgs.msg import Float64, Float64MultiArray, String

        from maac_ros.nodes.common import LATCHED, profile
        from maac_ros.nodes.remote import Remote

        log.parent.mkdir(parents=True, exist_ok=True)
        task_file = log.with_name("task.yaml")
        task_file.write_text(yaml.safe_dump(task.model_dump(mode="json"), sort_keys=False))
        given = {"task": task_file, "bundle": bundle, **arguments}
        self._command = [sys.executable, "-m", "maac_ros.up", "sim_deploy"]
        self._command += [f"{key}:={value}" for key, value in given.items()]
        self._log = log
        self.rows: list[list[float]] = []
        self.returns: list[float] = []
        self.episodes: dict[int, float] = {}
        self._nodes: subprocess.Popen[bytes] | None = None
        self._node = self._probe.node
        self._node.create_subscription(
            Float64, "/sim_node/episode_return", lambda m: self.returns.append(m.data), LATCHED
        )
        self._node.create_subscription(String, "/sim_node/episode", self._on_episode, LATCHED)
        self._node.create_subscription(
            Float64MultiArray,
            "/policy_node/telemetry",
            lambda m: self.rows.append(list(m.data)),
            profile(depth=1000),
        )
        self._remotes = {
            name: Remote(
                self._node, f"/{name}", lambda done, what: self.until(done, what, START_SECONDS)
            )
            for name in ("policy_node", "sim_node")
        }

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._nodes is not None:
            self._nodes.terminate()
            try:
                self._nodes.wait(15)
            except subprocess.TimeoutExpired:
                self._nodes.kill()
        self._probe.close()

    def _on_episode(self, message: Any) -> None:
        fields = json.loads(message.data)
        self.episodes[fields["episode"]] = fields["return"]

    def launch(self) -> None:
        """Start the nodes."""
        with self._log.open("w", encoding="utf-8") as output:
            self._nodes = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)

    def begin(self) -> None:
        """Start the nodes, and an episode of which nothing is missed.

        Raises:
            NodesError: when they do not come up.
        """
        self.launch()
        self.until(lambda: bool(self.rows), "tick of the policy node", START_SECONDS)
        # The first ticks went by before this process was connected to everything.
        self._remotes["policy_node"].ready()
        self._remotes["sim_node"].ready("reset")
        self._remotes["sim_node"].trigger("reset")

    def set_parameter(self, node: str, name: str, value: bool | int | float | str) -> None:
        """Set a parameter of ``policy_node`` or ``sim_node``.

        Raises:
            NodesError: when the node refuses.
        """
        if reason := self._remotes[node].set(name, value):
            raise NodesError(f"{node} refused {name}: {reason}")

    def until(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        """Listen until ``done``.

        Raises:
            NodesError: after ``seconds``, or when the nodes have ended.
        """
        deadline = time.monotonic() + seconds
        while not done():
            self.spin(what, deadline)

    def until_rows(self, count: int, seconds: float) -> None:
        """Listen until there are ``count`` rows; raises as :meth:`until` does."""
        self.until(lambda: len(self.rows) >= count, "tick", seconds)

    def spin(self, awaited: str, deadline: float) -> None:
        """Listen for a moment; raises as :meth:`until` does, ``deadline`` on the monotonic clock."""
        assert self._nodes is not None
        if self._nodes.poll() is not None:
            raise NodesError(
                f"the nodes ended early (exit code {self._nodes.returncode}); see {self._log}"
            )
        if time.monotonic() > deadline:
            raise NodesError(f"no {awaited} in time; see {self._log}")
        self._probe.spin(0.02)
