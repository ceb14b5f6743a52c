"""The model ensemble: sampling, termination and the fit."""

import numpy as np
import pytest
import torch

from maac_learning.config import ModelConfig
from maac_learning.dynamics import DynamicsEnsemble, RewardRule, Shuffle, TerminationRule
from maac_learning.fitting import _picks, _row_weights, _split, fit
from maac_learning.graphs import ActionScaling, ModelGraph, StepGraph
from maac_ros.simulation import TaskEnv
from maac_ros.task import load_task

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    members=3,
    hidden=(32, 32),
    batch_size=128,
    validate_every=25,
    learning_rate=2e-3,
    weight_decay=0.0,
)


def ensemble(config=CONFIG, task="inverted_pendulum", observations=4, actions=1):
    torch.manual_seed(0)
    return DynamicsEnsemble(load_task(task), observations, actions, config)


def test_each_row_of_a_step_follows_the_member_it_was_dealt_to():
    model = ensemble()
    observation, action = torch.randn(6, 4), torch.randn(6, 1)
    order = torch.tensor([4, 1, 0, 5, 2, 3])  # members get rows (4, 1), (0, 5), (2, 3)
    mean, std, reward, _ = model.moments(observation, action)
    noise = torch.randn(6, 4)
    shuffle = Shuffle(order, torch.argsort(order))
    outcome = model.step(observation, action, shuffle, noise[order])
    for row, member in ((4, 0), (1, 0), (0, 1), (5, 1), (2, 2), (3, 2)):
        expected = mean[member, row] + std[member, row] * noise[row]
        torch.testing.assert_close(outcome.observation[row], expected)
        torch.testing.assert_close(outcome.reward[row], reward[member, row])


def test_termination_follows_the_tasks_bounds():
    model = ensemble()
    observation = torch.zeros(3, 4)
    observation[1, 1], observation[2, 1] = 0.21, -0.21
    assert model.termination(observation).tolist() == [0.0, 1.0, 1.0]
    assert ensemble(task="half_cheetah", observations=17, actions=6).termination(
        torch.full((2, 17), 1e6)
    ).tolist() == [0.0, 0.0]


def test_gradient_of_terminations_is_that_of_their_expectation():
    """Rows around a bound: the density there is known."""
    rule = TerminationRule(load_task("inverted_pendulum"))  # |hinge position| <= 0.2
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, generator=random, dtype=torch.float64)
    for mean, std in ((0.15, 0.05), (-0.25, 0.1), (0.0, 0.1)):
        shift = torch.tensor(mean, dtype=torch.float64, requires_grad=True)
        observation = torch.zeros(len(noise), 4, dtype=torch.float64)
        observation[:, 1] = std * noise
        observation = observation + shift * torch.eye(4, dtype=torch.float64)[1]
        ended = rule.differentiable(observation, None, torch.full((4,), 0.01, dtype=torch.float64))
        assert torch.equal(ended, rule(observation))
        (slope,) = torch.autograd.grad(ended.mean(), shift)
        ends = torch.distributions.Normal(mean, std)
        density = [ends.log_prob(torch.tensor(bound)).exp() for bound in (-0.2, 0.2)]
        assert slope.item() == pytest.approx(float(density[1] - density[0]), rel=0.05, abs=0.05)


def test_without_bounds_nothing_terminates_and_no_gradient_flows():
    observation = torch.randn(5, 17, requires_grad=True)
    rule = TerminationRule(load_task("half_cheetah"))
    assert torch.equal(
        rule.differentiable(observation, torch.ones(17), torch.ones(17)), torch.zeros(5)
    )


