"""Bundles: exported graphs equal PyTorch; damaged, foreign or dangerous ones are refused by name."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from maac_learning.agent import Agent
from maac_learning.config import AgentConfig, ModelConfig, PlanningConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.export import export_bundle
from maac_learning.graphs import graph_modules
from maac_ros.bundle import MANIFEST, Calibration, Observed, load_bundle, require_same_task
from maac_ros.errors import BundleError
from maac_ros.inference import OnnxFunction, bundle_signatures
from maac_ros.task import load_task

CALIBRATION = Calibration(
    rows=10, quantile=0.95, disagreement=0.5, residual=2.0, change_std=tuple(range(11))
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A bundle with non-trivial normalisers and scales, and the PyTorch modules it was made from."""
    torch.manual_seed(3)
    task = load_task("hopper")
    agent = Agent(11, 3, AgentConfig(hidden=(64, 64), critics=3), torch.device("cpu"))
    model = DynamicsEnsemble(task, 11, 3, ModelConfig(members=4, hidden=(64, 64)))
    data = 3.0 * torch.randn(200, 11) + 1.0
    agent.normalize(data)
    agent.critics.center.fill_(40.0)
    agent.critics.scale.fill_(60.0)
    torch.nn.init.uniform_(agent.critics._mlp.weights[-1], -0.1, 0.1)
    model.input.fit(torch.cat((data, torch.rand(200, 3)), dim=-1))
    model.target.fit(0.1 * torch.randn(200, 12))
    path = tmp_path_factory.mktemp("bundles") / "hopper"
    bundle = export_bundle(
        path,
        task,
        agent,
        model,
        data,
        calibration=CALIBRATION,
        observed=Observed(
            low=tuple(data.amin(dim=0).tolist()), high=tuple(data.amax(dim=0).tolist())
        ),
        seed=3,
        env_steps=200,
        evaluation_return=12.5,
        training_seconds=1.0,
        planning=PlanningConfig(hidden=(8, 8), steps=10),
    )
    return bundle, graph_modules(agent, model, task)


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported[0].path, tmp_path / "bundle"))


@pytest.mark.parametrize("batch", [1, 7, 512])
@pytest.mark.parametrize("name", ["policy", "model", "step", "value"])
def test_graph_equals_pytorch(exported, name, batch):
    bundle, modules = exported
    function: OnnxFunction = getattr(bundle, name)
    generator = torch.Generator().manual_seed(batch)
    inputs = {"observation": 2.0 * torch.randn(batch, 11, generator=generator) + 1.0}
    if "action" in function.signature.inputs:
        inputs["action"] = 2.0 * torch.rand(batch, 3, generator=generator) - 1.0
    if name == "step":  # each member has rows of its own
        inputs = {key: torch.stack([x * 0.9**e for e in range(4)]) for key, x in inputs.items()}
    with torch.no_grad():
        expected = modules[name](*inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    outputs = function(**{key: value.numpy() for key, value in inputs.items()})
    for got, wanted, key in zip(outputs, expected, function.signature.outputs, strict=True):
        # Relative for values beyond 1: float32 itself resolves no more. A return is a sum of numbers as large as
        # the critics' scale, 60 here.
        atol = 1e-6 * 60 if key == "value" else 1e-5
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-5, atol=atol, err_msg=key)


