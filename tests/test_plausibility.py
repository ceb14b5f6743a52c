"""An observation far from all that training saw is refused, by name."""

import dataclasses

import numpy as np
import pytest

from maac_ros.bundle import Observed
from maac_ros.controller import Controller, ControllerSettings, Mode
from maac_ros.errors import ObservationError
from maac_ros.plausibility import PlausibleRange

# slider position, hinge position, slider velocity, hinge velocity; the third is constant
OBSERVED = Observed(low=(-1.0, -0.2, 0.0, -2.0), high=(1.0, 0.2, 0.0, 3.0))
INSIDE = np.array([0.5, 0.1, 0.0, 1.0], np.float32)


@pytest.fixture(scope="module")
def bundle(untrained_bundle):
    bundle = untrained_bundle("inverted_pendulum")
    manifest = bundle.manifest.model_copy(update={"observed": OBSERVED})
    return dataclasses.replace(bundle, manifest=manifest)


def at(entry, value):
    observation = INSIDE.copy()
    observation[entry] = value
    return observation


@pytest.mark.parametrize(
    ("entry", "value"), [(0, 2.9), (0, -2.9), (1, 0.59), (3, -6.9), (3, 7.9), (2, 1e6)]
)
def test_within_the_margin_all_is_well(bundle, entry, value):
    PlausibleRange(bundle.manifest).require(at(entry, value), margin=1.0)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        (
            0,
            3.5,
            "joint_states slider/position = 3.5 m, expected -3 to 3 (training saw -1 to 1)",
        ),
        (3, -7.5, "hinge/velocity = -7.5 rad/s, expected -7 to 8 (training saw -2 to 3)"),
    ],
)
def test_beyond_the_margin_the_entry_is_named(bundle, entry, value, message):
    with pytest.raises(ObservationError) as raised:
        PlausibleRange(bundle.manifest).require(at(entry, value), margin=1.0)
    assert str(raised.value).startswith("observation is implausible: ")
    assert message in str(raised.value)
    PlausibleRange(bundle.manifest).require(at(entry, value), margin=np.inf)


def test_bundle_that_does_not_say_what_was_observed_refuses_nothing(untrained_bundle):
    bundle = untrained_bundle("inverted_pendulum")
    assert bundle.manifest.observed is None
    PlausibleRange(bundle.manifest).require(at(0, 1e9), margin=0.0)


def test_implausible_observation_leads_to_the_safe_command(bundle):
    settings = ControllerSettings(bundle.task.planner, mpc_budget_s=1.0, plausible_margin=0.5)
    controller = Controller(bundle, settings)
    assert controller.tick(INSIDE.astype(float), 0.0).mode is Mode.POLICY
    command = controller.tick(at(1, 9.0).astype(float), 0.0)
    assert command.mode is Mode.SAFE
    assert "hinge/position = 9 rad" in command.reason
    assert controller.statistics.fallbacks["observation"] == 1
