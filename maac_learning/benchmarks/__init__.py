"""``maac bench``: what training and planning cost, and what is learned."""

from __future__ import annotations

from collections.abc import Sequence

from maac_learning.subcommands import Subcommand, parser

BENCHMARKS = {
    "training": Subcommand(
        "maac_learning.benchmarks.training:training",
        "where the time of training goes, and how much of the machine it uses",
    ),
    "planner": Subcommand(
        "maac_learning.benchmarks.planner:planner",
        "how long plans take, and how much of the machine they use",
    ),
    "nodes": Subcommand(
        "maac_learning.benchmarks.nodes:nodes",
        "missed deadlines and latencies of the real nodes, and what they think of their model",
    ),
    "latency": Subcommand(
        "maac_learning.benchmarks.latency:latency",
        "from joint_states to the command over DDS, at a rate of 500 Hz or another",
    ),
    "lifecycle": Subcommand(
        "maac_learning.benchmarks.lifecycle:lifecycle",
        "memory, threads and files of the policy node over many cycles of its lifecycle",
    ),
    "learning": Subcommand(
        "maac_learning.benchmarks.learning:learning",
        "learning curves over tasks, presets and seeds",
    ),
}


def bench(arguments: Sequence[str]) -> int:
    """``maac bench``: run the benchmark named first."""
    chosen = parser("maac bench", "benchmark", "Measure on this machine.", BENCHMARKS).parse_args(
        arguments
    )
    return BENCHMARKS[chosen.name].run(chosen.arguments)
