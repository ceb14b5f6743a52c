"""Whatever is in a file, loading it gives what it describes or one of the project's own errors."""

import copy
import datetime
import hashlib
import io
import re
import shutil
import struct
import zipfile

import numpy as np
import onnx
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

FEWER = settings(RELAXED, max_examples=40)

SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from(["", "joint_states", "slider", "x" * 5000, "../..", "\u0000", "NaN", "1e999"]),
    st.sampled_from([10**60, 2**2000, "\ud800", datetime.date(2020, 1, 1), b"\xff"]),
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


TEXTS = {
    name: named_file("tasks", name, "task").read_text(encoding="utf-8")
    for name in ("inverted_pendulum", "walker2d", "ant")
}
TASKS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}


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


WORDS = st.one_of(
    st.sampled_from("&*:-?[]{},|>'\"#%@!=~é\\"),
    st.sampled_from(
        ["&a", "*a", "<<", ".inf", "0b_", "0x", "1:2:3", "1_000", "1e400", "null", "yes"]
    ),
    st.sampled_from(["2020-13-45", "2020-01-01", "2020-01-01T25:00:00Z", "!!python/none", "!x"]),
    st.sampled_from(
        ["int", "float", "bool", "null", "str", "binary", "timestamp", "set", "omap"]
    ).map("!!{}".format),
)


@st.composite
def reworded(draw, text):
    """YAML ``text`` in which one or two values, or whole lines, are words of YAML's own."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        words = draw(st.sampled_from(["", " "])).join(draw(st.lists(WORDS, max_size=5)))
        key, colon, value = lines[at].partition(": ")
        match draw(st.integers(0, 2)):
            case 0:
                lines[at] = f"{key}{colon or ': '}{words}"
            case 1:
                lines[at] = f"{key}{colon}{words} {value}"
            case 2:
                lines.insert(at, words)
    return "\n".join(lines) + "\n"


@RELAXED
@given(data=st.sampled_from(sorted(TASKS)).flatmap(lambda name: reworded(TEXTS[name])))
def test_reworded_task(tmp_path, data):
    path = tmp_path / "task.yaml"
    path.write_text(data, encoding="utf-8")
    assert str(path) in outcome(load_task, path, str(path))


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


@RELAXED
@given(data=st.data())
def test_reworded_manifest(damaged, data):
    folder = restore(damaged)
    text = data.draw(reworded((folder / "bundle.yaml").read_text(encoding="utf-8")))
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


def seal(folder, name, contents):
    """Replace a file of a bundle and make its digest fit."""
    before = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest = (folder / "bundle.yaml").read_text(encoding="utf-8")
    sealed = manifest.replace(before, hashlib.sha256(contents).hexdigest())
    (folder / name).write_bytes(contents)
    (folder / "bundle.yaml").write_text(sealed, encoding="utf-8")
    return folder


@FEWER
@given(name=st.sampled_from(FILES), data=st.data())
def test_torn_file_whose_digest_was_made_to_fit(damaged, name, data):
    folder = restore(damaged)
    assert str(folder) in load(seal(folder, name, data.draw(torn(damaged[1][name]))))


ZIP_FIELDS = {b"PK\x03\x04": range(4, 30), b"PK\x01\x02": range(4, 46), b"PK\x05\x06": range(4, 22)}
EXTREME = st.sampled_from([0, 1, 6, 8, 9, 14, 0x20, 0x7F, 0x80, 0xFF])


@st.composite
def rearchived(draw, data):
    """An archive of arrays with other contents, other headers of arrays, or other headers of its own."""
    arrays = dict(np.load(io.BytesIO(data)))
    buffer = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
    chosen = draw(st.sampled_from(sorted(arrays)))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, array in arrays.items():
            written = io.BytesIO()
            if name == chosen and draw(st.booleans()):
                dtype = draw(st.sampled_from(["U4", "S4", "M8[s]", "f8", "c8", "i4", "V4", "?"]))
                array = array.view(np.uint32).astype(dtype)
            np.save(written, array)
            content = written.getvalue()
            if name == chosen and draw(st.booleans()):
                words = ["(", ")", "9" * 9, "'", "{", "exec", "|O", "L", "\x00", ": ", ","]
                begin = draw(st.integers(6, 70))
                wild = "".join(draw(st.lists(st.sampled_from(words), max_size=30))).encode()
                content = content[:begin] + wild + content[begin + len(wild) :]
            archive.writestr(f"{name}.npy", content)
    changed = bytearray(buffer.getvalue())
    for _ in range(draw(st.integers(0, 2))):
        signature = draw(st.sampled_from(sorted(ZIP_FIELDS)))
        places = [match.start() for match in re.finditer(re.escape(signature), changed)]
        at = draw(st.sampled_from(places)) + draw(st.sampled_from(ZIP_FIELDS[signature]))
        changed[at] = draw(EXTREME)
    return bytes(changed)


@FEWER
@given(data=st.data())
def test_golden_archive_with_other_headers(damaged, data):
    folder = restore(damaged)
    contents = data.draw(rearchived(damaged[1]["golden.npz"]))
    assert str(folder) in load(seal(folder, "golden.npz", contents))


NUMBERS = st.sampled_from([-(2**63), -1, 0, 1, 2, 7, 2**20, 2**31, 2**62])


@st.composite
def regraphed(draw, data):
    """A graph with other operators, attributes, constants, shapes or names."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    for _ in range(draw(st.integers(1, 3))):
        node = draw(st.sampled_from(list(graph.node)))
        tensor = draw(st.sampled_from(list(graph.initializer)))
        match draw(st.integers(0, 8)):
            case 0:
                operators = ["Loop", "If", "ConstantOfShape", "Expand", "Tile", "Split", "Slice"]
                node.op_type = draw(st.sampled_from([*operators, *{n.op_type for n in graph.node}]))
            case 1:
                node.input.append(draw(st.sampled_from([tensor.name, "", node.output[0]])))
            case 2:
                del node.input[:1], node.output[1:]
            case 3:
                names = ["axis", "num_outputs", "to", "keepdims", "perm", "body"]
                attribute = node.attribute.add(name=draw(st.sampled_from(names)))
                attribute.type = draw(st.sampled_from([0, 1, 2, 5, 7]))
                attribute.i = draw(NUMBERS)
            case 4:
                tensor.dims[:] = draw(st.lists(NUMBERS, max_size=3))
            case 5:
                tensor.data_type = draw(st.integers(0, 23))
            case 6:
                tensor.raw_data = struct.pack("<q", draw(NUMBERS)) * draw(st.integers(0, 3))
            case 7:
                size = graph.input[0].type.tensor_type.shape.dim[1]
                size.dim_value = draw(NUMBERS)
            case 8:
                del graph.node[draw(st.integers(0, len(graph.node) - 1))]
    return model.SerializeToString()


@FEWER
@given(name=st.sampled_from(FILES[1:]), data=st.data())
def test_graph_with_other_parts(damaged, name, data):
    folder = restore(damaged)
    contents = data.draw(regraphed(damaged[1][name]))
    assert str(folder) in load(seal(folder, name, contents))


@RELAXED
@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_recording(tmp_path, data):
    path = tmp_path / "r.mcap"
    path.write_bytes(data)
    with pytest.raises(MaacError, match=r"r\.mcap"):
        list(read_recording(path))