def test_step_lets_the_gradient_see_terminations_only_where_that_is_asked_for():
    model = ensemble()
    observation = torch.zeros(300, 4)
    observation[:, 1] = torch.linspace(-0.3, 0.3, 300)
    observation.requires_grad_()
    arguments = observation, torch.zeros(300, 1), None, torch.zeros(300, 4)
    hard, seen = model.step(*arguments), model.step(*arguments, termination_width=0.1)
    assert torch.equal(hard.terminated, seen.terminated.detach())
    assert not hard.terminated.requires_grad
    (slope,) = torch.autograd.grad(seen.terminated.sum(), observation)
    assert (slope[:, 1][observation[:, 1] > 0.1] > 0).all()
    assert (slope[:, 1][observation[:, 1] < -0.1] < 0).all()
    with torch.no_grad():
        assert torch.equal(
            model.step(*arguments, termination_width=0.1).terminated, hard.terminated
        )


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_imagined_episodes_end_by_a_margin_within_the_bounds_where_that_is_asked_for(width):
    """The pendulum's are 0.2 rad to either side."""
    task = load_task("inverted_pendulum")
    settings = ModelConfig(members=3, hidden=(16,), noise="residual", termination_margin=0.5)
    model = DynamicsEnsemble(task, 4, 1, settings)
    model.input.std[1] = 0.1
    observation = torch.zeros(300, 4)
    observation[:, 1] = torch.linspace(-0.3, 0.3, 300)
    ended = model.step(observation, torch.zeros(300, 1), None, torch.zeros(300, 4), width)
    angle = ended.observation[:, 1]
    assert torch.equal(ended.terminated, (angle.abs() > 0.15).float())
    assert 0 < ended.terminated.sum() < 300
    # Plans go by it too; what is foreseen of the robot is its own end.
    scaling = ActionScaling(task)
    following, _, alive = StepGraph(model, scaling)(observation, torch.zeros(300, 1))
    assert torch.equal(alive, (following[..., 1].abs() <= 0.15).float())
    following, _, _, foreseen = ModelGraph(model, scaling)(observation, torch.zeros(300, 1))
    assert torch.equal(foreseen, (following[..., 1].abs() > 0.2).float())


def linear_data(rows: int, noise: float, generator: torch.Generator):
    inputs = torch.randn(rows, 5, generator=generator)
    weights = torch.randn(5, 5, generator=generator)
    targets = inputs @ weights + noise * torch.randn(rows, 5, generator=generator)
    return inputs, targets


def test_fit_learns_the_mean():
    generator = torch.Generator().manual_seed(1)
    inputs, targets = linear_data(2000, 0.3, generator)
    model = ensemble()
    report = fit(model, inputs, targets, CONFIG, 1500, generator)
    variance = (0.3 / model.target.std) ** 2
    assert report.validation_mse == pytest.approx(variance.mean().item(), rel=0.25)


def test_fit_stops_early_and_never_ends_worse_than_its_best():
    generator = torch.Generator().manual_seed(2)
    inputs, targets = linear_data(60, 1.0, generator)  # few rows, much noise: it must overfit
    patient = CONFIG.model_copy(update={"patience": 3})
    model = ensemble(patient)
    report = fit(model, inputs, targets, patient, 5000, generator)
    assert report.steps < 5000
    longer = ensemble(patient)
    generator = torch.Generator().manual_seed(2)
    linear_data(60, 1.0, generator)
    stubborn = patient.model_copy(update={"patience": 40})
    worst = fit(longer, inputs, targets, stubborn, 1000, generator)
    assert worst.validation_mse <= report.validation_mse * 1.01


def disagreement(bootstrap):
    """Of the members of a model of few and noisy rows, among the data and far from them."""
    generator = torch.Generator().manual_seed(3)
    inputs, targets = linear_data(200, 0.5, generator)
    settings = CONFIG.model_copy(update={"bootstrap": bootstrap})
    torch.manual_seed(0)
    model = ensemble(settings)
    fit(model, inputs, targets, settings, 300, generator)
    far = 5.0 * torch.randn(50, 5, generator=generator)
    return [
        model.moments(x[:, :4], x[:, 4:])[0].std(dim=0).mean().item() for x in (inputs[:50], far)
    ]


