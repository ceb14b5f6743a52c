"""The ``maac`` command: what the ROS 2 nodes do, for people without ROS at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from maac_learning.subcommands import Subcommand, parser
from maac_ros.errors import MaacError
from maac_ros.version import __version__

COMMANDS = {
    "train": Subcommand("maac_learning.commands:train", "learn a task in simulation"),
    "evaluate": Subcommand(
        "maac_learning.commands:evaluate",
        "run a bundle in its simulation, with and without planning",
    ),
    "export": Subcommand(
        "maac_learning.commands:export", "turn a run's newest checkpoint into a bundle"
    ),
    "check": Subcommand(
        "maac_ros.check:check", "compare a task with a robot, a bundle and the robot's topics"
    ),
    "replay": Subcommand(
        "maac_ros.replay:replay", "repeat what a policy node recorded, and compare the commands"
    ),
    "view": Subcommand(
        "maac_ros.nodes.viewer:view", "look at a running robot, real or simulated, in a window"
    ),
    "report": Subcommand(
        "maac_learning.report:report", "draw committed learning curves and measurements"
    ),
    "study": Subcommand("maac_learning.studies:study", "repeat an experiment of the paper"),
    "up": Subcommand(
        "maac_ros.up:main",
        "start the nodes of a launch file where the launch package is not installed",
    ),
    "bench": Subcommand(
        "maac_learning.benchmarks:bench", "measure training and learning on this machine"
    ),
    "soak": Subcommand(
        "maac_learning.benchmarks.soak:soak", "run the policy node through random faults for long"
    ),
    "demo": Subcommand(
        "maac_learning.demo:demo", "train, export and run a small task, all in a few minutes"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; errors a user can act on are printed without a traceback (exit code 2)."""
    about = "Learn robot control with Model-Augmented Actor-Critic, and run what was learned."
    words = parser("maac", "command", about, COMMANDS)
    words.add_argument("--version", action="version", version=f"maac_ros {__version__}")
    chosen = words.parse_args(argv)
    try:
        return COMMANDS[chosen.name].run(chosen.arguments)
    except MaacError as reason:
        print(f"maac {chosen.name}: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough. What is left in the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
