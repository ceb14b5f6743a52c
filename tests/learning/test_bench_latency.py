"""The benchmark of latency: a real node, and sums that are right."""

import numpy as np
import pytest

from maac_learning import evidence
from maac_learning.benchmarks.latency import summary
from maac_learning.cli import main


def test_answers_are_timed(tmp_path, capsys):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    result = tmp_path / "latency.json"
    options = ["--rate-hz", "100", "--minutes", "0.05", "--json", str(result)]
    assert main(["bench", "latency", *options]) == 0
    (row,) = evidence.read(result).rows
    assert row["states"] == 300
    assert row["unanswered"] < row["states"] / 2
    assert 0.05 < row["latency_p50_ms"] < 1000
    assert 0 < row["node_cpu_share"] < 2
    assert 0 <= row["node_missed_deadlines"] <= 300
    assert result.with_suffix(".png").stat().st_size > 5_000


def test_swapped_bundles_are_taken_and_refused_meanwhile(tmp_path, capsys):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    result = tmp_path / "latency.json"
    options = [
        "--rate-hz",
        "20",
        "--minutes",
        "0.25",
        "--swap-every-s",
        "0.5",
        "--json",
        str(result),
    ]
    assert main(["bench", "latency", *options]) == 0
    (row,) = evidence.read(result).rows
    assert row["swaps"] >= row["refusals"] >= 1
    # It goes on until both have happened, however long a busy machine takes to load a bundle.
    assert row["states"] >= 300
    assert 0 < row["states_swapping"] < row["states"]
    assert row["unanswered"] < row["states"] / 2


def measured(taken_s, swapping):
    return {
        "taken_s": np.array(taken_s),
        "late_s": np.zeros(len(taken_s)),
        "cpu_share": np.array(0.2),
        "node_missed": np.array(3),
        "swapping": np.array(swapping),
        "swaps": np.array(2),
        "refusals": np.array(1),
    }


def test_what_is_late_or_never_comes_is_missed():
    row = summary(measured([0.001, 0.0015, 0.003, np.nan], [False] * 4), period_s=0.002)
    assert (row["states"], row["unanswered"], row["missed_deadlines"]) == (4, 1, 2)
    assert row["missed_share"] == 0.5
    assert row["node_missed_deadlines"] == 3
    assert row["latency_p50_ms"] == pytest.approx(1.5)
    assert "swaps" not in row


def test_what_is_missed_while_a_bundle_loads_is_counted_apart():
    taken_s = [0.001, 0.003, np.nan, 0.001, 0.001, 0.001, 0.001, 0.003]
    row = summary(measured(taken_s, [True] * 4 + [False] * 4), period_s=0.002)
    assert (row["swaps"], row["refusals"]) == (2, 1)
    assert (row["states_swapping"], row["missed_share_swapping"]) == (4, 0.5)
    assert (row["states_otherwise"], row["missed_share_otherwise"]) == (4, 0.25)
    always = summary(measured(taken_s, [True] * 8), period_s=0.002)
    assert (always["states_otherwise"], always["missed_share_otherwise"]) == (0, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--rate-hz", "0"), ("--rate-hz", "nan"), ("--minutes", "-1"), ("--swap-every-s", "0")],
)
def test_nonsense_is_refused(capsys, option, value):
    assert main(["bench", "latency", option, value]) == 2
    assert f"{option}: got" in capsys.readouterr().err
