"""One update of the learner."""

import pytest
import torch

from maac_learning.agent import Agent
from maac_learning.config import AgentConfig, ModelConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.replay import Replay, StateBuffer
from maac_ros.task import load_task

CPU = torch.device("cpu")


@pytest.fixture
def parts():
    torch.manual_seed(0)
    agent = Agent(4, 1, AgentConfig(hidden=(32, 32), horizon=3), CPU)
    model = DynamicsEnsemble(
        load_task("inverted_pendulum"), 4, 1, ModelConfig(members=3, hidden=(32, 32))
    )
    return agent, model, 0.05 * torch.randn(30, 4)


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_update_moves_actor_critics_targets_and_temperature_but_not_the_model(parts):
    agent, model, start = parts
    before = {name: weights(getattr(agent, name)) for name in ("policy", "critics", "targets")} | {
        "model": weights(model),
        "temperature": agent.log_temperature.detach().clone(),
    }
    report = agent.update(model, start, torch.Generator().manual_seed(1))
    assert all(torch.isfinite(x) for x in report)
    for name in ("policy", "critics", "targets"):
        assert not torch.equal(before[name], weights(getattr(agent, name))), name
    assert not torch.equal(before["temperature"], agent.log_temperature.detach())
    assert torch.equal(before["model"], weights(model))
    assert all(p.requires_grad for p in [*model.parameters(), *agent.critics.parameters()])
    assert all(p.grad is None for p in model.parameters())


def test_critic_warm_up_leaves_the_actor_alone(parts):
    agent, model, start = parts
    before = weights(agent.policy)
    agent.update(model, start, torch.Generator().manual_seed(1), train_actor=False)
    assert torch.equal(before, weights(agent.policy))


def test_update_repeats_exactly_with_its_seed(parts):
    agent, model, start = parts
    state = {k: v.clone() for k, v in agent.state().items()}
    results = []
    for _ in range(2):
        agent.load(state)
        agent._make_optimizers()
        agent.update(model, start, torch.Generator().manual_seed(2))
        results.append(torch.cat([v.flatten() for v in agent.state().values()]))
    assert torch.equal(*results)


def test_targets_stay_within_the_bounds_of_the_reward(parts):
    """However wild the critics, what they learn towards is bounded by the range of rewards."""
    agent, model, start = parts
    for _ in range(3):
        agent.update(model, start, torch.Generator().manual_seed(3))
    with torch.no_grad():
        for bias in (agent.critics._mlp.biases[-1], agent.targets._mlp.biases[-1]):
            bias.fill_(1e6)
    generator = torch.Generator().manual_seed(4)
    for _ in range(50):
        report = agent.update(model, start, generator)
    assert torch.isfinite(report.critic_loss)
    predicted = agent.critics.scaled(start, torch.zeros(30, 1))
    assert predicted.abs().max() < 1e6


def test_imagined_states_end_at_termination(parts):
    agent, model, start = parts
    fallen = start.clone()
    fallen[:15, 1] = 10.0  # far outside: the model's next states terminate at once
    states = agent.imagine(model, fallen, 4, torch.Generator().manual_seed(5))
    started_upright = 15 * 5
    assert 30 <= len(states) <= started_upright + 15


def test_replay_distinguishes_termination_from_time_out_and_gives_model_targets():
    replay = Replay(3, 2, 1, CPU)
    one, two = torch.ones(2), 2 * torch.ones(2)
    replay.add(one, torch.zeros(1), 0.5, two, terminated=True)
    replay.add(two, torch.ones(1), 1.5, two, terminated=False)
    inputs, targets = replay.model_data()
    assert inputs.tolist() == [[1, 1, 0], [2, 2, 1]]
    assert targets.tolist() == [[1, 1, 0.5], [0, 0, 1.5]]
    assert replay.terminated[:2].tolist() == [1, 0]
    other = Replay(3, 2, 1, CPU)
    other.load(replay.state())
    assert other.size == 2
    assert torch.equal(other.model_data()[0], inputs)


def test_state_buffer_overwrites_the_oldest_and_draws_the_same_after_loading():
    buffer = StateBuffer(4, 1, CPU)
    buffer.add(torch.arange(3.0)[:, None])
    buffer.add(torch.arange(3.0, 6.0)[:, None])
    assert sorted(buffer._rows.flatten().tolist()) == [2, 3, 4, 5]
    other = StateBuffer(4, 1, CPU)
    other.load(buffer.state())
    for each in (buffer, other):
        each.add(torch.tensor([[9.0]]))
    drawn = [each.sample(50, torch.Generator().manual_seed(6)) for each in (buffer, other)]
    assert torch.equal(*drawn)
