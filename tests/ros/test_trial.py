"""The trial behind ``maac demo``: real processes, real DDS, planning switched while they run."""

import json
import math
import subprocess
import sys

import pytest

from maac_learning.export import export_untrained_bundle
from maac_ros.nodes.telemetry import COLUMNS
from maac_ros.nodes.trial import Result, main, summarize, table
from maac_ros.task import load_task


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


def test_trial_switches_planning_while_the_nodes_run(short_task, tmp_path):
    # A robot that cannot fall, so that an episode lasts for seconds whatever the policy does.
    task = load_task(short_task("half_cheetah", 100))
    bundle = export_untrained_bundle(task, tmp_path / "bundle").path
    results = tmp_path / "trial.json"
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
    # The two topics of an episode are not ordered, and a busy machine may cost a safe tick: not every tick counts.
    assert episodes[0]["ticks"]["policy"] > 50
    assert "mpc" not in episodes[0]["ticks"]
    assert episodes[1]["ticks"]["mpc"] > 50
    assert {"policy", "mpc"} <= set(episodes[2]["ticks"])


def test_trial_of_a_missing_bundle_starts_nothing(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
