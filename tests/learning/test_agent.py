"""One update of the learner."""

import copy

import pytest
import torch

from maac_learning.agent import Agent
from maac_learning.capture import updater
from maac_learning.config import AgentConfig, ModelConfig
from maac_learning.draws import Draws, ReplayedDraws
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.replay import TransitionBuffer, Transitions
from maac_ros.task import load_task

CPU = torch.device("cpu")


@pytest.fixture
def parts():
    torch.manual_seed(0)
    agent = Agent(4, 1, AgentConfig(hidden=(32, 32), horizon=3), CPU)
    model = DynamicsEnsemble(
        load_task("inverted_pendulum"), 4, 1, ModelConfig(members=3, hidden=(32, 32))
    )
    start = 0.05 * torch.randn(30, 4)
    batch = Transitions(
        start, 2 * torch.rand(30, 1) - 1, torch.rand(30), start + 0.01, torch.zeros(30)
    )
    return agent, model, batch


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_update_moves_actor_critics_targets_and_temperature_but_not_the_model(parts):
    agent, model, batch = parts
    before = {name: weights(getattr(agent, name)) for name in ("policy", "critics", "targets")} | {
        "model": weights(model),
        "temperature": agent.log_temperature.detach().clone(),
    }
    report = agent.update(model, batch, torch.Generator().manual_seed(1))
    assert all(torch.isfinite(x) for x in report)
    for name in ("policy", "critics", "targets"):
        assert not torch.equal(before[name], weights(getattr(agent, name))), name
    assert not torch.equal(before["temperature"], agent.log_temperature.detach())
    assert torch.equal(before["model"], weights(model))
    assert all(p.requires_grad for p in [*model.parameters(), *agent.critics.parameters()])
    assert all(p.grad is None for p in model.parameters())


def test_averaged_policy_follows_the_policy_at_its_rate(parts):
    agent, model, batch = parts
    before = weights(agent.averaged_policy)
    agent.update(model, batch, torch.Generator().manual_seed(1))
    after, leader = weights(agent.averaged_policy), weights(agent.policy)
    assert not torch.equal(before, leader)
    rate = agent.config.policy_average_rate
    torch.testing.assert_close(after, before + rate * (leader - before))


def test_critic_warm_up_leaves_the_actor_alone(parts):
    agent, model, batch = parts
    before = weights(agent.policy)
    agent.update(model, batch, torch.Generator().manual_seed(1), train_actor=False)
    assert torch.equal(before, weights(agent.policy))


def test_update_repeats_exactly_with_its_seed(parts):
    agent, model, batch = parts
    before = agent.snapshot()
    results = []
    for _ in range(2):
        agent.restore(before)
        for _ in range(2):
            agent.update(model, batch, torch.Generator().manual_seed(2))
        results.append(torch.cat([v.flatten() for v in agent.snapshot().values()]))
    assert torch.equal(*results)


def test_replayed_draws_repeat_their_requests_with_new_numbers_in_the_same_memory(parts):
    agent, model, batch = parts
    replayed = ReplayedDraws(torch.Generator().manual_seed(1), CPU)
    before = agent.snapshot()
    agent.learn(model, batch, replayed, train_actor=True)  # what a capture records
    agent.restore(before)
    replayed.refill(torch.Generator().manual_seed(2))
    replayed.rewind()
    agent.learn(model, batch, replayed, train_actor=True)
    got = agent.snapshot()
    agent.restore(before)
    agent.update(model, batch, torch.Generator().manual_seed(2))
    for name, expected in agent.snapshot().items():
        assert torch.equal(got[name], expected), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_captured_updates_equal_eager_ones_on_the_cpu(parts):
    agent, model, batch = parts
    device = torch.device("cuda")
    twin = Agent(4, 1, agent.config, device)
    twin.load({k: v.to(device) for k, v in agent.state().items()})
    captured = updater(twin, copy.deepcopy(model).to(device))
    there = Transitions(*(column.to(device) for column in batch))
    for seed, train_actor in enumerate([False, True, True, False, True]):
        expected = agent.update(model, batch, torch.Generator().manual_seed(seed), train_actor)
        got = captured(there, torch.Generator().manual_seed(seed), train_actor)
        for mine, theirs in zip(got, expected, strict=True):
            assert mine.item() == pytest.approx(theirs.item(), rel=1e-3, abs=1e-5)


