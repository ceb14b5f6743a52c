"""The CEM planner, on a world small enough to know the answer."""

import gc
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from maac_ros.bundle import GOLDEN, load_bundle
from maac_ros.planner import CemPlanner
from maac_ros.rollouts import ModelRollouts
from maac_ros.task import PlannerSettings

GOAL = np.array([0.5, -0.25], np.float32)


class Function:
    """A graph of a bundle, as a function of arrays."""

    def __init__(self, compute):
        self.compute = compute

    def bind(self, inputs, outputs):
        def call():
            results = self.compute(**inputs)
            for name, array in outputs.items():
                array[...] = results[name]

        return call


def world(
    members: int = 3, terminate_above: float = np.inf, limit: float = 1.0, spread=0.5, pays=None
):
    """A point that moves by its action; each step pays by the distance of the action to a goal, 1 at best."""

    def policy(observation):
        return {"action": np.zeros_like(observation), "action_std": spread}

    def step(observation, action):
        following = observation + action
        reward = 1.0 - ((action - GOAL) ** 2).sum(axis=-1)
        return {
            "next_observation": following,
            "reward": reward if pays is None else pays(observation, action, reward),
            "alive": following[..., 0] <= terminate_above,
        }

    def value(observation, action):
        return {"value": np.stack((observation[:, 0] * 0.0, observation[:, 0] * 0.0 + 2.0))}

    field = SimpleNamespace(name="x", low=-limit, high=limit, step=None)
    task = SimpleNamespace(
        action_entries=lambda: (field, field), observation_entries=lambda: (field, field)
    )
    manifest = SimpleNamespace(
        observation=(field, field),
        action=(field, field),
        discount=0.99,
        members=members,
        critics=2,
    )
    functions = {"policy": policy, "step": step, "value": value}
    return SimpleNamespace(
        manifest=manifest,
        task=task,
        state_value=None,
        distilled_step=None,
        distilled_policy=None,
        **{name: Function(each) for name, each in functions.items()},
    )


def settings(**changes):
    fixed = {"candidates": 400, "horizon": 4, "iterations": 8, "elite_fraction": 0.1}
    return PlannerSettings(**{**fixed, "terminal_value": "minimum", **changes})


def test_finds_the_best_actions():
    plan = CemPlanner(world(), settings()).plan(np.zeros(2, np.float32))
    np.testing.assert_allclose(plan.actions, np.tile(GOAL, (4, 1)), atol=0.08)
    assert plan.iterations == 8
    assert plan.value == pytest.approx(sum(0.99**t for t in range(4)), abs=0.1)


def test_keeps_within_the_limits():
    plan = CemPlanner(world(limit=0.1), settings()).plan(np.zeros(2, np.float32))
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
    bundle = world(pays=lambda _, action, reward: np.where(action[..., 0] > 0.3, np.nan, reward))
    plan = CemPlanner(bundle, settings()).plan(np.zeros(2, np.float32))
    assert np.isfinite(plan.value)
    assert plan.actions[:, 0].max() <= 0.35


def test_value_closes_the_horizon_as_asked():
    origin = np.zeros(2, np.float32)
    least = CemPlanner(world(), settings()).plan(origin)
    mean = CemPlanner(world(), settings(terminal_value="mean")).plan(origin)
    assert mean.value - least.value == pytest.approx(0.99**4 * 1.0, abs=0.01)


def test_state_value_closes_the_horizon_where_there_is_one_and_nothing_else_is_asked():
    origin = np.zeros(2, np.float32)

    def value(terminal_value, bundle):
        return CemPlanner(bundle, settings(terminal_value=terminal_value)).plan(origin).value

    without, known = world(), world()
    known.state_value = Function(lambda observation: {"value": 0.0 * observation[:, 0] + 5.0})
    mean = value("mean", without)
    assert value("state_value", without) == mean == value("mean", known)

    def never(**_):
        raise AssertionError("the critics were asked")

    known.value = Function(never)
    assert value("state_value", known) - mean == pytest.approx(0.99**4 * 4.0, abs=0.01)


