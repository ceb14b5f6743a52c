"""The controller core: every command is finite, within limits and explained."""

import dataclasses
import gc
import itertools
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maac_ros.controller import Controller, ControllerSettings, Mode
from maac_ros.errors import ObservationError
from maac_ros.evaluation import run_episode
from maac_ros.modes import Rules
from maac_ros.planner import CemPlanner
from maac_ros.simulation import TaskEnv
from maac_ros.task import PlannerSettings

SETTINGS = ControllerSettings(
    planner=PlannerSettings(candidates=32, horizon=3, iterations=2), mpc_budget_s=np.inf
)
OBSERVATION = np.array([0.0, 0.05, 0.1, -0.1])


@pytest.fixture(scope="module")
def bundle(untrained_bundle):
    return untrained_bundle("inverted_pendulum")


def changed(**settings):
    return dataclasses.replace(SETTINGS, **settings)


def test_policy_mode_is_the_policy(bundle):
    controller = Controller(bundle, SETTINGS)
    command = controller.tick(OBSERVATION, age_s=0.0)
    action, _ = bundle.policy(observation=OBSERVATION.astype(np.float32)[None])
    assert command.mode is Mode.POLICY
    assert command.reason == ""
    np.testing.assert_array_equal(command.values, action[0].astype(np.float64))


def test_mpc_mode_is_the_plans_first_action(bundle):
    controller = Controller(bundle, changed(use_mpc=True), seed=4)
    command = controller.tick(OBSERVATION, age_s=0.0)
    plan = CemPlanner(bundle, SETTINGS.planner, seed=4).plan(OBSERVATION.astype(np.float32))
    assert command.mode is Mode.MPC
    np.testing.assert_array_equal(command.values, plan.actions[0].astype(np.float64))
    np.testing.assert_array_equal(command.plan.actions, plan.actions)


def test_switching_mpc_takes_effect_at_the_next_tick(bundle):
    controller = Controller(bundle, SETTINGS)
    modes = []
    for use_mpc in (False, True, True, False):
        controller.configure(changed(use_mpc=use_mpc))
        modes.append(controller.tick(OBSERVATION, age_s=0.0).mode)
    assert modes == [Mode.POLICY, Mode.MPC, Mode.MPC, Mode.POLICY]
    assert controller.statistics.ticks == {Mode.POLICY: 2, Mode.MPC: 2}


@pytest.mark.parametrize(
    ("observation", "age", "reason"),
    [
        (None, 0.0, "no observation yet"),
        (OBSERVATION, 0.3, "observation is 300 ms old; limit 100 ms"),
        (OBSERVATION, np.nan, "old; limit 100 ms"),
        (np.array([0.0, np.nan, 0.0, 0.0]), 0.0, "hinge/position = nan"),
        (np.array([0.0, 0.0, np.inf, 0.0]), 0.0, "slider/velocity = inf"),
        (np.array([0.0, 0.0, 0.0, -1e300]), 0.0, "hinge/velocity = -1e+300"),
    ],
)
def test_bad_input_leads_to_the_safe_command_with_a_reason(bundle, observation, age, reason):
    controller = Controller(bundle, changed(max_observation_age_s=0.1))
    controller.tick(OBSERVATION, age_s=0.0)
    command = controller.tick(observation, age)
    assert command.mode is Mode.SAFE
    assert reason in command.reason
    np.testing.assert_array_equal(command.values, [0.0])
    assert controller.statistics.fallbacks["observation"] == 1
    assert controller.tick(OBSERVATION, age_s=0.0).mode is Mode.POLICY


def test_nothing_of_a_refused_observation_is_kept_alive(bundle):
    """A robot that is silent for a night must not fill the memory, however rarely garbage is collected."""
    controller = Controller(bundle, SETTINGS)
    refused = ObservationError("joint_states: no observation")
    kept = weakref.ref(refused)
    gc.disable()
    try:
        assert controller.tick(refused, 0.0).reason == "joint_states: no observation"
        del refused
        assert kept() is None
    finally:
        gc.enable()


def test_recovery_starts_from_the_safe_command(bundle):
    saturated = dataclasses.replace(bundle, policy=FixedPolicy(3.0))
    controller = Controller(saturated, changed(action_rate_limit=10.0, rules=Rules(2)))
    for observation in (OBSERVATION, OBSERVATION, None, OBSERVATION):
        command = controller.tick(observation, 0.0)
    assert command.mode is Mode.SAFE
    assert "1 of 2 ticks without a fault" in command.reason
    assert controller.statistics.fallbacks == {"observation": 1, "recovery": 1}
    assert controller.tick(OBSERVATION, 0.0).values == pytest.approx([0.4])


