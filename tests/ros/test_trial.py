"""The trial behind ``maac demo``: real processes, real DDS, planning switched while they run."""

import json
import math
import subprocess
import sys

import pytest

from maac_ros.nodes.telemetry import COLUMNS
from maac_ros.nodes.trial import Result, main, summarize, table


def row(**values):
    defaults = dict.fromkeys(COLUMNS, 0.0) | {"mode": 1, "planning_s": math.nan}
    return [float({**defaults, **values}[name]) for name in COLUMNS]


def test_summary_counts_modes_switches_and_missed_deadlines():
    rows = [
        row(mode=1, tick_s=0.001),
        row(mode=2, tick_s=0.003, planning_s=0.002),
        row(mode=2, tick_s=0.003, planning_s=0.002, missed=2),
        row(mode=1, tick_s=0.001),
    ]
    result = summarize("x", 5.0, rows)
    assert result.ticks == {"policy": 2, "mpc": 2}
    assert (result.switches, result.missed_deadlines) == (2, 2)
    assert result.tick.p50_ms == pytest.approx(2.0)
    assert (result.planning.count, result.planning.max_ms) == (2, pytest.approx(2.0))


def test_table_has_a_line_for_each_episode():
    result: Result = summarize("policy", 7.0, [row(tick_s=0.001)])
    assert table([result]).splitlines()[2] == (
        "| policy | 7 | 1 policy | 1.00 ms | 1.00 ms | – | – | 0 |"
    )


def test_trial_switches_planning_while_the_nodes_run(untrained_bundle, tmp_path):
    results = tmp_path / "trial.json"
    bundle = untrained_bundle("inverted_pendulum").path
    options = ["--log", tmp_path / "nodes.log", "--json", results]
    done = subprocess.run(
        [sys.executable, "-m", "maac_ros.nodes.trial", bundle, *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr + (tmp_path / "nodes.log").read_text()
    assert "| switching |" in done.stdout
    episodes = json.loads(results.read_text())["episodes"]
    assert [e["name"] for e in episodes] == ["policy", "MPC", "switching"]
    # On a busy machine a late observation may cost a safe tick; planning must not have begun.
    assert episodes[0]["ticks"]["policy"] > 0
    assert "mpc" not in episodes[0]["ticks"]
    assert episodes[1]["ticks"]["mpc"] > 0


def test_trial_of_a_missing_bundle_starts_nothing(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
