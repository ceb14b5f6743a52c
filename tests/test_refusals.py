"""Whatever a name leads to, loading it ends at once, in an error that names it."""

import hashlib
import io
import os
import shutil

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper, numpy_helper

from maac_learning.config import load_train_config, read_overrides
from maac_ros.binding import load_robot
from maac_ros.bundle import load_bundle
from maac_ros.errors import BundleError, ConfigError, MaacError
from maac_ros.resources import bundle_folder, world_file
from maac_ros.task import load_task

pytestmark = pytest.mark.timeout(20)

BOMB = "x0: &x0 [l, l]\n" + "".join(f"x{i}: &x{i} [*x{i - 1}, *x{i - 1}]\n" for i in range(1, 45))


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(bundle_folder("inverted_pendulum"), tmp_path / "bundle")


def replace(folder, name, content):
    """Swap a file of a bundle and make its checksum right."""
    (folder / name).write_bytes(content)
    manifest = yaml.safe_load((folder / "bundle.yaml").read_text(encoding="utf-8"))
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "bundle.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    ["~nosuchuser/x", "~no\0user/x", "x" * 5000, "x" * 300 + "/x", "a\0b", "a\0b/c.yaml", "\ud800"],
)
@pytest.mark.parametrize(
    "load",
    [
        load_bundle,
        load_task,
        load_robot,
        world_file,
        lambda name: load_train_config("hopper", name),
    ],
    ids=["bundle", "task", "robot", "world", "preset"],
)
def test_names_that_nothing_can_have(load, name):
    with pytest.raises(BundleError if load is load_bundle else ConfigError) as caught:
        load(name)
    assert f"'{name[:200]}'" in str(caught.value)


FILES = ["bundle.yaml", "golden.npz", "model.onnx", "policy.onnx", "step.onnx", "value.onnx"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a FIFO"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.mkdir(), "a folder"),
    ],
    ids=["fifo", "device", "folder"],
)
def test_a_bundle_of_anything_but_files(folder, name, make, kind):
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(BundleError, match=f"{name}: cannot be read: it is {kind}; expected a reg"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "load",
    [
        load_task,
        load_robot,
        lambda path: load_train_config("hopper", str(path)),
        read_overrides,
    ],
    ids=["task", "robot", "preset", "overrides"],
)
@pytest.mark.parametrize("text", [BOMB, "x: 2020-13-45", "x: " + "[" * 5000, "x: " + "9" * 5000])
def test_a_description_that_is_more_than_plain_yaml(tmp_path, load, text):
    path = tmp_path / "d.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MaacError, match=rf"{path}: not valid YAML: "):
        load(path)


def test_a_manifest_that_stands_for_billions_of_values(folder):
    with (folder / "bundle.yaml").open("a", encoding="utf-8") as file:
        file.write(BOMB)
    with pytest.raises(BundleError, match=r"bundle\.yaml: not valid YAML: more than"):
        load_bundle(folder)


def test_a_golden_archive_that_is_larger_than_its_vectors_can_be(folder):
    buffer = io.BytesIO()
    with np.load(folder / "golden.npz") as archive:
        np.savez_compressed(buffer, **archive, unused=np.zeros(1 << 26, np.uint8))
    replace(folder, "golden.npz", buffer.getvalue())
    with pytest.raises(BundleError, match=r"golden\.npz: \d+ bytes; expected at most"):
        load_bundle(folder)


def test_golden_vectors_of_another_type(folder):
    buffer = io.BytesIO()
    with np.load(folder / "golden.npz") as archive:
        arrays = dict(archive)
    np.savez(buffer, **{**arrays, "policy.action": arrays["policy.action"].astype("U8")})
    replace(folder, "golden.npz", buffer.getvalue())
    with pytest.raises(BundleError, match=r"golden\.npz: policy\.action: .* expected a float32"):
        load_bundle(folder)


def with_last(folder, made, constants):
    """The policy's graph with its action going through the node ``made``, from ``action`` to ``out``."""
    model = onnx.load(folder / "policy.onnx")
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["before" if name == "action" else name for name in node.output]
        node.input[:] = ["before" if name == "action" else name for name in node.input]
    graph.node.append(made)
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    replace(folder, "policy.onnx", model.SerializeToString())


def test_a_graph_that_goes_on_as_before(folder):
    with_last(folder, helper.make_node("Identity", ["before"], ["action"]), {})
    load_bundle(folder)


def test_a_graph_whose_loop_does_not_end(folder):
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["more_next"]),
            helper.make_node("Identity", ["v"], ["v_next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("more", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("more_next", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_next", onnx.TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["count", "", "before"], ["action"], name="l", body=body)
    with_last(folder, loop, {"count": np.array(2**60)})
    with pytest.raises(BundleError, match=r"policy\.onnx: node 'l': operator 'Loop': expected one"):
        load_bundle(folder)


def test_a_graph_that_needs_all_of_the_memory(folder):
    expand = helper.make_node("Expand", ["before", "size"], ["action"], name="e")
    with_last(folder, expand, {"size": np.array([300_000_000, 1, 1])})
    with pytest.raises(BundleError, match=r"policy\.onnx: node 'e': operator 'Expand': .* at most"):
        load_bundle(folder)