def test_successor_goes_on_where_the_other_has_come_to(bundle):
    saturated = dataclasses.replace(bundle, policy=FixedPolicy(3.0))
    settings = changed(action_rate_limit=10.0)
    first, second = Controller(saturated, settings), Controller(saturated, settings)
    for _ in range(3):
        first.tick(OBSERVATION, 0.0)
    second.take_over(first)
    before = first.statistics.ticks.total()
    assert second.tick(OBSERVATION, 0.0).values == pytest.approx([1.6])
    assert second.statistics.ticks.total() == before + 1
    first.stop("by hand")
    assert second.tick(OBSERVATION, 0.0).mode is Mode.STOPPED


class FixedPolicy:
    """A policy graph that says the same of every observation, or fails."""

    def __init__(self, action: float | None):
        self.action = action

    def bind(self, inputs, outputs):
        def call():
            if self.action is None:
                raise RuntimeError("device lost")
            outputs["action"][:] = self.action

        planner = "action_std" in outputs
        return (lambda: None) if planner else call


def test_action_that_is_not_finite_never_leaves_the_core(bundle):
    broken = dataclasses.replace(bundle, policy=FixedPolicy(np.nan))
    command = Controller(broken, SETTINGS).tick(OBSERVATION, age_s=0.0)
    assert command.mode is Mode.SAFE
    assert "not finite" in command.reason


def test_failure_inside_leads_to_the_safe_command(bundle):
    broken = dataclasses.replace(bundle, policy=FixedPolicy(None))
    command = Controller(broken, SETTINGS).tick(OBSERVATION, 0.0)
    assert command.mode is Mode.SAFE
    assert "device lost" in command.reason


def test_rate_limit_counts_from_the_previous_command(bundle):
    saturated = dataclasses.replace(bundle, policy=FixedPolicy(3.0))
    controller = Controller(saturated, changed(action_rate_limit=10.0))
    values = [controller.tick(OBSERVATION, 0.0).values[0] for _ in range(10)]
    np.testing.assert_allclose(values, np.minimum(3.0, 0.4 * np.arange(1, 11)))


def test_plan_that_does_not_fit_its_budget_leaves_the_policy_in_charge(bundle):
    now = iter(np.arange(0.0, 1e6, 1.0))  # every look at the clock costs a second
    controller = Controller(
        bundle, changed(use_mpc=True, mpc_budget_s=0.5), clock=lambda: float(next(now))
    )
    first = controller.tick(OBSERVATION, 0.0)
    assert first.mode is Mode.POLICY
    assert "no plan fits 500.0 ms" in first.reason
    assert controller.statistics.fallbacks["budget"] == 1


def test_same_seed_same_episode(bundle):
    def play():
        controller = Controller(bundle, changed(use_mpc=True), seed=1)
        return run_episode(controller, TaskEnv(bundle.task), seed=3)

    assert play() == play()


def test_reset_restarts_planner_and_statistics(bundle):
    controller = Controller(bundle, changed(use_mpc=True), seed=1)
    first = controller.tick(OBSERVATION, 0.0).values
    controller.tick(OBSERVATION, 0.0)
    controller.reset()
    assert controller.statistics.ticks == {}
    np.testing.assert_array_equal(controller.tick(OBSERVATION, 0.0).values, first)


ANY = st.floats(allow_nan=True, allow_infinity=True)
TICK = st.tuples(
    st.one_of(st.none(), st.lists(ANY, min_size=4, max_size=4).map(np.array)),
    ANY,  # age
    st.one_of(st.none(), ANY),  # stamp
    st.one_of(st.none(), st.floats(width=32)),  # what the policy says, or that it fails
    st.booleans(),  # stop by hand
)


