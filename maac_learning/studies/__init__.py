"""``maac study``: experiments of the paper that need no robot, repeated with the project's own code."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence


def _gradient(arguments: Sequence[str]) -> int:
    from maac_learning.studies.gradient import gradient

    return gradient(arguments)


def _ablations(arguments: Sequence[str]) -> int:
    from maac_learning.studies.ablations import ablations

    return ablations(arguments)


def _iteration_time(arguments: Sequence[str]) -> int:
    from maac_learning.studies.iteration_time import iteration_time

    return iteration_time(arguments)


STUDIES: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "gradient": (_gradient, "error of the policy gradient by horizon (section 5.2, figure 3)"),
    "ablations": (_ablations, "what each component is worth (section 5.3, figures 4 and 5)"),
    "iteration-time": (
        _iteration_time,
        "seconds of 1000 environment steps (appendix A.5, table 2)",
    ),
}


def study(arguments: Sequence[str]) -> int:
    """``maac study``: run the study named first."""
    width = max(map(len, STUDIES))
    parser = argparse.ArgumentParser(
        prog="maac study",
        description=__doc__,
        epilog="studies:\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in STUDIES.items())
        + "\n\n`maac study NAME --help` explains the options of a study.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=STUDIES, metavar="NAME", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    run, _ = STUDIES[chosen.name]
    return run(chosen.arguments)