def test_a_step_is_what_each_member_of_the_model_says(exported):
    bundle, _ = exported
    random = np.random.default_rng(0)
    observation = random.standard_normal((4, 9, 11), dtype=np.float32)
    action = random.uniform(-1, 1, (4, 9, 3)).astype(np.float32)
    following, reward, alive = bundle.step(observation=observation, action=action)
    for member in range(4):
        means, _, rewards, terminations = bundle.model(
            observation=observation[member], action=action[member]
        )
        np.testing.assert_allclose(following[member], means[member], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(reward[member], rewards[member], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(alive[member], 1.0 - terminations[member])


def test_a_bound_call_reads_and_writes_the_memory_it_was_given(exported):
    bundle, _ = exported
    observation = np.zeros((5, 11), np.float32)
    action = np.full((5, 3), np.nan, np.float32)
    call = bundle.policy.bind({"observation": observation}, {"action": action})
    for seed in (0, 1):
        observation[...] = np.random.default_rng(seed).standard_normal((5, 11))
        call()
        np.testing.assert_array_equal(action, bundle.policy(observation=observation)[0])
    with pytest.raises(ValueError, match="C-contiguous float32"):
        bundle.policy.bind({"observation": observation[:, ::2]}, {"action": action})


def test_actions_are_in_command_units_and_within_limits(untrained_bundle):
    bundle = untrained_bundle("inverted_pendulum")
    huge = 1e3 * np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    action, std = bundle.policy(observation=huge)
    assert np.abs(action).max() <= 3.0
    assert (std >= 0).all()


def test_graphs_tell_nothing_of_the_machine_they_were_made_on(exported):
    graphs = list(exported[0].path.glob("*.onnx"))
    assert len(graphs) == len(bundle_signatures(1, 1, 1, 1, True, True))
    assert not [path.name for path in graphs if b".py" in path.read_bytes()]


def test_manifest_describes_every_entry_and_its_origin(exported):
    manifest = exported[0].manifest
    assert [o.name for o in manifest.observation][:2] == ["rootz/position", "rooty/position"]
    assert manifest.observation[5].clip == (-10.0, 10.0)
    assert manifest.action[0].unit == "200 N·m"
    assert (manifest.members, manifest.critics) == (4, 3)
    assert manifest.provenance.env_steps == 200
    assert manifest.provenance.evaluation_return == 12.5


def test_missing_bundle_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"bundle '.*nowhere' is not a folder"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"bundle\.yaml: cannot be read"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "name",
    [*(f"{name}.onnx" for name in bundle_signatures(1, 1, 1, 1, True, True)), "golden.npz"],
)
def test_damage_to_any_file_is_found(copy, name):
    original = (copy / name).read_bytes()
    flipped = bytearray(original)
    flipped[len(flipped) // 2] ^= 1
    (copy / name).write_bytes(bytes(flipped))
    with pytest.raises(BundleError, match=rf"{name}: sha256: got"):
        load_bundle(copy)
    (copy / name).write_bytes(original[:100])
    with pytest.raises(BundleError, match=rf"{name}: sha256: got"):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: cannot be read"):
        load_bundle(copy)


def _edit(copy: Path, change) -> None:
    document = yaml.safe_load((copy / MANIFEST).read_text())
    change(document)
    (copy / MANIFEST).write_text(yaml.safe_dump(document))


def _replace(copy: Path, name: str, content: bytes) -> None:
    """Swap a file and make its checksum right, as an honest but wrong export would."""
    (copy / name).write_bytes(content)
    _edit(copy, lambda d: d["sha256"].update({name: hashlib.sha256(content).hexdigest()}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version=7), "schema_version: got 7; expected 2"),
        (lambda d: d.update(extra=1), "extra: unknown key"),
        (lambda d: d.pop("discount"), "discount: missing key"),
        (lambda d: d["observation"].pop(), r"observation: \(10\).* disagrees with the task"),
        (lambda d: d["action"][0].update(high=9.0), "action: .* disagrees with the task"),
        (lambda d: d["calibration"].update(change_std=[1.0]), "change_std: got 1 numbers; .* 11"),
        (lambda d: d["observed"]["high"].pop(), r"observed\.high: got 10 numbers; expected one"),
        (lambda d: d["observed"]["low"].append(float("inf")), r"observed\.low.*finite"),
        (lambda d: d["sha256"].pop("model.onnx"), "sha256: got"),
        (lambda d: d.update(state_value=None), "sha256: got"),
        (lambda d: d.update(distilled=None), "sha256: got"),
        (lambda d: d["distilled"].update(rows=0), r"distilled\.rows: got 0"),
        (lambda d: d["state_value"].update(unexplained=-1), r"state_value\.unexplained: got -1"),
        (lambda d: d.update(members=5), r"next_observation_mean': got shape \[4,"),
    ],
)
def test_wrong_manifest_is_refused_by_field(copy, change, message):
    _edit(copy, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(copy)


def test_graph_with_other_inputs_is_refused(copy, exported):
    _replace(copy, "policy.onnx", (copy / "value.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"policy\.onnx: inputs: got \['action', 'observation'\]"):
        load_bundle(copy)


def test_file_that_is_not_a_graph_is_refused(copy):
    _replace(copy, "model.onnx", b"not a graph")
    with pytest.raises(BundleError, match=r"model\.onnx: not an ONNX model"):
        load_bundle(copy)


def test_golden_vectors_reveal_a_changed_network(copy, tmp_path):
    with np.load(copy / "golden.npz") as archive:
        arrays = {key: archive[key].copy() for key in archive.files}
    arrays["policy.action"] += 0.01
    np.savez(tmp_path / "golden.npz", **arrays)
    _replace(copy, "golden.npz", (tmp_path / "golden.npz").read_bytes())
    with pytest.raises(
        BundleError, match=r"policy\.onnx: output 'action' is off its golden vector"
    ):
        load_bundle(copy)


def test_golden_archive_with_pickle_is_refused(copy, tmp_path):
    with np.load(copy / "golden.npz") as archive:
        arrays = {**archive, "policy.observation": np.array([{}], dtype=object)}
    np.savez(tmp_path / "golden.npz", **arrays)
    _replace(copy, "golden.npz", (tmp_path / "golden.npz").read_bytes())
    with pytest.raises(BundleError, match=r"golden\.npz: policy\.observation: got .*'\|O'"):
        load_bundle(copy)


def test_nan_weights_are_found_by_the_golden_vectors(copy):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(copy / "policy.onnx")
    largest = max(graph.graph.initializer, key=lambda t: numpy_helper.to_array(t).size)
    poisoned = np.full_like(numpy_helper.to_array(largest), np.nan)
    largest.CopyFrom(numpy_helper.from_array(poisoned, largest.name))
    _replace(copy, "policy.onnx", graph.SerializeToString())
    with pytest.raises(BundleError, match="output 'action' is not finite"):
        load_bundle(copy)


def test_bundle_of_another_task_is_refused(exported):
    require_same_task(exported[0], load_task("hopper"))
    with pytest.raises(BundleError, match="does not fit task 'walker2d': task name"):
        require_same_task(exported[0], load_task("walker2d"))


def test_bundle_whose_joints_come_in_another_order_is_refused(exported):
    """The terms are the same, and so are the networks: but a safe command would go by another joint's reading."""
    task = load_task("hopper")
    turned = dict(reversed(task.robot.joints.items()))
    other = task.model_copy(update={"robot": task.robot.model_copy(update={"joints": turned})})
    with pytest.raises(BundleError, match=r"robot\.joints: the bundle has \(6\) \[rootx, rootz, "):
        require_same_task(exported[0], other)


def test_graph_of_types_that_do_not_go_together_is_refused(copy):
    import onnx

    graph = onnx.load(copy / "policy.onnx")
    next(node for node in graph.graph.node if node.op_type == "Tanh").op_type = "Not"
    _replace(copy, "policy.onnx", graph.SerializeToString())
    with pytest.raises(BundleError, match=r"policy\.onnx: not a graph ONNX Runtime can load"):
        load_bundle(copy)
