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
    assert row["unanswered"] < 30
    assert 0.05 < row["latency_p50_ms"] < 1000
    assert 0 < row["node_cpu_share"] < 2
    assert result.with_suffix(".png").stat().st_size > 5_000


def test_what_is_late_or_never_comes_is_missed():
    taken_s = np.array([0.001, 0.0015, 0.003, np.nan])
    row = summary(taken_s, np.zeros(4), 0.2, period_s=0.002)
    assert (row["states"], row["unanswered"], row["missed_deadlines"]) == (4, 1, 2)
    assert row["missed_share"] == 0.5
    assert row["latency_p50_ms"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("option", "value"), [("--rate-hz", "0"), ("--rate-hz", "nan"), ("--minutes", "-1")]
)
def test_nonsense_is_refused(capsys, option, value):
    assert main(["bench", "latency", option, value]) == 2
    assert f"{option}: got" in capsys.readouterr().err
