"""V(s) of a bundle: what it learns, and that a bundle can be given one."""

import numpy as np
import pytest
import torch

from maac_learning import renewal
from maac_learning.agent import Agent
from maac_learning.cli import main
from maac_learning.config import AgentConfig, ModelConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.export import graph_modules
from maac_learning.state_value import learn_state_value
from maac_ros.bundle import load_bundle
from maac_ros.planner import CemPlanner
from maac_ros.task import load_task


@pytest.fixture(scope="module")
def graphs():
    """Of a hopper: random networks, with critics that tell states apart."""
    torch.manual_seed(0)
    task = load_task("hopper")
    agent = Agent(11, 3, AgentConfig(hidden=(24, 24), critics=3), torch.device("cpu"))
    torch.nn.init.uniform_(agent.critics._mlp.weights[-1], -1.0, 1.0)
    agent.critics.center.fill_(100.0)
    agent.critics.scale.fill_(40.0)
    model = DynamicsEnsemble(task, 11, 3, ModelConfig(members=3, hidden=(24, 24)))
    observations = torch.randn(900, 11)
    agent.normalize(observations)
    return task, graph_modules(agent, model, task), observations


def learn(graphs, steps, seed=0):
    task, modules, observations = graphs
    return learn_state_value(modules, task, 3, observations, (48, 48), steps, seed)


def test_it_says_what_the_critics_say_on_average_of_the_policys_action(graphs):
    network, error = learn(graphs, 1500)
    _, modules, observations = graphs
    with torch.no_grad():
        action, _ = modules["policy"](observations)
        wanted = modules["value"](observations, action).mean(dim=0)
        got = network(observations)
    # The observations are where rollouts start, and no part of what it learned from.
    share = float((got - wanted).square().mean() / wanted.var())
    assert share < 0.1, share
    assert error.unexplained < 0.1
    assert error.unexplained_among_candidates < 0.3
    _, early = learn(graphs, 20)
    assert early.unexplained_among_candidates > error.unexplained_among_candidates


def test_it_is_the_same_again_and_touches_no_other_random_numbers(graphs):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    networks = [learn(graphs, 10, seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    first, again, other = (network.scaled(graphs[2]) for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_bundle_is_given_one(untrained_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(renewal, "_STEPS_PLAYED", 150)
    monkeypatch.setattr(renewal, "_STEPS", 30)
    old = untrained_bundle("inverted_pendulum")
    assert main(["export", str(old.path), "--output", str(tmp_path / "new")]) == 0
    assert "of the critics' variance explained" in capsys.readouterr().out
    new = load_bundle(tmp_path / "new")
    assert new.state_value is not None
    assert old.manifest.state_value is None
    assert new.manifest.provenance == old.manifest.provenance
    assert new.task.planner.terminal_value == "state_value"
    for name in ("policy", "model", "step", "value"):
        assert new.manifest.sha256[f"{name}.onnx"] == old.manifest.sha256[f"{name}.onnx"]
    # And once more, from one that has it.
    again = renewal.export_renewed(new, tmp_path / "again")
    assert again.manifest.sha256 == new.manifest.sha256
    observation = np.array([0.0, 0.1, 0.0, 0.0], np.float32)
    plans = [CemPlanner(b, b.task.planner).plan(observation) for b in (new, again)]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)
