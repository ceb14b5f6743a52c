"""The calibration says what is usual on transitions that the model has not learned from."""

import numpy as np
import torch

from maac_learning.calibration import calibrate, observed
from maac_learning.config import ModelConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.fitting import fit, held_out_rows
from maac_learning.replay import Transitions
from maac_ros.monitor import disagreement, residual
from maac_ros.task import load_task

CONFIG = ModelConfig(members=3, hidden=(32,), validate_every=10)


def transitions(count, noise=0.01):
    """A world that is linear, but for its noise; constant in its first entry."""
    random = torch.Generator().manual_seed(0)
    observation = torch.randn(count, 4, generator=random)
    action = 2.0 * torch.rand(count, 1, generator=random) - 1.0
    following = observation + 0.1 * torch.roll(observation, 1, dims=1) + 0.2 * action
    following = following + noise * torch.randn(count, 4, generator=random)
    following[:, 0] = observation[:, 0]
    zeros = torch.zeros(count)
    return Transitions(observation, action, zeros, following, zeros)


def fitted(data):
    torch.manual_seed(0)
    model = DynamicsEnsemble(load_task("inverted_pendulum"), 4, 1, CONFIG)
    fit(model, *data.model_data(), CONFIG, 300, torch.Generator().manual_seed(1))
    return model


def test_limits_hold_the_share_they_say_of_new_transitions():
    data = transitions(6000)
    seen, new = (
        Transitions(*(column[part] for column in data)) for part in (slice(3000), slice(3000, None))
    )
    model = fitted(seen)
    found = calibrate(model, seen, CONFIG)
    assert found.rows == 150  # the newer half of 300
    with torch.no_grad():
        means, stds, _, _ = (m.numpy() for m in model.moments(new.observation, new.action))
    scores = {
        "residual": residual(new.next_observation.numpy(), means, stds),
        "disagreement": disagreement(means, np.array(found.change_std)),
    }
    for name, score in scores.items():
        # 150 rows know a quantile of 0.95 to about two standard errors of 0.018.
        assert 0.90 < np.mean(score <= getattr(found, name)) < 0.99, name


def test_what_was_learned_does_not_count():
    data = transitions(400)
    model = fitted(data)
    found = calibrate(model, data, CONFIG)
    spoiled = Transitions(*(column.clone() for column in data))
    learned = torch.ones(400, dtype=torch.bool)
    learned[held_out_rows(400, CONFIG)] = False
    spoiled.next_observation[learned] += 100.0
    assert calibrate(model, spoiled, CONFIG) == found


def test_an_entry_that_never_changes_has_finite_limits():
    found = calibrate(fitted(transitions(400)), transitions(400), CONFIG)
    assert found.change_std[0] == 0.0
    assert np.isfinite([found.residual, found.disagreement]).all()


def test_nothing_held_out_nothing_calibrated():
    empty = Transitions(*(column[:0] for column in transitions(4)))
    assert calibrate(fitted(transitions(400)), empty, CONFIG) is None


def test_observed_is_the_range_of_both_ends_of_every_transition():
    data = transitions(50)
    data.observation[3, 1] = -77.0
    data.next_observation[49, 2] = 88.0  # the last state that was reached began no transition
    found = observed(data)
    both = torch.cat((data.observation, data.next_observation)).numpy()
    np.testing.assert_array_equal(np.float32(found.low), both.min(axis=0))
    np.testing.assert_array_equal(np.float32(found.high), both.max(axis=0))
    assert (found.low[1], found.high[2]) == (-77.0, 88.0)
