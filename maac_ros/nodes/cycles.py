"""Take the policy node through its lifecycle again and again, and see that it stays as small as it was.

``python -m maac_ros.nodes.cycles BUNDLE --cycles N --out FILE.json`` configures, activates, deactivates and cleans up a
node in its own process; now and then the bundle is one that cannot be loaded, so that configure fails. After some
cycles each, memory, threads and open files are counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maac_ros.errors import MaacError
from maac_ros.nodes.observer import NodesError, isolate, process_size

_FAILING_EVERY = 10
_SAMPLES = 100
_COMMANDING_S = 0.02
_ENDING_S = 1.0


@dataclass
class Report:
    """What the cycles came to.

    Attributes:
        cycles: through all states.
        failed_configures: with a bundle that is not there, as they should.
        seconds: all of it took.
        samples: number of cycles so far, resident memory in MiB, threads, open files.
    """

    cycles: int = 0
    failed_configures: int = 0
    seconds: float = 0.0
    samples: list[tuple[int, float, int, int]] = field(default_factory=list)


def run(bundle: str, cycles: int) -> Report:
    """So many cycles.

    Args:
        bundle: folder of the bundle, or the name of a shipped one.
        cycles: how many.

    Raises:
        NodesError: when a transition does not end as it should.
    """
    isolate()
    # rclpy reads the domain when it is imported, so isolate() must have come first.
    import rclpy
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter

    from maac_ros.nodes.common import Exit
    from maac_ros.nodes.policy_node import PolicyNode

    success, failure = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
    report, begun_s = Report(), time.monotonic()
    context = rclpy.Context()
    rclpy.init(context=context)
    node = PolicyNode(
        Exit(), context=context, parameter_overrides=[Parameter("bundle", value=bundle)]
    )
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def transition(name: str, expected: Any = success) -> None:
        answer = getattr(node, f"trigger_{name}")()
        if answer != expected:
            raise NodesError(f"cycle {report.cycles}: {name} ended with {answer}, not {expected}")

    try:
        for cycle in range(cycles):
            if cycle % _FAILING_EVERY == _FAILING_EVERY - 1:
                node.set_parameters([Parameter("bundle", value="/nowhere")])
                transition("configure", failure)
                node.set_parameters([Parameter("bundle", value=bundle)])
                report.failed_configures += 1
            transition("configure")
            transition("activate")
            end_s = time.monotonic() + _COMMANDING_S
            while time.monotonic() < end_s:
                executor.spin_once(timeout_sec=_COMMANDING_S)
            transition("deactivate")
            transition("cleanup")
            report.cycles += 1
            if report.cycles % max(1, cycles // _SAMPLES) == 0:
                gc.collect()  # only what is held counts
                report.samples.append((report.cycles, *_held(report.samples)))
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
    report.seconds = time.monotonic() - begun_s
    return report


def _held(samples: Sequence[tuple[int, float, int, int]]) -> tuple[float, int, int]:
    """Resident memory in MiB, threads and open files.

    The kernel counts a thread that was joined for a moment more: one above the last sample's is held only if it stays.
    """
    end_s = time.monotonic() + _ENDING_S
    memory_mib, threads = process_size("self")
    while samples and threads > samples[-1][2] and time.monotonic() < end_s:
        time.sleep(0.01)
        memory_mib, threads = process_size("self")
    return memory_mib, threads, len(list(Path("/proc/self/fd").iterdir()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Cycle from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m maac_ros.nodes.cycles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", help="folder of the bundle, or the name of a shipped one")
    parser.add_argument("--cycles", type=int, default=1000, help="how many")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    chosen = parser.parse_args(arguments)
    try:
        report = run(chosen.bundle, chosen.cycles)
    except MaacError as reason:
        print(f"cycles: {reason}", file=sys.stderr)
        return 2
    chosen.out.write_text(json.dumps(asdict(report)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