@pytest.mark.parametrize("bootstrap", ["none", "resampled", "weighted"])
def test_members_disagree_most_where_there_are_no_data(bootstrap):
    among, far = disagreement(bootstrap)
    assert far > among > 0


def test_members_that_see_different_data_disagree_more_among_them():
    alike = disagreement("none")[0]
    assert disagreement("resampled")[0] > 1.2 * alike
    assert disagreement("weighted")[0] > 1.2 * alike


def test_rows_keep_their_weights_when_others_come():
    weighted = CONFIG.model_copy(update={"bootstrap": "weighted"})
    few, many = (_row_weights(rows, weighted, CPU) for rows in (100, 250))
    assert torch.equal(few, many[:100])
    assert many.mean().item() == pytest.approx(1.0, rel=0.1)
    assert _row_weights(100, CONFIG, CPU) is None


def test_rows_are_held_out_for_good():
    train, validate = (_split(1000, CONFIG, torch.Generator(), CPU)[i].tolist() for i in (0, 1))
    more, validate_more = (_split(1700, CONFIG, torch.Generator(), CPU)[i].tolist() for i in (0, 1))
    assert sorted(train + validate) == list(range(1000))
    assert len(validate) == 100
    assert set(train) <= set(more)
    assert set(validate) <= set(validate_more)


def test_as_much_of_every_batch_is_of_the_newest_as_is_asked_for():
    config = CONFIG.model_copy(update={"recent_fraction": 0.25, "recent_steps": 100})
    picks = _picks(10_000, 12_500, (50, 3, 128), config, torch.Generator().manual_seed(0))
    newest = (picks >= 10_000 - 80).float()  # a fifth of the newest is held out
    assert float(newest.mean()) == pytest.approx(0.25 + 0.75 * 80 / 10_000, abs=0.005)
    # Both halves of a batch, of which one may be mirrored, have their share.
    assert float(newest[..., :64].mean()) == pytest.approx(float(newest[..., 64:].mean()), abs=0.02)
    assert picks.min() < 100
    few = _picks(10, 12, (50, 3, 128), config, torch.Generator().manual_seed(0))
    assert (few.min(), few.max()) == (0, 9)