def test_targets_stay_within_the_bounds_of_the_reward(parts):
    """However wild the critics, what they learn towards is bounded by the range of rewards."""
    agent, model, batch = parts
    for _ in range(3):
        agent.update(model, batch, torch.Generator().manual_seed(3))
    with torch.no_grad():
        for bias in (agent.critics._mlp.biases[-1], agent.targets._mlp.biases[-1]):
            bias.fill_(1e3)  # a float of 1e6 is too coarse for the optimiser's steps
    generator = torch.Generator().manual_seed(4)
    for _ in range(50):
        report = agent.update(model, batch, generator)
    assert torch.isfinite(report.critic_loss)
    closing = agent._target_values(batch.observation, batch.action, Draws(generator, CPU))
    assert (closing - agent.critics.center).abs().max() <= agent.critics.scale * 1.00001
    predicted = agent.critics.scaled(batch.observation, torch.zeros(30, 1))
    assert predicted.abs().max() < 1e3


def test_the_bounds_of_values_include_what_follows_a_fall(parts):
    """With a reward of 1 in every step, values reach from 0, just before a termination, to 1 / (1 - gamma)."""
    agent, _, _ = parts
    agent._follow_reward(torch.ones(100))
    low, high = (
        agent.critics.center - agent.critics.scale,
        agent.critics.center + agent.critics.scale,
    )
    assert low.item() == pytest.approx(0.0, abs=1e-3)
    assert high.item() == pytest.approx(1.0 / (1.0 - agent.config.discount), rel=1e-4)


def test_imagined_rollouts_end_at_termination(parts):
    agent, model, batch = parts
    fallen = batch.observation.clone()
    fallen[:15, 1] = 10.0  # far outside: the model's next states terminate at once
    imagined = agent.imagine(model, fallen, 4, torch.Generator().manual_seed(5))
    started_upright = 15 * 4
    assert 30 <= len(imagined.reward) <= started_upright + 15
    fell = imagined.observation[:, 1] > 5
    assert fell.sum() == 15
    assert imagined.terminated[fell].all()
    torch.testing.assert_close(imagined.terminated, model.termination(imagined.next_observation))


def numbered(*numbers: float) -> Transitions:
    x = torch.tensor(numbers)
    return Transitions(
        x[:, None].repeat(1, 2), -x[:, None], x + 0.5, x[:, None].repeat(1, 2) + 1, x
    )


def test_model_data_are_changes_and_rewards():
    inputs, targets = numbered(1.0, 2.0).model_data()
    assert inputs.tolist() == [[1, 1, -1], [2, 2, -2]]
    assert targets.tolist() == [[1, 1, 1.5], [1, 1, 2.5]]


def test_buffer_keeps_columns_overwrites_the_oldest_and_survives_saving():
    buffer = TransitionBuffer(4, 2, 1, CPU)
    first = numbered(0.0, 1.0, 2.0)
    buffer.add(first)
    for stored, given in zip(buffer.all(), first, strict=True):
        assert torch.equal(stored, given)
    buffer.add(numbered(3.0, 4.0, 5.0))
    assert sorted(buffer.all().terminated.tolist()) == [2, 3, 4, 5]
    drawn = buffer.sample(50, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.reward, drawn.terminated + 0.5)
    other = TransitionBuffer(4, 2, 1, CPU)
    other.load(buffer.state())
    for ring in (buffer, other):
        ring.add(numbered(9.0))
        assert sorted(ring.all().terminated.tolist()) == [3, 4, 5, 9]
    draws = [
        ring.sample(20, torch.Generator().manual_seed(1)).reward.tolist()
        for ring in (buffer, other)
    ]
    assert draws[0] == draws[1]


@pytest.mark.parametrize("added", [3, 7, 12])
def test_buffer_gives_of_the_newest_where_it_is_asked_to(added):
    buffer = TransitionBuffer(10, 1, 1, torch.device("cpu"))
    for number in range(added):
        value = torch.tensor([float(number)])
        buffer.add(Transitions(value[:, None], value[:, None], value, value[:, None], value))
    drawn = buffer.sample(500, torch.Generator().manual_seed(0), newest=4).reward.unique().tolist()
    assert drawn == [float(n) for n in range(max(0, added - 4), added)]
    assert buffer.sample(7, torch.Generator(), newest=1).reward.tolist() == [added - 1.0] * 7


def test_forgotten_momentum_makes_the_next_update_a_first_one(parts):
    agent, model, batch = parts
    begun = agent.state()
    begun = {name: tensor.clone() for name, tensor in begun.items()}
    for seed in range(3):
        agent.update(model, batch, torch.Generator().manual_seed(seed))
    agent.load(begun)
    agent.forget_momentum()
    fresh = Agent(4, 1, agent.config, CPU)
    fresh.load(begun)
    for each in (agent, fresh):
        each.update(model, batch, torch.Generator().manual_seed(9))
    expected = fresh.snapshot()
    for name, tensor in agent.snapshot().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)
