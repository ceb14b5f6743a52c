"""Whether somebody else commands the robot already: two who do overrule each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node

from maac_ros.nodes.common import BEST_EFFORT
from maac_ros.nodes.reader import Reader

_QUIET_S = 0.3
"""How long nobody may have commanded: longer than it takes two nodes to find each other."""

_QUIET_PERIODS = 3

_POLL_S = 0.01


class Rivals:
    """Listens to a command topic from now on, until :meth:`close`.

    A publisher alone is no rival: one that was killed is known for a while yet, and others may never publish.

    Args:
        node: that will command, and does not yet.
        kind: message type of the commands.
        topic: of the commands.
        period_s: in which a rival commands.
        failed: is told of an exception that ended the listening.
    """

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        period_s: float,
        failed: Callable[[Exception], None],
    ) -> None:
        self._quiet_s = max(_QUIET_S, _QUIET_PERIODS * period_s)
        self._heard_s = time.monotonic()  # as if: whoever is there needs time to be heard
        self._reader = Reader(node, failed)
        self._reader.subscribe(kind, topic, self._take, BEST_EFFORT)
        self._reader.start()

    def silent(self) -> bool:
        """Whether nobody commands. Waits until there was silence for long enough, or somebody is heard meanwhile."""
        begun_s = time.monotonic()
        while (now_s := time.monotonic()) < self._heard_s + self._quiet_s:
            if self._heard_s > begun_s:
                return False
            time.sleep(min(_POLL_S, self._heard_s + self._quiet_s - now_s))
        return self._heard_s <= begun_s

    def close(self) -> None:
        self._reader.close()

    def _take(self, _: Any) -> None:
        self._heard_s = time.monotonic()