def test_small_networks_roll_candidates_out_where_there_are_any_and_are_wanted():
    origin = np.zeros(2, np.float32)
    asked = []
    known = world()
    # They know of a bonus, and that the policy goes left, and are asked about it from the second step on.
    other = world(pays=lambda _observation, _action, reward: reward + 10.0)
    known.distilled_step = other.step

    def left(observation):
        asked.append(len(observation))
        return {"action": 0.0 * observation - 0.9, "action_std": 0.0}

    known.distilled_policy = Function(left)
    few = {"horizon": 3, "iterations": 1, "policy_fraction": 0.0}
    plain = CemPlanner(known, settings(**few)).plan(origin)
    assert not asked
    small = CemPlanner(known, settings(model="distilled", **few)).plan(origin)
    assert len(asked) == 2
    assert small.value > plain.value
    # The first action is the bundle's own policy's, whatever small networks think of it.
    np.testing.assert_allclose(small.actions[1:], -0.9, atol=1e-6)
    np.testing.assert_allclose(small.actions[0], GOAL, atol=0.2)
    without = CemPlanner(world(), settings(model="distilled", **few)).plan(origin)
    np.testing.assert_array_equal(without.actions, plain.actions)


@pytest.mark.parametrize("draw", ["step", "trajectory"])
def test_particles_average_over_members(draw):
    """Every member but the first says that going right pays; averaged over all of them, it does not."""

    def pays(observation, action, reward):
        right = 0.0 * reward + 2.0
        right[0] = -10.0
        return np.where(action[..., 0] > 0.0, right, 0.0 * reward)

    chosen = settings(candidates=120, particles=30, member_draw=draw, iterations=4)
    plan = CemPlanner(world(pays=pays), chosen).plan(np.zeros(2, np.float32))
    assert plan.actions[:, 0].max() < 0.1
    assert plan.value <= 0.1


def test_first_candidates_are_as_far_from_the_policy_as_is_asked():
    """Where going on to the right pays, elites are the rightmost of those that there are; the policy stays at 0."""
    origin = np.zeros(2, np.float32)
    values = []
    for spread in (1.0, 0.1):
        bundle = world(pays=lambda _, action, reward: action[..., 0])
        chosen = settings(first_spread=spread, iterations=1, candidates=512)
        values.append(CemPlanner(bundle, chosen).plan(origin).actions[0, 0])
    assert values[0] > 0.3
    assert values[1] == pytest.approx(0.1 * values[0], rel=0.2)


def test_candidates_are_rounded_up_to_fill_the_members():
    plan = CemPlanner(world(members=7), settings(candidates=400)).plan(np.zeros(2, np.float32))
    np.testing.assert_allclose(plan.actions, np.tile(GOAL, (4, 1)), atol=0.08)


def test_mppi_weighs_better_candidates_more():
    origin = np.zeros(2, np.float32)
    hot, cold = (
        CemPlanner(
            world(), settings(weighting="mppi", temperature=t, elite_fraction=1.0, iterations=1)
        ).plan(origin)
        for t in (100.0, 0.1)
    )
    distance = [np.abs(plan.actions - GOAL).mean() for plan in (hot, cold)]
    assert distance[1] < 0.7 * distance[0]
    assert cold.value > hot.value


def test_next_plan_starts_from_the_rest_of_the_last_unless_told_to_forget():
    """One iteration of few candidates finds little anew: what it finds again, it kept."""
    origin = np.zeros(2, np.float32)

    def second_value(forget, seed):
        chosen = settings(candidates=60, elite_fraction=0.05, iterations=12)
        planner = CemPlanner(world(spread=0.1), chosen, seed)
        planner.plan(origin)
        planner.settings = settings(iterations=1)
        if forget:
            planner.forget()
        return planner.plan(origin).value

    kept, forgotten = ([second_value(f, s) for s in range(10)] for f in (False, True))
    assert np.mean(kept) > np.mean(forgotten) + 0.05


