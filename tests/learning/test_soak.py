"""The soak and the lifecycle: short ones for real, and that they would notice what must never happen."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from maac_learning import evidence
from maac_learning.benchmarks import lifecycle
from maac_learning.benchmarks.soak import summary
from maac_learning.cli import main
from maac_ros.bundle import load_bundle

pytest.importorskip("rclpy", reason="ROS 2 is not installed")


@pytest.mark.timeout(180)
def test_a_short_soak_finds_nothing(tmp_path, capsys):
    result = tmp_path / "soak.json"
    assert main(["soak", "--minutes", "0.4", "--seed", "3", "--json", str(result)]) == 0
    assert "violations              0" in capsys.readouterr().out
    (row,) = evidence.read(result).rows
    assert row["ticks"] > 300
    assert row["commands_checked"] > 300
    assert row["memory_last_mib"] > 10
    assert result.with_suffix(".png").stat().st_size > 10_000


@pytest.fixture
def soak(tmp_path):
    from maac_ros.nodes.soak import Soak

    with Soak(load_bundle("inverted_pendulum"), 0, tmp_path / "node.log") as made:
        yield made


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([np.nan], "a command that is not one: [nan]"),
        ([0.0, 0.0], "a command that is not one: [0.0, 0.0]"),
        ([], "a command that is not one: []"),
        ([3.1], "a command beyond its limits: [3.1]"),
        ([-1e300], "a command beyond its limits"),
    ],
)
def test_unsafe_commands_are_noticed(soak, data, told):
    soak._on_command(SimpleNamespace(data=data))
    assert soak.report.violation_count == 1
    assert told in soak.report.violations[0]


def test_a_command_where_the_safe_one_is_due_is_noticed(soak):
    soak._on_command(SimpleNamespace(data=[1.0]))
    soak._demand_safe("a joint missing", grace_s=0.0)
    soak._on_command(SimpleNamespace(data=[0.0]))
    assert soak.report.violation_count == 0
    soak._on_command(SimpleNamespace(data=[1.0]))
    assert "not the safe one: a joint missing" in soak.report.violations[0]


def test_the_longest_life_is_summed_up():
    report = {
        "minutes": 2.0,
        "ticks": {"policy": 4000, "mpc": 2000},
        "commands": 6000,
        "events": {"kill": 1, "restart": 2},
        "violations": [],
        "violation_count": 0,
        "tick_ms": {"p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0},
        "samples": [[0, 90.0, 9, 1], [5, 100.0, 9, 2], [70, 120.0, 10, 2], [110, 121.0, 10, 2]],
    }
    row = summary(json.loads(json.dumps(report)))
    assert (row["memory_first_mib"], row["memory_last_mib"]) == (120.0, 121.0)
    assert row["longest_life_minutes"] == pytest.approx(40 / 60)
    assert (row["restarts"], row["safe_ticks"], row["ticks_per_s"]) == (3, 0, 50.0)


@pytest.mark.timeout(180)
def test_the_node_stays_as_small_as_it_was(tmp_path, capsys):
    result = tmp_path / "lifecycle.json"
    assert main(["bench", "lifecycle", "--cycles", "30", "--json", str(result)]) == 0
    (row,) = evidence.read(result).rows
    assert (row["cycles"], row["failed_configures"]) == (30, 3)
    assert row["threads_last"] == row["threads_warm"]
    assert row["files_last"] == row["files_warm"]
    assert row["memory_last_mib"] < row["memory_warm_mib"] + 30
    assert result.with_suffix(".png").stat().st_size > 10_000


def test_a_leak_is_in_the_sums():
    samples = [[n, 100.0 + n, 10 + n, 20 + n] for n in range(10, 101, 10)]
    report = {"cycles": 100, "failed_configures": 10, "seconds": 20.0, "samples": samples}
    row = lifecycle.summary(report)
    assert row["growth_kib_a_cycle"] == 1024
    assert (row["threads_warm"], row["threads_last"]) == (30, 110)
    assert row["s_a_cycle"] == 0.2


def test_nodes_that_do_not_run_are_told_of(capsys):
    assert main(["bench", "lifecycle", "--cycles", "30", "--bundle", "nowhere"]) == 2
    assert "'nowhere' is not a folder" in capsys.readouterr().err
