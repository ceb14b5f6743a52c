"""Whatever is in a file, loading it gives what it describes or one of the project's own errors."""

import copy
import hashlib
import shutil

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maac_ros.bundle import load_bundle
from maac_ros.errors import MaacError
from maac_ros.recording import read_recording
from maac_ros.resources import bundle_folder, named_file
from maac_ros.task import load_task

RELAXED = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)

SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from(["", "joint_states", "slider", "x" * 5000, "../..", "\u0000", "NaN", "1e999"]),
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(data, path=()):
    """Paths to every value of nested mappings and lists."""
    yield path
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def changed(draw, original):
    """``original`` with one to three values replaced, removed or added."""
    data = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(data))))
        value = draw(VALUE)
        if not path:
            continue
        parent = data
        for key in path[:-1]:
            parent = parent[key]
        match draw(st.integers(0, 2)):
            case 0:
                parent[path[-1]] = value
            case 1:
                del parent[path[-1]]
            case 2 if isinstance(parent, dict):
                parent["other"] = value
    return data


def outcome(load, path, well):
    """The message of the named error with which loading ended; ``well`` where it ended without."""
    try:
        load(path)
    except MaacError as reason:
        return str(reason)
    return well


TASKS = {
    name: yaml.safe_load(named_file("tasks", name, "task").read_text(encoding="utf-8"))
    for name in ("inverted_pendulum", "walker2d", "ant")
}


@RELAXED
@given(data=st.sampled_from(sorted(TASKS)).flatmap(lambda name: changed(TASKS[name])))
def test_changed_task(tmp_path, data):
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    assert str(path) in outcome(load_task, path, str(path))


@RELAXED
@given(
    data=st.one_of(
        st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace"))
    )
)
def test_text_that_is_no_task(tmp_path, data):
    path = tmp_path / "task.yaml"
    path.write_bytes(data)
    with pytest.raises(MaacError, match=r"task\.yaml"):
        load_task(path)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A copy of a shipped bundle, and its untouched contents."""
    folder = tmp_path_factory.mktemp("fuzz") / "bundle"
    shutil.copytree(bundle_folder("inverted_pendulum"), folder)
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def restore(damaged):
    folder, contents = damaged
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def load(folder):
    return outcome(load_bundle, folder, str(folder))


@RELAXED
@given(data=st.data())
def test_changed_manifest(damaged, data):
    folder = restore(damaged)
    manifest = yaml.safe_load((folder / "bundle.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(data.draw(changed(manifest)))
    (folder / "bundle.yaml").write_text(text, encoding="utf-8")
    assert str(folder) in load(folder)


FILES = ("golden.npz", "model.onnx", "policy.onnx", "step.onnx", "value.onnx")


@st.composite
def torn(draw, data):
    """``data`` with a few bytes changed, or without its end, or its middle."""
    changed = bytearray(data)
    match draw(st.integers(0, 2)):
        case 0:
            for _ in range(draw(st.integers(1, 8))):
                changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
        case 1:
            del changed[draw(st.integers(0, len(changed) - 1)) :]
        case 2:
            first = draw(st.integers(0, len(changed) - 1))
            del changed[first : first + draw(st.integers(1, 100))]
    return bytes(changed)


@RELAXED
@given(name=st.sampled_from(FILES), data=st.data())
def test_torn_file_of_a_bundle(damaged, name, data):
    folder = restore(damaged)
    contents = data.draw(torn(damaged[1][name]))
    (folder / name).write_bytes(contents)
    if contents != damaged[1][name]:
        assert f"{name}: sha256" in load(folder)


@RELAXED
@given(name=st.sampled_from(FILES), data=st.data())
def test_torn_file_whose_digest_was_made_to_fit(damaged, name, data):
    folder = restore(damaged)
    contents = data.draw(torn(damaged[1][name]))
    (folder / name).write_bytes(contents)
    manifest = yaml.safe_load((folder / "bundle.yaml").read_text(encoding="utf-8"))
    manifest["sha256"][name] = hashlib.sha256(contents).hexdigest()
    (folder / "bundle.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    assert str(folder) in load(folder)


@RELAXED
@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_recording(tmp_path, data):
    path = tmp_path / "r.mcap"
    path.write_bytes(data)
    with pytest.raises(MaacError, match=r"r\.mcap"):
        list(read_recording(path))
