"""The CEM planner, on a world small enough to know the answer."""

from types import SimpleNamespace

import numpy as np
import pytest

from maac_ros.planner import CemPlanner
from maac_ros.task import PlannerSettings

GOAL = np.array([0.5, -0.25], np.float32)


def world(members: int = 3, terminate_above: float = np.inf):
    """A point that moves by its action; each step pays minus the squared distance of the action to a goal."""

    def policy(observation):
        return np.zeros((len(observation), 2), np.float32), np.full((len(observation), 2), 0.5)

    def model(observation, action):
        following = np.broadcast_to(observation + action, (members, *observation.shape))
        reward = -((action - GOAL) ** 2).sum(axis=1) + 1.0
        ended = (following[..., 0] > terminate_above).astype(np.float32)
        return following, None, np.broadcast_to(reward, (members, len(reward))), ended

    def value(observation, action):
        return (np.zeros((2, len(observation)), np.float32),)

    field = SimpleNamespace(low=-1.0, high=1.0)
    manifest = SimpleNamespace(action=(field, field), discount=0.99)
    return SimpleNamespace(policy=policy, model=model, value=value, manifest=manifest)


def settings(**changes):
    return PlannerSettings(
        **{"candidates": 400, "horizon": 4, "iterations": 8, "elite_fraction": 0.1, **changes}
    )


def test_finds_the_best_actions():
    plan = CemPlanner(world(), settings()).plan(np.zeros(2, np.float32))
    np.testing.assert_allclose(plan.actions, np.tile(GOAL, (4, 1)), atol=0.08)
    assert plan.iterations == 8
    assert plan.value == pytest.approx(sum(0.99**t for t in range(4)), abs=0.1)


def test_keeps_within_the_limits():
    bundle = world()
    bundle.manifest.action = (
        SimpleNamespace(low=-0.1, high=0.1),
        SimpleNamespace(low=-0.1, high=0.1),
    )
    plan = CemPlanner(bundle, settings()).plan(np.zeros(2, np.float32))
    assert np.abs(plan.actions).max() <= np.float32(0.1)


def test_avoids_termination_when_living_pays():
    """Moving on at 0.5 a step ends the episode at once; the planner gives up reward to live on."""
    plan = CemPlanner(world(terminate_above=0.2), settings()).plan(np.zeros(2, np.float32))
    assert plan.actions[:3, 0].sum() <= 0.2 + 0.05


def test_reward_of_the_terminal_step_counts_and_nothing_after_it():
    plan = CemPlanner(world(terminate_above=-10.0), settings(smoothing=0.0)).plan(
        np.zeros(2, np.float32)
    )
    assert plan.value == pytest.approx(1.0, abs=0.05)


def test_a_candidate_whose_return_is_not_finite_is_never_an_elite():
    bundle = world()
    inner = bundle.model

    def model(observation, action):
        following, std, reward, ended = inner(observation, action)
        return following, std, np.where(action[:, 0] > 0.3, np.nan, reward), ended

    bundle.model = model
    plan = CemPlanner(bundle, settings()).plan(np.zeros(2, np.float32))
    assert np.isfinite(plan.value)
    assert plan.actions[:, 0].max() <= 0.35


def test_budget_stops_between_iterations():
    ticks = iter(range(100000))
    planner = CemPlanner(world(), settings(), clock=lambda: next(ticks) * 1.0)
    # An iteration looks at the clock twice: it lasts one of these seconds, and starts two after the last.
    plan = planner.plan(np.zeros(2, np.float32), budget_s=6.0)
    assert 1 <= plan.iterations < 8
    assert planner.plan(np.zeros(2, np.float32), budget_s=0.5).iterations == 0


def test_one_slow_iteration_does_not_end_planning_for_good():
    now = [0.0]
    slow = [True]

    def clock():
        now[0] += 10.0 if slow[0] else 0.001
        return now[0]

    planner = CemPlanner(world(), settings(iterations=1), clock=clock)
    planner.plan(np.zeros(2, np.float32), budget_s=100.0)
    slow[0] = False
    outcomes = [planner.plan(np.zeros(2, np.float32), budget_s=0.1).iterations for _ in range(80)]
    assert outcomes[0] == 0
    assert outcomes[-1] == 1
