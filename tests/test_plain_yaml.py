"""Descriptions are plain YAML: anchors and merges are welcome, what takes time or memory without end is refused."""

import re
import time
from pathlib import Path

import pytest
import yaml

from maac_ros import plain_yaml, schema
from maac_ros.errors import TaskError
from maac_ros.plain_yaml import MAX_DEPTH, MAX_NODES
from maac_ros.resources import named_file, share_directory
from maac_ros.robot import MAX_JOINTS
from maac_ros.task import Task, load_task

SHIPPED = sorted(
    path
    for folder in ("config", "bundles")
    for path in (share_directory() / folder).rglob("*.yaml")
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_files_mean_what_yaml_says(path):
    text = path.read_text(encoding="utf-8")
    assert plain_yaml.load(text) == yaml.safe_load(text)


def test_anchors_aliases_and_merges():
    text = "a: &a {x: 1, y: &y [2, 3]}\nb: {<<: *a, x: 4}\nc: *y\nd: {<<: [*a, {z: 5}]}\n"
    assert plain_yaml.load(text) == yaml.safe_load(text)


def laughs(levels, first="[l, l]", following="[{0}, {0}]"):
    """Each line stands for twice as much as the one before."""
    lines = [f"x0: &x0 {first}"]
    lines += [f"x{i}: &x{i} " + following.replace("{0}", f"*x{i - 1}") for i in range(1, levels)]
    return "\n".join(lines) + "\n"


TOO_MANY = f"more than {MAX_NODES} values"
TOO_DEEP = f"more than {MAX_DEPTH} levels"
REFUSED = {
    "aliases of aliases": (laughs(45), TOO_MANY),
    "merges of merges": (laughs(25, "{a: 1}", "{<<: [{0}, {0}]}"), TOO_MANY),
    "a value in itself": ("&a [*a]", r"\*a lies within what it stands for"),
    "a mapping in itself": ("&a {b: {c: *a}}", r"\*a lies within what it stands for"),
    "values": ("[" + "a," * MAX_NODES + "]", TOO_MANY),
    "levels": ("[" * 100_000, TOO_DEEP),
    "levels of mappings": ("{a: " * 2000 + "}" * 2000, TOO_DEEP),
    "levels by aliases": (laughs(60, "[l]", "[{0}]"), TOO_DEEP),
    "an integer": ("x: " + "9" * 5000, "number of 5000 characters; expected at most 50"),
    "a sexagesimal integer": ("x: " + "1:" * 300_000 + "1", "number of 600001 characters"),
    "a float": ("x: 0." + "1" * 5000, "number of 5002 characters"),
    "an integer without digits": ("x: 0b_", "'0b_': invalid literal"),
    "a date that there is not": ("x: 2020-13-45", "'2020-13-45': month must be in"),
    "an escape beyond Unicode": (r'x: "\UFFFFFFFF"', ""),
    "tag float": ("x: !!float foo", "tag '.*float'; expected plain YAML without tags"),
    "tag int": ("x: !!int _", "tag '.*int'"),
    "tag bool": ("x: !!bool foo", "tag '.*bool'"),
    "tag timestamp": ("x: !!timestamp foo", "tag '.*timestamp'"),
    "tag set": ("x: !!set {a, b}", "tag '.*set'"),
    "tag on a list": ("x: !!omap [a: 1]", "tag '.*omap'"),
    "tag of Python": ("x: !!python/object/apply:os.getcwd []", "tag '.*getcwd'"),
    "tag of its own": ("%TAG ! tag:x,2000:\n--- !y z", "tag 'tag:x,2000:y'"),
    "a list as a key": ("? [a]\n: 1", "unhashable key"),
    "an alias of nothing": ("*a", "undefined alias 'a'"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", sorted(REFUSED))
def test_more_than_plain_yaml_is_refused_by_file(tmp_path, what):
    text, message = REFUSED[what]
    path = tmp_path / "task.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TaskError, match=rf"(?s)^{path}: not valid YAML: .*{message}") as caught:
        load_task(path)
    assert len(str(caught.value)) < len(str(path)) + 500


def test_as_much_as_is_allowed_is_read():
    assert len(plain_yaml.load("[" + "a," * 20_000 + "]")) == 20_000
    value = plain_yaml.load("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == []


def test_values_are_shown_in_brief_without_the_whole_of_them_being_written():
    value = ["x"] * 10
    for _ in range(40):
        value = [value] * 10
    begun = time.perf_counter()
    assert schema.brief(value).startswith("[[[[[[")
    assert len(schema.brief({"a": value, "b": "y" * 10**7})) <= 60
    assert time.perf_counter() - begun < 1.0
    assert schema.brief({"a": 1.5}) == "{'a': 1.5}"


def test_many_problems_make_a_message_of_a_few_lines():
    joints = {f"joint_{i}": {"type": "round"} for i in range(500)}
    with pytest.raises(TaskError) as caught:
        schema.parse({"robot": {"joints": joints}}, Task, "t.yaml", TaskError)
    lines = str(caught.value).splitlines()
    assert len(lines) == schema.MAX_PROBLEMS + 1
    assert any("t.yaml: robot.joints.joint_0.type: got 'round'" in line for line in lines)
    assert re.fullmatch(r"t\.yaml: and 48\d more of the kind", lines[-1])


def test_a_long_line_is_cut():
    data = yaml.safe_load(named_file("tasks", "two_joint_arm", "task").read_text("utf-8"))
    data["robot"]["joints"] = {"j" * 100 + str(i): {"type": "revolute"} for i in range(500)}
    with pytest.raises(TaskError, match="expected one of: jjjj") as caught:
        schema.parse(data, Task, "t.yaml", TaskError)
    assert max(map(len, str(caught.value).splitlines())) < schema.MAX_LINE + 10


def test_a_robot_of_too_many_joints_is_refused(tmp_path):
    data = yaml.safe_load(named_file("tasks", "two_joint_arm", "task").read_text("utf-8"))
    data["robot"]["joints"] |= {f"j{i}": {"type": "revolute"} for i in range(MAX_JOINTS)}
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(TaskError, match=rf"{path}: robot\.joints: .*at most {MAX_JOINTS} items"):
        load_task(Path(path))
