"""A policy as a LEAPP graph: the same commands in LEAPP's own loader, from measurements by name."""

import numpy as np
import pytest
import yaml

from maac_learning import leapp_export
from maac_learning.cli import main
from maac_learning.export import export_untrained_bundle
from maac_ros.errors import BundleError, ConfigError
from maac_ros.resources import named_file
from maac_ros.task import load_task

leapp = pytest.importorskip("leapp", reason="pip install --no-deps leapp")


def description(folder, task):
    return yaml.safe_load((folder / task / f"{task}.yaml").read_text(encoding="utf-8"))


def test_a_shipped_policy_is_told_and_tells_by_name_and_unit(tmp_path, capfd):
    assert main(["export", "reaching_arm", "--leapp", str(tmp_path / "leapp")]) == 0
    assert f"leapp: {tmp_path}/leapp/reaching_arm/reaching_arm.yaml\n" in capfd.readouterr().out
    told = description(tmp_path / "leapp", "reaching_arm")
    inputs = {each["name"]: each for each in told["models"]["policy"]["inputs"]}
    assert {name: (each["kind"], each["element_names"]) for name, each in inputs.items()} == {
        "joint_position": ("state/joint/position", [["shoulder", "elbow"]]),
        "joint_velocity": ("state/joint/velocity", [["shoulder", "elbow"]]),
        "goal": ("command/joint/position", [["shoulder", "elbow"]]),
    }
    (output,) = told["models"]["policy"]["outputs"]
    assert output["kind"] == "target/joint/effort"
    assert (output["low"], output["high"]) == ([-12, -4], [12, 4])  # N·m
    assert told["pipeline"]["configs"]["frequency"] == pytest.approx(50.0)
    for file in (tmp_path / "leapp").rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes(), file


@pytest.mark.parametrize("name", ["ant", "late_pendulum"])
def test_commands_are_those_of_the_bundle(tmp_path, untrained_bundle, name):
    """Also of a robot with a floating base, and of one that recalls; the export itself compares."""
    file = leapp_export.export_leapp(untrained_bundle(name), tmp_path / "leapp")
    told = yaml.safe_load(file.read_text(encoding="utf-8"))
    feedback = told["pipeline"].get("feedback_flow") or {}
    assert bool(feedback) == (name == "late_pendulum")


def test_what_differs_is_found(tmp_path, untrained_bundle):
    """The graph of one bundle compared with another."""
    file = leapp_export.export_leapp(untrained_bundle("hopper"), tmp_path / "leapp")
    other = export_untrained_bundle(load_task("hopper"), tmp_path / "other", seed=1)
    with pytest.raises(BundleError, match=r"step 0: .*/effort is .* in LEAPP and .* in the bundle"):
        leapp_export.check_leapp(other, file)


def arm_of_servos(folder, recalls):
    """The two-joint arm, told positions, with or without its last commands."""
    data = yaml.safe_load(named_file("tasks", "two_joint_arm", "task").read_text(encoding="utf-8"))
    data["action"] = [{"term": "position", "joints": ["elbow", "shoulder"], "limits": [-1, 1]}]
    if recalls:
        data["observation"].append({"term": "last_command", "joints": ["elbow"]})
    file = folder / "task.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return export_untrained_bundle(load_task(file), folder / "bundle")


def test_position_targets_go_out_as_such(tmp_path):
    leapp_export.export_leapp(arm_of_servos(tmp_path, recalls=False), tmp_path / "leapp")
    (output,) = description(tmp_path / "leapp", "two_joint_arm")["models"]["policy"]["outputs"]
    assert (output["kind"], output["element_names"]) == (
        "target/joint/position",
        [["elbow", "shoulder"]],
    )


def test_position_targets_cannot_be_recalled(tmp_path, untrained_bundle):
    with pytest.raises(ConfigError, match="recalls commands of joints that are told positions"):
        leapp_export.export_leapp(arm_of_servos(tmp_path, recalls=True), tmp_path / "leapp")
    # Nothing is left under way.
    leapp_export.export_leapp(untrained_bundle("hopper"), tmp_path / "next")


def test_offset_and_scale_are_part_of_the_graph(tmp_path):
    """What goes in is what the robot measures; what is recalled is recalled as it was observed."""
    data = yaml.safe_load(named_file("tasks", "late_pendulum", "task").read_text(encoding="utf-8"))
    data["observation"][0] |= {"offset": [0.1, -0.2], "scale": [3, 0.5]}
    data["observation"][1] |= {"scale": 0.1}
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    bundle = export_untrained_bundle(load_task(file), tmp_path / "bundle")
    # The export itself plays observations in LEAPP's loader and in the bundle.
    written = leapp_export.export_leapp(bundle, tmp_path / "leapp")
    data["observation"][0]["offset"] = [0.1, -0.3]
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    other = export_untrained_bundle(load_task(file), tmp_path / "other")
    with pytest.raises(BundleError, match="in LEAPP and"):
        leapp_export.check_leapp(other, written)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["hopper", "--leapp", "{here}"], "exists already"),
        (["nothing", "--output", "{here}/new"], "'nothing' is not a folder"),
        (["nothing", "--leapp", "{here}/new"], "'nothing' is not a folder"),
        (["hopper", "--leapp", "{here}/new", "--planner", "p.yaml"], "expected it only with --output"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_told(tmp_path, capsys, options, said):
    assert main(["export", *(o.format(here=tmp_path) for o in options)]) == 2
    assert said in capsys.readouterr().err


def test_golden_rows_are_enough_to_compare(untrained_bundle):
    with np.load(untrained_bundle("hopper").path / "golden.npz") as golden:
        assert len(golden["policy.observation"]) >= leapp_export._CHECKED_STEPS
