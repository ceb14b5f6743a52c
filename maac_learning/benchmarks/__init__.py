"""``maac bench``: what training costs, and what is learned."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

Benchmark = Callable[[Sequence[str]], int]


def _training(arguments: Sequence[str]) -> int:
    from maac_learning.benchmarks.training import training

    return training(arguments)


def _learning(arguments: Sequence[str]) -> int:
    from maac_learning.benchmarks.learning import learning

    return learning(arguments)


BENCHMARKS: dict[str, tuple[Benchmark, str]] = {
    "training": (_training, "where the time of training goes, and how much of the machine it uses"),
    "learning": (_learning, "learning curves over tasks, presets and seeds"),
}


def bench(arguments: Sequence[str]) -> int:
    """``maac bench``."""
    width = max(map(len, BENCHMARKS))
    parser = argparse.ArgumentParser(
        prog="maac bench",
        description="Measure on this machine.",
        epilog="benchmarks:\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in BENCHMARKS.items())
        + "\n\n`maac bench BENCHMARK --help` explains the options of a benchmark.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help="one of those below"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    run, _ = BENCHMARKS[chosen.benchmark]
    return run(chosen.arguments)