def test_same_seed_and_inputs_give_the_same_plans():
    def plans():
        planner = CemPlanner(world(), settings(iterations=2), seed=3)
        points = np.linspace(0.0, 1.0, 5, dtype=np.float32)
        return np.stack([planner.plan(np.full(2, x, np.float32)).actions for x in points])

    np.testing.assert_array_equal(plans(), plans())


@pytest.mark.parametrize("draw", ["step", "trajectory"])
@pytest.mark.parametrize("particles", [1, 4, 6])
@pytest.mark.parametrize("name", ["hopper", "half_cheetah", "walker2d_unclipped"])
def test_plans_do_not_depend_on_how_many_threads_share_them(name, particles, draw):
    bundle = load_bundle(name)
    chosen = PlannerSettings(
        candidates=150, horizon=3, iterations=2, particles=particles, member_draw=draw
    )
    with np.load(bundle.path / GOLDEN) as golden:
        observations = golden["policy.observation"][:3]

    def plans(threads):
        planner = CemPlanner(bundle, chosen, seed=3, threads=threads)
        return np.stack([planner.plan(each).actions for each in observations])

    alone = plans(1)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(plans(threads), alone)


@pytest.mark.parametrize("name", ["hopper_unclipped", "half_cheetah", "walker2d_unclipped"])
def test_returns_do_not_depend_on_how_candidates_are_shared_out(name):
    """Bit for bit: elites are the same in the same order, whatever their returns are rounded to."""
    bundle = load_bundle(name)
    chosen = PlannerSettings(candidates=150, horizon=3)
    with np.load(bundle.path / GOLDEN) as golden:
        observation = golden["policy.observation"][0]
    noise = np.random.default_rng(0).standard_normal((150, len(bundle.manifest.action)))

    def returns(threads):
        rollouts = ModelRollouts(bundle, chosen, np.random.default_rng(0), threads)

        def follow(share):
            share.begin(observation)
            for _ in range(3):
                share.ask_policy()
                drawn = noise[share.candidates].astype(np.float32) * share.policy_std
                share.advance(share.policy_action + drawn)
            share.close()
            return True

        rollouts.run(follow)
        return rollouts.returns.copy()

    alone = returns(1)
    for threads in (2, 3, 4):
        np.testing.assert_array_equal(returns(threads), alone)


