"""Networks and the policy's density."""

import math

import numpy as np
import pytest
import torch

from maac_learning.networks import Critics, EnsembleMLP, Normalizer, Policy


def test_members_of_an_ensemble_are_independent_networks():
    torch.manual_seed(0)
    network = EnsembleMLP(3, (4, 8, 2), "silu", norm="before")
    x = torch.randn(3, 5, 4)
    together = network(x)
    for member in range(3):
        hidden = x[member] @ network.weights[0][member] + network.biases[0][member]
        hidden = torch.nn.functional.silu(torch.nn.functional.layer_norm(hidden, (8,)))
        alone = hidden @ network.weights[1][member] + network.biases[1][member]
        torch.testing.assert_close(together[member], alone)


def test_normalizer_inverts_and_keeps_constant_columns():
    normalizer = Normalizer(3)
    data = torch.randn(100, 3) * torch.tensor([2.0, 0.0, 5.0]) + 7.0
    normalizer.fit(data)
    torch.testing.assert_close(normalizer.denormalize(normalizer.normalize(data)), data)
    assert normalizer.std[1] == 1.0


def test_log_density_is_that_of_a_squashed_gaussian():
    """Compared with a numerical derivative of the distribution function of tanh(N(mean, std))."""
    torch.manual_seed(1)
    policy = Policy(2, 1, (8,), "tanh", norm="none").double()
    observation = torch.randn(1, 2, dtype=torch.float64)
    mean, log_std = policy.distribution(observation)
    normal = torch.distributions.Normal(mean, log_std.exp())
    for noise in (-1.5, 0.0, 0.7):
        action, density = policy.sample(observation, torch.full((1, 1), noise, dtype=torch.float64))
        step = 1e-6
        mass = normal.cdf(torch.atanh(action + step)) - normal.cdf(torch.atanh(action - step))
        assert density.item() == pytest.approx(math.log(mass.item() / (2 * step)), abs=1e-4)


def test_extreme_actions_keep_a_finite_density_and_gradient():
    policy = Policy(2, 1, (8,), "silu", norm="before")
    action, density = policy.sample(torch.zeros(1, 2), torch.full((1, 1), 50.0))
    density.sum().backward()
    assert torch.isfinite(density).all()
    assert action.abs().max() <= 1.0
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


def test_critics_start_at_the_centre_of_their_range():
    critics = Critics(2, 3, 1, (16,), "silu", norm="before")
    critics.center.fill_(5.0)
    critics.scale.fill_(10.0)
    values = critics(torch.randn(4, 3), torch.randn(4, 1))
    np.testing.assert_array_equal(values.detach().numpy(), np.full((2, 4), 5.0))


@pytest.mark.parametrize("norm", ["none", "before", "after"])
def test_hidden_layers_are_normalised_on_the_side_that_is_asked_for(norm):
    torch.manual_seed(0)
    network = EnsembleMLP(1, (4, 8, 8, 2), "silu", norm=norm)
    x = torch.randn(1, 5, 4)
    hidden = x[0]
    for layer in range(2):
        hidden = hidden @ network.weights[layer][0] + network.biases[layer][0]
        if norm == "before":
            hidden = torch.nn.functional.layer_norm(hidden, (8,))
        hidden = torch.nn.functional.silu(hidden)
        if norm == "after":
            hidden = torch.nn.functional.layer_norm(hidden, (8,))
    expected = hidden @ network.weights[2][0] + network.biases[2][0]
    torch.testing.assert_close(network(x)[0], expected)


def test_what_normalisation_adds_to_the_variance_falls_by_ten_from_layer_to_layer():
    torch.manual_seed(0)
    network = EnsembleMLP(1, (4, 8, 8, 8, 2), "silu", norm="after", norm_epsilon=1e-3)
    x = torch.randn(1, 5, 4)
    hidden = x[0]
    for layer, epsilon in enumerate((1e-3, 1e-4, 1e-5)):
        hidden = hidden @ network.weights[layer][0] + network.biases[layer][0]
        hidden = torch.nn.functional.layer_norm(torch.nn.functional.silu(hidden), (8,), eps=epsilon)
    expected = hidden @ network.weights[3][0] + network.biases[3][0]
    torch.testing.assert_close(network(x)[0], expected)


def test_dropout_leaves_out_less_in_each_layer_and_only_while_training():
    torch.manual_seed(0)
    width = 1024  # a power of two: sums of its inverse are exact in whatever order they are taken
    network = EnsembleMLP(1, (1, width, width, 1), "relu", norm="none", dropout=0.4)
    for layer, value in enumerate((0.0, 1.0 / width)):
        network.weights[layer].data.fill_(value)
    network.biases[0].data.fill_(1.0)
    network.biases[1].data.zero_()
    network.weights[2].data.fill_(1.0 / width)
    network.biases[2].data.zero_()
    x = torch.zeros(1, 400, 1)
    network.eval()
    assert network(x).std() == 0.0
    network.train()
    outputs = network(x)
    assert outputs.mean().item() == pytest.approx(1.0, rel=0.01)
    # A share p without has a relative variance of p / (1 - p): of one layer as of the other, averaged over its width.
    variance = (0.4 / 0.6 + 0.2 / 0.8) / width
    assert outputs.var().item() == pytest.approx(variance, rel=0.25)


def test_spread_is_bounded_or_a_softplus():
    outputs = torch.tensor([[0.0, -100.0], [0.0, 0.0], [0.0, 100.0]])
    bounded = Policy(2, 1, (8,), "silu", "none").moments(outputs)[1].exp()
    torch.testing.assert_close(bounded[:, 0], torch.tensor([-5.0, -1.5, 2.0]).exp())
    softplus = Policy(2, 1, (8,), "silu", "none", spread="softplus").moments(outputs)[1].exp()
    torch.testing.assert_close(softplus[:, 0], torch.tensor([1e-5, math.log(2.0), 100.0]))


@pytest.mark.parametrize(
    ("start", "weight_std", "bias_std"), [("uniform", 1 / 8 / 3**0.5, 1 / 8 / 3**0.5), ("normal", 2**0.5 / 8, 1 / 16)]
)  # fmt: skip
def test_first_weights_are_spread_as_is_asked_for(start, weight_std, bias_std):
    torch.manual_seed(0)
    network = EnsembleMLP(20, (64, 500, 2), "silu", "none", start)
    assert network.weights[0].std().item() == pytest.approx(weight_std, rel=0.02)
    assert network.biases[0].std().item() == pytest.approx(bias_std, rel=0.02)


def test_orthogonal_weights_keep_lengths_in_each_member():
    network = EnsembleMLP(2, (16, 16, 2), "silu", "none", "orthogonal")
    for member in network.weights[0]:
        torch.testing.assert_close(member @ member.T, torch.eye(16), atol=1e-5, rtol=0)
    assert not torch.equal(network.weights[0][0], network.weights[0][1])
    assert (network.biases[0] == 0).all()
