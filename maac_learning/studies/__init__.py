"""``maac study``: experiments of the paper, repeated with the project's own code."""

from __future__ import annotations

from collections.abc import Sequence

from maac_learning.subcommands import Subcommand, parser

STUDIES = {
    "gradient": Subcommand(
        "maac_learning.studies.gradient:gradient",
        "error of the policy gradient by horizon (section 5.2, figure 3)",
    ),
    "ablations": Subcommand(
        "maac_learning.studies.ablations:ablations",
        "what each component is worth (section 5.3, figures 4 and 5)",
    ),
    "planning": Subcommand(
        "maac_learning.studies.planning:planning",
        "what planning adds at test time (section 5.4, table 1)",
    ),
    "model-fit": Subcommand(
        "maac_learning.studies.model_fit:model_fit",
        "how well the model knows what comes next, by how it is fitted",
    ),
    "foresight": Subcommand(
        "maac_learning.studies.foresight:foresight",
        "what the model promises the policy, beside what the robot then does",
    ),
    "robustness": Subcommand(
        "maac_learning.studies.robustness:robustness",
        "what is left of the return when the robot is another one than was learned from",
    ),
    "iteration-time": Subcommand(
        "maac_learning.studies.iteration_time:iteration_time",
        "seconds of 1000 environment steps (appendix A.5, table 2)",
    ),
}


def study(arguments: Sequence[str]) -> int:
    """``maac study``: run the study named first."""
    chosen = parser("maac study", "study", "Repeat an experiment.", STUDIES).parse_args(arguments)
    return STUDIES[chosen.name].run(chosen.arguments)
