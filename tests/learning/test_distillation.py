"""Small networks for planning: what they learn, and that a bundle can be given them."""

import numpy as np
import pytest
import torch

from maac_learning import renewal
from maac_learning.agent import Agent
from maac_learning.candidates import acting_values, draw_candidates
from maac_learning.cli import main
from maac_learning.config import AgentConfig, ModelConfig, PlanningConfig
from maac_learning.distillation import learn_planning_networks
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.export import export_bundle
from maac_learning.graphs import graph_modules
from maac_learning.state_value import learn_state_value
from maac_ros.bundle import load_bundle
from maac_ros.planner import CemPlanner
from maac_ros.task import PlannerSettings, load_task


def made(task, members=3, hidden=(48, 48)):
    """Random networks, with critics that tell states apart and members that differ."""
    torch.manual_seed(0)
    observations, actions = len(task.observation_entries()), len(task.action_entries())
    config = AgentConfig(hidden=hidden, critics=3)
    agent = Agent(observations, actions, config, torch.device("cpu"))
    torch.nn.init.uniform_(agent.critics._mlp.weights[-1], -1.0, 1.0)
    agent.critics.center.fill_(100.0)
    agent.critics.scale.fill_(40.0)
    settings = ModelConfig(members=members, hidden=hidden)
    model = DynamicsEnsemble(task, observations, actions, settings)
    data = torch.randn(900, observations)
    agent.normalize(data)
    return agent, model, data


@pytest.fixture(scope="module")
def hopper():
    task = load_task("hopper")
    agent, model, observations = made(task)
    return task, graph_modules(agent, model, task), observations


def learn(hopper, steps, seed=0, hidden=(30, 30)):
    task, modules, observations = hopper
    config = PlanningConfig(hidden=hidden, steps=steps, value_steps=2)
    return learn_planning_networks(modules, task, observations, 0.99, config, seed)


@pytest.fixture(scope="module")
def learned(hopper):
    return learn(hopper, 2500)


def unexplained(got, wanted):
    return float((got - wanted).square().mean() / wanted.var())


def test_state_value_says_what_the_critics_say_on_average_of_the_policys_action():
    task = load_task("hopper")
    agent, model, observations = made(task, hidden=(24, 24))
    own = graph_modules(agent, model, task)
    torch.manual_seed(0)
    known, unknown = draw_candidates(own, task, 3, observations, 1500, 0.99, value_steps=0)
    network, error = learn_state_value(known, unknown, (48, 48), 1500)
    with torch.no_grad():
        action, _ = own["policy"](observations)
        wanted = own["value"](observations, action).mean(dim=0)
        got = network(observations)
    # The observations are where rollouts start, and no part of what it learned from.
    assert unexplained(got, wanted) < 0.1
    assert error.unexplained < 0.1
    assert error.unexplained_among_candidates < 0.3
    _, early = learn_state_value(known, unknown, (48, 48), 20)
    assert early.unexplained_among_candidates > error.unexplained_among_candidates


def test_values_are_those_of_the_policy_without_noise_through_one_member():
    task = load_task("hopper")
    agent, model, observations = made(task, hidden=(24, 24))
    own = graph_modules(agent, model, task)
    states = observations[:14].view(7, 2, -1)
    got = acting_values(own, states, 3, 0.9, value_steps=4)
    with torch.no_grad():
        for group in range(7):
            state = states[group].expand(3, -1, -1)
            total, weight = torch.zeros(2), torch.ones(2)
            for _ in range(4):
                action = own["policy"](state[0])[0]
                following, reward, alive = own["step"](state, action.expand(3, -1, -1))
                # Groups are dealt to the members in turn.
                total += weight * reward[group % 3]
                weight *= 0.9 * alive[group % 3]
                state = following[group % 3].expand(3, -1, -1)
            closing = own["value"](state[0], own["policy"](state[0])[0]).mean(dim=0)
            np.testing.assert_allclose(got[group], total + weight * closing, rtol=1e-4)


def test_values_count_nothing_after_the_end():
    task = load_task("hopper")
    agent, model, observations = made(task, hidden=(24, 24))
    own = graph_modules(agent, model, task)
    fallen = observations[:6].view(3, 2, -1).clone()
    fallen[..., [entry.name for entry in task.observation_entries()].index("rootz/position")] = -9.0
    values = [acting_values(own, fallen, 3, 0.99, steps) for steps in (0, 1, 9)]
    assert not torch.allclose(values[0], values[1])
    assert torch.equal(values[1], values[2])


