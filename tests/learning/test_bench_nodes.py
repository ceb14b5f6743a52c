"""The benchmark of the nodes: real processes, and sums that are right."""

import numpy as np
import pytest

from maac_learning import evidence
from maac_learning.benchmarks.nodes import Recording
from maac_learning.cli import main

NAMES = ("mode", "tick_s", "planning_s", "missed", "exceedance")


def recording(**columns):
    count = len(columns["tick_s"])
    values = {name: np.zeros(count) for name in NAMES} | columns
    return Recording(
        values, ("safe", "policy", "mpc"), columns.get("changed", np.zeros(count, bool))
    )


def test_a_part_is_summed_up():
    row = recording(
        mode=np.array([2.0, 2.0, 1.0, 0.0]),
        tick_s=np.array([0.001, 0.003, 0.002, 0.004]),
        planning_s=np.array([0.001, 0.002, np.nan, np.nan]),
        missed=np.array([0.0, 2.0, 0.0, 1.0]),
        exceedance=np.array([0.9, 0.2, 0.1, 0.4]),
    ).row(slice(0, 4))
    assert (row["mpc_ticks"], row["policy_ticks"], row["safe_ticks"]) == (2, 1, 1)
    assert (row["missed_deadlines"], row["missed_share"]) == (3, 0.75)
    assert row["tick_p50_ms"] == pytest.approx(2.5)
    assert row["planning_max_ms"] == pytest.approx(2.0)
    assert row["model_exceedance_max"] == 0.9
    assert row["doubted_share_at_the_end"] == 1.0  # of the last third, one tick


def test_without_plans_there_is_no_planning_time():
    row = recording(tick_s=np.ones(3), planning_s=np.full(3, np.nan)).row(slice(0, 3))
    assert row["planning_p99_ms"] is None


def test_parts_are_where_the_robot_stays_the_same():
    changed = np.array([0, 0, 1, 1, 1, 0], bool)
    parts = recording(tick_s=np.ones(6), changed=changed).parts()
    assert [(p.start, p.stop) for p in parts] == [(0, 2), (2, 5), (5, 6)]


def test_another_robot_is_doubted_and_the_learned_one_is_not(tmp_path, capsys):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    result = tmp_path / "nodes.json"
    options = ["--bundle", "inverted_pendulum", "--ticks", "150", "--mass-factor", "2"]
    assert main(["bench", "nodes", *options, "--json", str(result)]) == 0
    assert "another" in capsys.readouterr().out
    found = evidence.read(result)
    assert [row["robot"] for row in found.rows] == ["as learned", "another", "as learned"]
    before, during, _ = found.rows
    assert sum(row["ticks"] for row in found.rows) >= 150
    assert before["mpc_ticks"] > 30
    assert before["doubted_share_at_the_end"] == 0.0
    assert during["doubted_share_at_the_end"] > 0.5
    assert result.with_suffix(".png").stat().st_size > 10_000


def test_a_missing_bundle_is_named(capsys):
    assert main(["bench", "nodes", "--bundle", "nowhere"]) == 2
    assert "'nowhere' is not a folder" in capsys.readouterr().err