def test_what_is_new_is_learned_where_it_counts_for_more():
    """A region of the old data behaves otherwise of late, and is all but forgotten among them."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(6000, 5, generator=generator) * 2 - 1
    targets = torch.cat((inputs[:, :4] * 0.5, inputs[:, :1]), dim=1)
    targets[5800:] *= -1.0
    later = inputs[5800:], targets[5800:]

    def error(fraction):
        model = ensemble()
        config = CONFIG.model_copy(update={"recent_fraction": fraction, "recent_steps": 200})
        fit(model, inputs, targets, config, 200, torch.Generator().manual_seed(1))
        with torch.no_grad():
            mean, _ = model.normalized(later[0].expand(3, -1, -1))
            return float(((mean - model.target.normalize(later[1])) ** 2).mean())

    assert error(0.5) < 0.5 * error(0.0)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_fit_repeats_exactly_with_its_seed(dropout):
    config = CONFIG.model_copy(update={"dropout": dropout})
    results = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(4)
        model = ensemble(config)
        # Whatever else draws from PyTorch's own stream: it is neither read nor moved.
        torch.randn(len(results) + 1)
        before = torch.get_rng_state()
        fit(model, *linear_data(300, 0.1, generator), config, 100, generator)
        assert torch.equal(torch.get_rng_state(), before)
        assert not model.training
        results.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*results)


def test_dropout_is_for_fits_alone():
    weights = []
    for dropout in (0.0, 0.3):
        config = CONFIG.model_copy(update={"dropout": dropout})
        generator = torch.Generator().manual_seed(4)
        model = ensemble(config)
        fit(model, *linear_data(300, 0.1, generator), config, 50, generator)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
        x = torch.randn(6, 4), torch.randn(6, 1)
        assert torch.equal(model.moments(*x)[0], model.moments(*x)[0])
    assert not torch.allclose(*weights)


@pytest.mark.parametrize(
    ("noise", "power"),
    [("residual", 0.0), ("trained", 0.0), ("state_dependent", 0.0), ("state_dependent", 0.5)],
)
def test_every_noise_learns_the_spread_of_the_data(noise, power):
    generator = torch.Generator().manual_seed(6)
    inputs, targets = linear_data(2000, 0.3, generator)
    rates = {"learning_rate": 4e-3, "last_rate": 1.0}
    config = CONFIG.model_copy(update={"noise": noise, "variance_power": power, **rates})
    model = ensemble(config)
    fit(model, inputs, targets, config, 1200, generator)
    _, std, _, reward_std = model.moments(inputs[:, :4], inputs[:, 4:])
    assert std.shape == (3, 2000, 4)
    assert std.mean().item() == pytest.approx(0.3, rel=0.25)
    assert reward_std.mean().item() == pytest.approx(0.3, rel=0.25)


def test_weighing_by_the_variance_keeps_learning_what_is_noisy():
    """A mean that is hard to predict, here by noise in most of the states, is learned better with the weight."""
    errors = []
    for power in (0.0, 0.5):
        generator = torch.Generator().manual_seed(7)
        inputs = torch.randn(2000, 5, generator=generator)
        mean = inputs @ torch.randn(5, 5, generator=generator)
        loud = (inputs[:, :1] > 0).float()
        noise = (0.01 + 2.0 * loud) * torch.randn(2000, 5, generator=generator)
        config = CONFIG.model_copy(update={"noise": "state_dependent", "variance_power": power})
        model = ensemble(config)
        fit(model, inputs, mean + noise, config, 600, generator)
        following, _, reward, _ = model.moments(inputs[:, :4], inputs[:, 4:])
        got = torch.cat((following - inputs[:, :4], reward[..., None]), dim=-1)
        errors.append((((got - mean) ** 2) * loud).mean().item())
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("inverted_pendulum", 0.0), ("half_cheetah", 0.5), ("hopper", 0.1), ("walker2d", 0.3)],
)
def test_analytic_rewards_follow_the_simulators(name, tolerance):
    """Exact where the observation determines the reward; a velocity is averaged over the control step only."""
    task = load_task(name)
    env = TaskEnv(task)
    rule = RewardRule(task)
    scaling = ActionScaling(task)
    observation, _ = env.reset(seed=0)
    got, expected = [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        action = 2 * torch.rand(1, env.action_space.shape[0], generator=generator) - 1
        state = torch.as_tensor(observation, dtype=torch.float32)
        command = scaling.to_command(action, state[None])[0].numpy().astype(float)
        following, reward, terminated, truncated, _ = env.step(command)
        after = torch.as_tensor(following, dtype=torch.float32)
        got.append(rule(state, action[0], after, torch.tensor(float(terminated))).item())
        expected.append(reward)
        observation = env.reset()[0] if terminated or truncated else following
    error = np.abs(np.array(got) - np.array(expected))
    assert np.median(error) <= tolerance
    if tolerance:
        assert np.corrcoef(got, expected)[0, 1] > 0.9


def test_analytic_reward_replaces_the_learned_one_in_rollouts_and_export():
    model = ensemble(CONFIG.model_copy(update={"reward": "analytic"}))
    observation, action = torch.zeros(6, 4), torch.zeros(6, 1)
    observation[3:, 1] = 100.0  # fallen: no reward for staying up
    outcome = model.step(observation, action, None, torch.zeros(6, 4))
    assert torch.equal(outcome.reward, 1.0 - outcome.terminated)
    following, _, reward, reward_std = model.moments(observation, action)
    assert torch.equal(reward, 1.0 - model.termination(following))
    assert not reward[:, 3:].any()
    assert not reward_std.any()
