"""An observation far from all that training saw is refused, by name."""

import dataclasses

import numpy as np
import pytest

from maac_ros.bundle import Observed, load_bundle
from maac_ros.controller import Controller, ControllerSettings, Mode
from maac_ros.errors import ObservationError
from maac_ros.observation import JointReading, ObservationBuilder, RobotState
from maac_ros.plausibility import PlausibleRange
from maac_ros.task import PlannerSettings

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


ARM = load_bundle("reaching_arm")


def arm(margin=1.0):
    return Controller(
        ARM, ControllerSettings(PlannerSettings(), mpc_budget_s=1.0, plausible_margin=margin)
    )


@pytest.mark.parametrize("margin", [1.0, np.inf])
@pytest.mark.parametrize("velocity", [1e300, -1e4, np.inf, np.nan])
def test_joint_is_not_damped_against_a_speed_that_cannot_be(velocity, margin):
    controller = arm(margin)
    rest = controller.safe.blind
    still = JointReading(np.zeros(2), np.array([0.5, 0.0]))
    assert (controller.tick(None, 0.0, joints=still).values != rest).any()
    broken = JointReading(np.zeros(2), np.array([velocity, 0.0]))
    values = controller.tick(None, 0.0, joints=broken).values
    if margin == np.inf and np.isfinite(velocity):
        assert (np.abs(values) <= 1.0).all()  # nobody wants to know what is plausible
    else:
        assert values[0] == rest[0]


def test_reading_beyond_its_clip_is_believed_so_far_and_no_further():
    plausible = PlausibleRange(load_bundle("hopper").manifest)
    clipped = plausible.believed(
        JointReading(np.zeros(6), np.array([0, 0, 0, 11.0, -200, 1e4])), 1.0
    )
    np.testing.assert_array_equal(clipped.velocity, [0, 0, 0, 11.0, -200, np.nan])


def test_clip_does_not_hide_what_is_no_reading():
    task = load_bundle("hopper").task
    builder = ObservationBuilder(task)
    state = RobotState.unknown(6)
    state.joint_position[:], state.joint_velocity[:] = 0.0, 0.0
    index = [entry.name for entry in builder.entries].index("leg_joint/velocity")
    state.joint_velocity[4] = -30.0
    assert builder.read(state)[index] == builder.build(state)[index] == -10.0
    state.joint_velocity[4] = -1e300
    reason = str(builder.read(state))
    assert "joint_states leg_joint/velocity = -1e+300 rad/s, expected -210 to 210" in reason
    state.joint_velocity[4] = np.inf
    assert isinstance(builder.read(state), ObservationError)
    assert builder.build(state)[index] == np.inf
    state.joint_velocity[4] = np.nan
    with pytest.raises(ObservationError, match=r"leg_joint/velocity = nan"):
        builder.single(builder.read(state))