def test_every_candidate_is_in_one_share_and_no_share_is_too_small():
    bundle = world(members=5)
    for particles in (1, 2, 5, 6):
        for candidates in (8, 33, 64, 200):
            chosen = settings(candidates=candidates, particles=particles, horizon=2)
            for threads in (1, 2, 4, 64):
                rollouts = ModelRollouts(bundle, chosen, np.random.default_rng(0), threads)
                met = [
                    n
                    for share in rollouts.shares
                    for n in range(rollouts.candidates)[share.candidates]
                ]
                assert met == list(range(rollouts.candidates))
                assert 0 <= rollouts.candidates - candidates < 5
                rows = [
                    (s.candidates.stop - s.candidates.start) * particles for s in rollouts.shares
                ]
                assert len(rows) <= threads
                assert len(rows) == 1 or min(rows) >= 32 - 5 * particles
                assert len(rows) >= min(threads, candidates * particles // 32)


@pytest.mark.parametrize("draw", ["step", "trajectory"])
def test_rows_are_dealt_evenly_to_the_members(draw):
    """A member pays by its number: as many rows as members together always get each of them, and so their mean."""
    members, expected = 4, 1.5 * (1 + 0.99 + 0.99**2)

    def pays(observation, action, reward):
        return np.broadcast_to(np.arange(members, dtype=np.float32)[:, None], reward.shape)

    def job(share):
        share.begin(np.zeros(2, np.float32))
        for _ in range(3):
            share.advance(np.zeros((share.candidates.stop - share.candidates.start, 2), np.float32))
        share.close()
        return True

    def returns(particles):
        chosen = settings(candidates=64, horizon=3, particles=particles, member_draw=draw)
        random = np.random.default_rng(0)
        rollouts = ModelRollouts(world(members, pays=pays), chosen, random, threads=3)
        return [rollouts.returns.copy() for _ in range(2) if rollouts.run(job)]

    np.testing.assert_allclose(returns(members), np.full((2, 64), expected), rtol=1e-6)
    first, second = returns(1)
    np.testing.assert_allclose(first.reshape(-1, members).mean(axis=1), expected, rtol=1e-6)
    assert 0.5 < (first != second).mean() < 1.0


def test_one_share_out_of_time_ends_the_iteration_when_all_have_stopped():
    """The other thread finds out that it is late, between two model steps; nobody writes on after the plan."""
    running, workers, slow = [], set(), [False]
    main = threading.get_ident()

    def pays(observation, action, reward):
        me = threading.get_ident()
        running.append(me)
        workers.add(me)
        if slow[0] and me != main:
            time.sleep(0.2)
        running.remove(me)
        return reward

    planner = CemPlanner(world(pays=pays), settings(), threads=2)
    assert planner.plan(np.zeros(2, np.float32)).iterations == 8
    assert len(workers) == 2
    slow[0] = True
    plan = planner.plan(np.zeros(2, np.float32), budget_s=0.3)
    assert plan.iterations == 0
    assert not running
    slow[0] = False
    assert planner.plan(np.zeros(2, np.float32)).iterations == 8


def test_what_goes_wrong_in_a_thread_is_raised_when_all_have_stopped():
    main = threading.get_ident()

    def pays(observation, action, reward):
        if threading.get_ident() != main:
            raise RuntimeError("a broken graph")
        return reward

    planner = CemPlanner(world(pays=pays), settings(), threads=2)
    with pytest.raises(RuntimeError, match="a broken graph"):
        planner.plan(np.zeros(2, np.float32))


def test_threads_end_with_their_planner():
    def alive():
        return [each for each in threading.enumerate() if each.name.startswith("planner")]

    gc.collect()  # tracebacks of other tests hold theirs
    for _ in range(20):
        planner = CemPlanner(world(), settings(horizon=1, iterations=1), threads=4)
        planner.plan(np.zeros(2, np.float32))
    assert alive()
    del planner
    deadline = time.monotonic() + 10.0
    while alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive()


def test_budget_stops_between_iterations():
    """The clock goes on by a second each time it is read: seven times an iteration."""
    planner = CemPlanner(world(), settings(), clock=lambda: next(ticks) * 1.0)
    ticks = iter(range(100000))
    plan = planner.plan(np.zeros(2, np.float32), budget_s=20.0)
    assert plan.iterations == 3
    assert planner.plan(np.zeros(2, np.float32), budget_s=0.5).iterations == 0


def test_an_iteration_that_overruns_is_given_up_between_two_model_steps():
    now = [0.0]

    def pays(observation, action, reward):
        now[0] += 1.0
        return reward

    planner = CemPlanner(world(pays=pays), settings(), clock=lambda: now[0])
    plan = planner.plan(np.zeros(2, np.float32), budget_s=9.5)
    assert plan.iterations == 2
    now[0] = 0.0
    # Nothing is expected to take long by a planner that has not planned; it finds out after three of four steps.
    fresh = CemPlanner(world(pays=pays), settings(), clock=lambda: now[0])
    assert fresh.plan(np.zeros(2, np.float32), budget_s=2.5).iterations == 0
    assert now[0] == 3.0


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


def test_what_never_fits_is_tried_ever_more_rarely():
    """A single model step takes ten budgets: each attempt is an overrun that cannot be cut short."""
    now, plans, attempts = [0.0], [], []

    def pays(observation, action, reward):
        now[0] += 10.0
        attempts.append(plans[-1])
        return reward

    planner = CemPlanner(world(pays=pays), settings(), clock=lambda: now[0])
    for number in range(2000):
        plans.append(number)
        assert planner.plan(np.zeros(2, np.float32), budget_s=1.0).iterations == 0
    gaps = np.diff(attempts)
    assert 4 <= len(attempts) <= 8
    assert (gaps[1:] > 1.9 * gaps[:-1]).all()
