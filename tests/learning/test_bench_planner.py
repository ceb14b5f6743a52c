"""The planner's benchmark: what it compares computes the same, and what it counts is what is computed."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from maac_learning import evidence
from maac_learning.agent import Agent
from maac_learning.benchmarks.bundle_networks import horizon_graph, in_torch
from maac_learning.benchmarks.flops import FlopCount
from maac_learning.benchmarks.planner import plan_flops
from maac_learning.cli import main
from maac_learning.config import AgentConfig, ModelConfig, PlanningConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.export import export_bundle
from maac_ros.errors import BenchmarkError
from maac_ros.inference import OnnxFunction
from maac_ros.planner import CemPlanner
from maac_ros.task import PlannerSettings, load_task

SETTINGS = PlannerSettings(candidates=12, horizon=3, iterations=2)


@pytest.fixture(scope="module")
def bundle(untrained_bundle):
    return untrained_bundle("hopper")


@pytest.fixture(scope="module")
def soft(tmp_path_factory):
    """Networks normalised softly after their activation, and small ones for planning."""
    task = load_task("hopper")
    torch.manual_seed(0)
    agent = AgentConfig(hidden=(16, 16), policy_norm="none", critic_norm="after")
    model = ModelConfig(
        members=3, hidden=(16, 16, 16), norm="after", norm_epsilon=1.0, noise="trained"
    )
    return export_bundle(
        tmp_path_factory.mktemp("bundle") / "soft",
        task,
        Agent(11, 3, agent, torch.device("cpu")),
        DynamicsEnsemble(task, 11, 3, model),
        torch.randn(64, 11),
        planning=PlanningConfig(hidden=(8, 8), steps=3),
    )


@pytest.mark.parametrize(
    ("networks", "model"), [("bundle", "ensemble"), ("soft", "ensemble"), ("soft", "distilled")]
)
def test_plans_in_pytorch_are_the_same(request, networks, model):
    made = request.getfixturevalue(networks)
    settings = SETTINGS.model_copy(update={"model": model})
    observation = np.full(11, 0.1, np.float32)
    ours, theirs = (CemPlanner(b, settings).plan(observation) for b in (made, in_torch(made)))
    np.testing.assert_allclose(ours.actions, theirs.actions, atol=1e-5)
    assert ours.value == pytest.approx(theirs.value, abs=1e-5)


@pytest.mark.parametrize("heading", [True, False])
def test_step_in_pytorch_has_the_reward_and_the_frame_of_the_graph(tmp_path, heading):
    """Rewards that are known, and a model that sees what the robot does in the frame of its heading."""
    torch.manual_seed(0)
    task = load_task("ant")
    agent = Agent(27, 8, AgentConfig(hidden=(8,), critics=2), torch.device("cpu"))
    config = ModelConfig(members=2, hidden=(8, 8), reward="analytic", heading=heading)
    model = DynamicsEnsemble(task, 27, 8, config)
    made = export_bundle(
        tmp_path / "ant",
        task,
        agent,
        model,
        torch.randn(64, 27),
        planning=PlanningConfig(hidden=(4, 4), steps=3),
    )
    observation, action = np.random.default_rng(0).normal(size=(2, 2, 6, 27)).astype(np.float32)
    action = np.tanh(action[..., :8])
    theirs = in_torch(made)
    for name in ("step", "distilled_step"):
        seen, again = getattr(made, name), getattr(theirs, name)
        ours = seen(observation=observation, action=action)
        others = again(torch.from_numpy(observation), torch.from_numpy(action))
        for mine, other in zip(ours, others, strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-5)


def test_a_graph_that_no_network_of_this_project_computes_is_refused(bundle, tmp_path):
    import dataclasses
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    golden = dict(np.load(copy / "golden.npz"))
    golden["policy.action"] += 0.1
    np.savez(copy / "golden.npz", **golden)
    with pytest.raises(BenchmarkError, match=r"policy\.onnx: none of this project's networks"):
        in_torch(dataclasses.replace(bundle, path=copy))


def test_one_graph_for_the_horizon_chains_the_steps(bundle):
    random = np.random.default_rng(0)
    start = random.standard_normal((3, 4, 11), dtype=np.float32)
    start[..., 0] = 1.2  # high enough not to have fallen
    actions = random.uniform(-1, 1, (5, 3, 4, 3)).astype(np.float32)
    session = ort.InferenceSession(horizon_graph(bundle), providers=["CPUExecutionProvider"])
    total, following = session.run(None, {"start": start, "actions": actions})
    states, alive, expected = start, np.ones((3, 4)), np.zeros((3, 4))
    assert isinstance(bundle.step, OnnxFunction)
    for step, action in enumerate(actions):
        states, reward, still = bundle.step(observation=states, action=action)
        expected += 0.995**step * alive * reward
        alive = alive * still
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(following, states, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["distilled", "ensemble"])
@pytest.mark.parametrize("terminal_value", ["state_value", "mean"])
def test_operations_are_those_that_pytorch_dispatches(soft, terminal_value, model):
    settings = SETTINGS.model_copy(update={"terminal_value": terminal_value, "model": model})
    # Dispatch is not seen in inference mode.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "inference_mode", torch.no_grad)
        planner = CemPlanner(in_torch(soft), settings)
        with FlopCount() as count:
            planner.plan(np.zeros(11, np.float32))
    assert plan_flops(soft, settings) == count.total


def test_command_prints_a_table_and_writes_evidence(soft, tmp_path, capsys):
    result = tmp_path / "planner.json"
    options = ["--bundle", str(soft.path), "--candidates", "9", "12", "--horizons", "2"]
    options += ["--iterations", "2", "--plans", "5", "--peer-plans", "2", "--threads", "1"]
    assert main(["bench", "planner", *options, "--json", str(result)]) == 0
    assert "p99.9" in capsys.readouterr().out
    found = evidence.read(result)
    assert [(row["model"], row["candidates"]) for row in found.rows] == [
        (model, count) for model in ("distilled", "ensemble") for count in (9, 12)
    ]
    for row in found.rows:
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"] <= row["max_ms"]
        assert row["one_graph_p50_ms"] > 0
        assert row["torch_p50_ms"] > 0
        assert row["peer_p50_ms"] is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--plans", "0"), "--plans: got 0; expected at least 1"),
        (("--candidates", "2"), "grid: candidates: "),
        (("--models", "distilled"), "has no small networks, only its ensemble"),
    ],
)
def test_options_out_of_range_are_refused(bundle, capsys, option, message):
    assert main(["bench", "planner", "--bundle", str(bundle.path), *option]) != 0
    assert message in capsys.readouterr().err