@given(
    ticks=st.lists(TICK, max_size=12),
    rate=st.floats(0.0, 1e9),
    recovery=st.integers(1, 4),
    lasting=st.floats(0.0, 10.0),
    use_mpc=st.booleans(),
)
def test_whatever_comes_in_no_unsafe_command_leaves_the_core(
    bundle, ticks, rate, recovery, lasting, use_mpc
):
    """Hypothesis draws observations, ages, stamps, actions and stops; the model itself is real."""
    policy = FixedPolicy(0.0)
    now = itertools.count()
    controller = Controller(
        dataclasses.replace(bundle, policy=policy),
        changed(
            use_mpc=use_mpc,
            action_rate_limit=rate,
            max_observation_age_s=0.1,
            rules=Rules(recovery, lasting),
        ),
        clock=lambda: float(next(now)),
    )
    previous = controller.safe.blind
    stopped = False
    for observation, age, stamp, action, stop in ticks:
        policy.action = action
        if stop:
            controller.stop("by hand")
        stopped |= bool(controller.stopped)
        command = controller.tick(observation, age, stamp)
        controller.assess()
        assert np.isfinite(command.values).all()
        assert (np.abs(command.values) <= 3.0).all()
        if command.mode in (Mode.SAFE, Mode.STOPPED):
            assert np.array_equal(command.values, controller.safe.blind)
            assert command.reason
        else:
            assert not stopped
            assert age <= 0.1
            assert np.isfinite(observation).all()
            assert (np.abs(command.values - previous) <= rate * 0.04 * (1 + 1e-9) + 1e-12).all()
        previous = command.values


def test_command_moves_over_from_the_safe_one_when_the_policy_engages(bundle):
    controller = Controller(bundle, changed(engage_s=0.2))
    period_s = bundle.manifest.control_period_s
    goal = Controller(bundle, SETTINGS).tick(OBSERVATION, 0.0).values
    ticks = round(0.2 / period_s)

    def share(stamp_s):
        return float((controller.tick(OBSERVATION, 0.0, stamp_s).values / goal)[0])

    expected = [min(1.0, (k + 1) / ticks) for k in range(ticks + 3)]
    stamps = iter(np.arange(1000) * period_s)
    assert [share(next(stamps)) for _ in expected] == pytest.approx(expected)
    controller.tick(None, 0.0, next(stamps))
    assert [share(next(stamps)) for _ in expected] == pytest.approx(expected)
    # What comes twice as often as in training moves over no sooner.
    controller.tick(None, 0.0, next(stamps))
    start = next(stamps)
    halves = [share(start + k * period_s / 2) for k in range(1, 2 * ticks)]
    assert halves[:ticks] == pytest.approx([(k + 1) / ticks / 2 for k in range(1, ticks + 1)])


def test_rate_limit_counts_from_stamp_to_stamp_a_period_at_most(bundle):
    """Twice as many ticks as in training change the command by no more each second."""
    period_s = bundle.manifest.control_period_s
    free = Controller(bundle, SETTINGS).tick(OBSERVATION, 0.0).values[0]
    limit = 0.05 * abs(free) / period_s

    def changes(spacing_s):
        controller = Controller(bundle, changed(action_rate_limit=limit))
        values = [
            controller.tick(OBSERVATION, 0.0, 1.0 + k * spacing_s).values[0] for k in range(5)
        ]
        return np.abs(np.diff(values)) / abs(free)

    assert changes(period_s) == pytest.approx(0.05)
    assert changes(period_s / 4) == pytest.approx(0.05 / 4)
    assert changes(period_s * 4) == pytest.approx(0.05)
    assert changes(0.0) == pytest.approx(0.05)
    assert changes(-1.0) == pytest.approx(0.05)


def test_another_planner_is_tried_out_before_it_is_adopted(bundle):
    """So that the tick which adopts it is not the one that finds out how long a plan takes."""
    now = [0.0]

    def clock():
        now[0] += 0.01
        return now[0]

    controller = Controller(bundle, changed(use_mpc=True, mpc_budget_s=0.05), clock=clock)
    larger = changed(
        use_mpc=True, mpc_budget_s=0.05, planner=PlannerSettings(candidates=64, horizon=20)
    )
    assert controller.prepare(controller.settings) is None
    planner = controller.prepare(larger)
    controller.configure(larger, planner)
    before = now[0]
    assert controller.tick(OBSERVATION, 0.0).reason == "no plan fits 50.0 ms"
    assert now[0] - before < 0.1
    free = changed(use_mpc=True, planner=larger.planner)
    controller.reset(free)
    fresh = Controller(bundle, free)
    expected = fresh.tick(OBSERVATION, 0.0).values
    np.testing.assert_array_equal(controller.tick(OBSERVATION, 0.0).values, expected)
