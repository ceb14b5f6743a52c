"""The monitor doubts a model that no longer describes the robot, and no other."""

import dataclasses

import numpy as np
import pytest

from maac_ros.bundle import load_bundle
from maac_ros.controller import Controller, ControllerSettings, Mode
from maac_ros.monitor import (
    DOUBT_SHARE,
    MEMORY_S,
    TRUST_SHARE,
    ModelMonitor,
    disagreement,
    residual,
)
from maac_ros.simulation import TaskEnv
from maac_ros.task import PlannerSettings

SETTINGS = ControllerSettings(
    planner=PlannerSettings(candidates=32, horizon=3, iterations=1),
    mpc_budget_s=np.inf,
    use_mpc=True,
)


@pytest.fixture(scope="module")
def bundle():
    """The shipped pendulum: learned, with a calibration."""
    return load_bundle("inverted_pendulum")


def play(controller, env, ticks):
    """Commands of so many ticks in ``env``, from where it is; the pole must not fall."""
    observation = env.builder.build(env.simulation.state())
    commands = []
    for _ in range(ticks):
        commands.append(controller.tick(observation, 0.0))
        controller.assess()
        observation, _, terminated, _, _ = env.step(commands[-1].values)
        assert not terminated
    return commands


def test_disagreement_is_the_members_spread_in_usual_changes():
    means = np.array([[[0.0, 1.0]], [[2.0, 1.0]]], np.float32)  # two members, one row
    scale = np.array([0.5, 3.0], np.float32)
    # Entry 0: standard deviation 1, which is two usual changes; entry 1: none.
    np.testing.assert_allclose(disagreement(means, scale), [np.sqrt((2.0**2 + 0.0) / 2)])


def test_residual_counts_in_standard_deviations_of_the_mixture():
    means = np.array([[[0.0]], [[2.0]]], np.float32)
    stds = np.full((2, 1, 1), np.sqrt(3.0), np.float32)
    # The mixture has mean 1 and variance 3 + 1.
    np.testing.assert_allclose(residual(np.array([[5.0]]), means, stds), [2.0], rtol=1e-6)
    far = residual(np.array([[1e9]]), means, stds)
    np.testing.assert_allclose(far, [10.0])


def test_residuals_of_what_the_model_itself_draws_are_usual():
    random = np.random.default_rng(0)
    means, stds = random.normal(size=(2, 4, 5000, 3))
    stds = np.abs(stds) + 0.1
    member = random.integers(4, size=5000)
    rows = np.arange(5000)
    following = means[member, rows] + stds[member, rows] * random.normal(size=(5000, 3))
    scores = residual(following, means, stds)
    np.testing.assert_allclose(np.mean(scores**2), 1.0, atol=0.05)


def test_the_robot_that_was_learned_from_is_never_doubted(bundle):
    controller = Controller(bundle, SETTINGS)
    env = TaskEnv(bundle.task)
    env.reset(seed=1)
    commands = play(controller, env, 300)
    assert {command.mode for command in commands} == {Mode.MPC}
    assert controller.statistics.doubted == 0
    assert controller.monitor.residual < bundle.manifest.calibration.residual


@pytest.mark.parametrize("mass", [0.5, 2.0])
def test_another_mass_ends_planning_until_the_old_one_is_back(bundle, mass):
    controller = Controller(bundle, SETTINGS)
    env = TaskEnv(bundle.task)
    env.reset(seed=1)
    env.simulation.alter(mass=mass)
    changed = play(controller, env, 300)
    assert changed[0].mode is Mode.MPC
    # Where the pole all but stands still the old model is right, and may be planned with for a while.
    assert [c.mode for c in changed[100:]].count(Mode.POLICY) > 150
    reason = next(c.reason for c in changed if c.mode is Mode.POLICY)
    assert "does not describe the robot: one-step residual above" in reason
    assert controller.statistics.fallbacks["model"] == controller.statistics.doubted
    env.simulation.alter(mass=1.0)
    assert [c.mode for c in play(controller, env, 200)[100:]] == [Mode.MPC] * 100


def test_fallback_can_be_declined(bundle):
    controller = Controller(bundle, dataclasses.replace(SETTINGS, model_fallback=False))
    env = TaskEnv(bundle.task)
    env.reset(seed=1)
    env.simulation.alter(mass=1.2)
    commands = play(controller, env, 100)
    assert {command.mode for command in commands} == {Mode.MPC}
    assert controller.statistics.doubted > 0
    assert controller.statistics.fallbacks == {}


def test_doubt_comes_and_goes_with_hysteresis(bundle):
    monitor = ModelMonitor(bundle)
    memory_ticks = round(MEMORY_S / bundle.manifest.control_period_s)
    usual = np.array([0.0, 0.01, 0.0, 0.0], np.float32)
    action = np.zeros(1, np.float32)

    def feed(wild):
        monitor.predict(usual, action)
        monitor.compare(usual + np.float32(5.0) * wild, None)
        return monitor.exceedance, bool(monitor.doubt)

    rising = [feed(1) for _ in range(memory_ticks)]
    falling = [feed(0) for _ in range(2 * memory_ticks)]
    assert [doubt for share, doubt in rising] == [share > DOUBT_SHARE for share, _ in rising]
    assert [doubt for share, doubt in falling] == [share > TRUST_SHARE for share, _ in falling]
    assert rising[-1][1]
    assert not falling[-1][1]


def test_only_an_observation_one_period_later_is_compared(bundle):
    monitor = ModelMonitor(bundle)
    period = bundle.manifest.control_period_s
    usual, action = np.zeros(4, np.float32), np.zeros(1, np.float32)
    stamp = 100.0

    def residual_after(elapsed):
        nonlocal stamp
        stamp += elapsed
        monitor._residual.value = np.nan
        monitor.compare(usual, stamp)
        monitor.predict(usual, action)
        return monitor.residual

    assert np.isnan(residual_after(0.0))  # nothing was predicted yet
    assert residual_after(period) < 1.0
    for elapsed in (0.0, 2 * period, -period, np.nan):
        assert np.isnan(residual_after(elapsed)), elapsed
        stamp = stamp if np.isfinite(stamp) else 100.0
        residual_after(0.0)
    monitor.skip()
    assert np.isnan(residual_after(period))


def test_a_bundle_without_calibration_is_measured_and_never_doubted(untrained_bundle):
    bundle = untrained_bundle("inverted_pendulum")
    assert bundle.manifest.calibration is None
    controller = Controller(bundle, SETTINGS)
    for _ in range(100):
        controller.tick(np.random.default_rng(0).normal(size=4), 0.0)
        controller.assess()
    assert controller.monitor.residual > 0
    assert controller.monitor.disagreement > 0
    assert controller.statistics.doubted == 0


class Failing:
    """A graph that is gone."""

    def bind(self, inputs, outputs):
        def call():
            raise RuntimeError("device lost")

        return call


def test_a_model_that_fails_costs_no_command(bundle):
    broken = dataclasses.replace(bundle, model=Failing())
    controller = Controller(broken, dataclasses.replace(SETTINGS, use_mpc=False))
    for _ in range(3):
        assert controller.tick(np.zeros(4), 0.0).mode is Mode.POLICY
        controller.assess()