def test_each_small_member_does_what_its_own_does_and_the_small_policy_too(hopper, learned):
    modules, told = learned
    _, own, observations = hopper
    states = observations.expand(3, -1, -1)
    with torch.no_grad():
        actions, stds = own["policy"](observations)
        actions = actions.expand(3, -1, -1)
        following, reward, _ = own["step"](states, actions)
        small_following, small_reward, alive = modules["distilled_step"](states, actions)
        small_actions, small_stds = modules["distilled_policy"](observations)
    change = following - states
    for member in range(3):
        by_member = [unexplained(small_following[member] - states[0], each) for each in change]
        assert by_member[member] < 0.1
        assert np.argmin(by_member) == member
    assert unexplained(small_reward, reward) < 0.1
    assert alive.shape == reward.shape
    assert unexplained(small_actions, actions[0]) < 0.2
    assert float((small_stds - stds).abs().mean() / stds.mean()) < 0.3
    assert 0 < told["distilled"].step < 0.1
    assert 0 < told["distilled"].policy < 0.2
    early = learn(hopper, 20)[1]["distilled"]
    assert early.step > told["distilled"].step
    assert early.policy > told["distilled"].policy


def test_networks_that_are_small_already_have_no_smaller_ones(hopper):
    modules, told = learn(hopper, 5, hidden=(48, 40))
    assert [*modules] == ["state_value"]
    assert [*told] == ["state_value"]


def test_what_is_recalled_follows_exactly(tmp_path):
    """The last command is no matter of learning."""
    task = load_task("late_pendulum")
    agent, model, observations = made(task)
    config = PlanningConfig(hidden=(8,), steps=3)
    modules, told = learn_planning_networks(
        graph_modules(agent, model, task), task, observations, 0.99, config, 0
    )
    assert np.isfinite(told["distilled"].step)
    states = observations[:6].expand(3, -1, -1)
    actions = torch.rand(3, 6, 1) * 2 - 1
    ours, theirs = (
        step(states, actions)[0]
        for step in (modules["distilled_step"], graph_modules(agent, model, task)["step"])
    )
    recalled = model.not_learned
    assert bool(recalled.any())
    assert torch.equal(ours[..., recalled], theirs[..., recalled])
    assert not torch.equal(ours[..., ~recalled], theirs[..., ~recalled])


def test_they_are_the_same_again_and_touch_no_other_random_numbers(hopper):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    made_of = [learn(hopper, 10, seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    _, _, observations = hopper
    for name in ("state_value", "distilled_policy"):
        first, again, other = (modules[name](observations) for modules in made_of)
        first, again, other = (x[0] if isinstance(x, tuple) else x for x in (first, again, other))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_a_bundle_is_given_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(renewal, "_STEPS_PLAYED", 150)
    task = load_task("inverted_pendulum")
    agent, model, observations = made(task)
    old = export_bundle(
        tmp_path / "old",
        task.model_copy(update={"planner": PlannerSettings(terminal_value="state_value")}),
        agent,
        model,
        observations,
        seed=7,
    )
    assert old.state_value is None
    assert old.distilled_step is None
    config = PlanningConfig(hidden=(16, 16), steps=30)
    new = renewal.export_renewed(old, tmp_path / "new", config=config)
    assert new.state_value is not None
    assert new.distilled_step is not None
    assert new.distilled_policy is not None
    assert new.manifest.provenance == old.manifest.provenance
    assert new.task == old.task
    for name in ("policy", "model", "step", "value"):
        assert new.manifest.sha256[f"{name}.onnx"] == old.manifest.sha256[f"{name}.onnx"]
    assert new.manifest.state_value.model_steps == config.value_steps
    # And once more, from one that has them.
    again = renewal.export_renewed(new, tmp_path / "again", config=config)
    assert again.manifest.sha256 == new.manifest.sha256
    observation = np.array([0.0, 0.1, 0.0, 0.0], np.float32)
    plans = [CemPlanner(b, b.task.planner).plan(observation) for b in (new, again)]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)
    # With sizes at which smaller ones are not worth it, it has none any more; and settings come from a file.
    monkeypatch.setattr(renewal, "PlanningConfig", lambda: PlanningConfig(hidden=(48, 48), steps=2))
    file = tmp_path / "planner.yaml"
    file.write_text("{candidates: 24, model: distilled}")
    options = ["--output", str(tmp_path / "plain"), "--planner", str(file)]
    assert main(["export", str(new.path), *options, "--value-steps", "3"]) == 0
    assert "of the variance over states explained" in capsys.readouterr().out
    plain = load_bundle(tmp_path / "plain")
    assert plain.manifest.state_value.model_steps == 3
    assert plain.distilled_step is None
    assert plain.task.planner == new.task.planner.model_copy(
        update={"candidates": 24, "model": "distilled"}
    )
    assert main(["export", str(new.path), *options, "--value-steps", "-1"]) == 2
    assert "--value-steps: got -1; expected 0 or more" in capsys.readouterr().err
    assert main(["export", str(new.path), "--leapp", "out", "--value-steps", "3"]) == 2
    assert "--value-steps: got '3'; expected it only with --output" in capsys.readouterr().err
    file.write_text("{candidates: 2}")
    assert main(["export", str(new.path), *options]) == 2
    assert "candidates: got 2" in capsys.readouterr().err
