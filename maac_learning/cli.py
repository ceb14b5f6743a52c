"""The ``maac`` command: what the ROS 2 nodes do, for people without ROS at hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from maac_ros.errors import ConfigError, MaacError
from maac_ros.version import __version__

Command = Callable[[Sequence[str]], int]


def _train(arguments: Sequence[str]) -> int:
    from maac_learning.commands import train

    return train(arguments)


def _evaluate(arguments: Sequence[str]) -> int:
    from maac_learning.commands import evaluate

    return evaluate(arguments)


def _export(arguments: Sequence[str]) -> int:
    from maac_learning.commands import export

    return export(arguments)


def _report(arguments: Sequence[str]) -> int:
    try:
        from maac_learning.report.command import report
    except ImportError as reason:
        raise ConfigError(f"{reason}: pip install 'maac_ros[report]'") from reason

    return report(arguments)


def _demo(arguments: Sequence[str]) -> int:
    from maac_learning.demo import demo

    return demo(arguments)


def _bench(arguments: Sequence[str]) -> int:
    from maac_learning.benchmarks import bench

    return bench(arguments)


def _study(arguments: Sequence[str]) -> int:
    from maac_learning.studies import study

    return study(arguments)


def _up(arguments: Sequence[str]) -> int:
    from maac_ros.up import main as up

    return up(list(arguments))


# Imported on use: `maac up` must run where PyTorch is not installed, and start at once.
COMMANDS: dict[str, tuple[Command, str]] = {
    "train": (_train, "learn a task in simulation"),
    "evaluate": (_evaluate, "run a bundle in its simulation, with and without planning"),
    "export": (_export, "turn a run's newest checkpoint into a bundle"),
    "report": (_report, "draw committed learning curves and measurements"),
    "study": (_study, "repeat an experiment of the paper that needs no robot"),
    "up": (_up, "start the nodes of a launch file where the launch package is not installed"),
    "bench": (_bench, "measure training and learning on this machine"),
    "demo": (_demo, "train, export and run a small task, all in a few minutes"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; errors a user can act on are printed without a traceback (exit code 2)."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="maac",
        description="Learn robot control with Model-Augmented Actor-Critic, and run what was learned.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
        + "\n\n`maac COMMAND --help` explains the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"maac_ros {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    run, _ = COMMANDS[chosen.command]
    try:
        return run(chosen.arguments)
    except MaacError as reason:
        print(f"maac {chosen.command}: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
