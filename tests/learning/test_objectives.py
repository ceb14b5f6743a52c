"""The MAAC objective against results worked out by hand."""

import pytest
import torch

from maac_learning.dynamics import Prediction
from maac_learning.objectives import expanded_return, expanded_returns, steve_target, unroll


def play(
    gain: torch.Tensor,
    horizon: int,
    start: torch.Tensor,
    terminate_after: int = 100,
    differentiable: int | None = None,
):
    """Scalar linear world s' = 0.9 s + a, r = -s^2 - a^2, with a linear policy a = gain s."""

    def act(s, t):
        return gain * s, torch.full((len(s),), 0.5, dtype=s.dtype)

    def step(s, a, t):
        reward = -(s**2 + a**2).squeeze(-1)
        ended = torch.full((len(s),), float(t + 1 >= terminate_after), dtype=s.dtype)
        return Prediction(0.9 * s + a, reward, ended)

    return unroll(start, horizon, act, step, differentiable=differentiable)


def test_terminal_steps_own_reward_counts_and_nothing_after_it():
    gain = torch.tensor(0.1, dtype=torch.float64)
    start = torch.tensor([[1.0]], dtype=torch.float64)
    rollout = play(gain, 4, start, terminate_after=2)
    assert rollout.alive.squeeze(-1).tolist() == [1, 1, 0, 0, 0]
    value = torch.tensor([1e6], dtype=torch.float64)
    got = expanded_return(rollout, value, 0.9, torch.tensor(0.0), first_entropy=True)
    expected = rollout.reward[0] + 0.9 * rollout.reward[1]
    torch.testing.assert_close(got, expected)


def test_entropy_counts_at_every_step_and_not_at_the_first_of_a_target():
    gain = torch.tensor(0.0, dtype=torch.float64)
    rollout = play(gain, 2, torch.zeros(1, 1, dtype=torch.float64))
    value, temperature = torch.zeros(1, dtype=torch.float64), torch.tensor(2.0)
    actor = expanded_return(rollout, value, 0.5, temperature, first_entropy=True)
    target = expanded_return(rollout, value, 0.5, temperature, first_entropy=False)
    assert actor.item() == pytest.approx(-2.0 * 0.5 * (1 + 0.5 + 0.25))
    assert target.item() == pytest.approx(-2.0 * 0.5 * (0.5 + 0.25))


def test_horizon_zero_is_the_model_free_objective():
    gain = torch.tensor(0.3, dtype=torch.float64)
    rollout = play(gain, 0, torch.ones(3, 1, dtype=torch.float64))
    value = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    got = expanded_return(rollout, value, 0.9, torch.tensor(0.0), first_entropy=True)
    torch.testing.assert_close(got, value)


@pytest.mark.parametrize("horizon", [0, 2, 4])
def test_first_steps_have_the_same_gradient_where_later_ones_have_none(horizon):
    start = torch.randn(6, 1, generator=torch.Generator().manual_seed(1)).double()
    gradients = []
    for differentiable in (None, horizon):
        gain = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
        rollout = play(gain, 4, start, 3, differentiable).first(horizon)
        value = -((rollout.observation[-1] + rollout.action[-1]).squeeze(-1) ** 2)
        objective = expanded_return(rollout, value, 0.9, torch.tensor(0.3), first_entropy=True)
        gradients.append(torch.autograd.grad(objective.sum(), gain)[0])
    assert gradients[0] != 0
    assert torch.equal(*gradients)


def test_returns_of_all_horizons_agree_with_each_alone():
    gain = torch.tensor(-0.2, dtype=torch.float64)
    rollout = play(
        gain, 3, torch.randn(4, 1, generator=torch.Generator().manual_seed(0)).double(), 2
    )
    values = torch.randn(4, 2, 4, dtype=torch.float64)
    together = expanded_returns(rollout, values, 0.9, torch.tensor(0.3))
    for horizon in range(4):
        alone = expanded_return(
            rollout.first(horizon), values[horizon], 0.9, torch.tensor(0.3), first_entropy=True
        )
        torch.testing.assert_close(together[horizon], alone)


def test_steve_trusts_the_horizon_on_which_models_and_critics_agree():
    agreed = torch.tensor([[[10.0], [10.0]]])  # one model, two critics, one row
    torn = torch.tensor([[[0.0], [2.0]], [[40.0], [50.0]]])  # two models, two critics
    assert steve_target([agreed, torn]).item() == pytest.approx(10.0, abs=0.1)
    # Alike in spread, they count alike; each estimate is the mean over models of the smaller critic.
    left, right = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[5.0], [7.0]]])
    assert steve_target([left, right]).item() == pytest.approx(3.0)


def test_steve_counts_the_disagreement_of_critics_before_any_model_step():
    """With one model and no disagreement among critics the shortest target would win every time."""
    critics_differ = torch.tensor([[[0.0], [20.0]]])
    model_agrees = torch.tensor([[[4.0], [6.0]], [[4.0], [6.0]]])
    assert steve_target([critics_differ, model_agrees]).item() == pytest.approx(4.0, abs=0.1)
