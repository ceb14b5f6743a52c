"""The gradient of the MAAC objective: exact where everything is known, and within Lemma 4.1 where it is not."""

from dataclasses import dataclass, replace
from functools import cached_property

import pytest
import torch
from torch import Tensor

from maac_learning import evidence
from maac_learning.cli import main
from maac_learning.dynamics import Prediction
from maac_learning.objectives import expanded_return, unroll
from maac_learning.studies.double_integrator import LinearQuadratic, double_integrator
from maac_learning.studies.gradient_error import fitness, policy_states, rollout_starts
from maac_learning.studies.learned import collect, learn
from maac_ros.errors import ConfigError

EXACT = torch.float64
HORIZONS = (0, 1, 2, 5, 12)


def normal(generator: torch.Generator, *size: int) -> Tensor:
    return torch.randn(*size, generator=generator, dtype=EXACT)


def positive(generator: torch.Generator, size: int) -> Tensor:
    root = normal(generator, size, size)
    return root @ root.T


def random_world(seed: int) -> LinearQuadratic:
    """Three states, two actions, under a policy whose closed loop is stable."""
    generator = torch.Generator().manual_seed(seed)
    gain, control = normal(generator, 2, 3), normal(generator, 3, 2)
    closed_loop = normal(generator, 3, 3)
    closed_loop *= 0.9 / torch.linalg.eigvals(closed_loop).abs().max()
    costs = positive(generator, 3), positive(generator, 2)
    return LinearQuadratic(closed_loop - control @ gain, control, *costs, gain, discount=0.97)


def maac_gradient(world, start, weight, horizon, value):
    """By the policy's weights, for rollouts of the true dynamics from ``start`` (N, O)."""
    gain = world.gain.clone().requires_grad_()
    rollout = unroll(start, horizon, world.actor(gain), world.step)
    terminal = value(rollout.observation[-1], rollout.action[-1])
    none = torch.tensor(0.0, dtype=EXACT)
    returns = expanded_return(rollout, terminal, world.discount, none, first_entropy=True)
    return torch.autograd.grad((weight * returns).sum(), gain)[0]


# The closed form.


@pytest.mark.parametrize("seed", range(3))
def test_closed_form_is_the_slope_of_the_return(seed):
    world = random_world(seed)
    moment = positive(torch.Generator().manual_seed(seed), 3)

    def expected_return(gain):
        return -(replace(world, gain=gain).value_matrix() * moment).sum()

    slope = torch.autograd.functional.jacobian(expected_return, world.gain)
    torch.testing.assert_close(world.return_gradient(moment), slope, rtol=1e-8, atol=0)


def test_true_q_satisfies_the_bellman_equation():
    world = random_world(0)
    generator = torch.Generator().manual_seed(0)
    state, action = normal(generator, 5, 3), normal(generator, 5, 2)
    following, reward, _ = world.step(state, action)
    ahead = world.action_value(following, world.act(following))
    torch.testing.assert_close(
        world.action_value(state, action), reward + world.discount * ahead, rtol=1e-9, atol=0
    )


def test_infinite_return_is_refused():
    with pytest.raises(ConfigError, match=r"gain: got \[\[1\.0, 0\.0\]\].*expected less than"):
        double_integrator((1.0, 0.0), 0.99)


# Autograd through the objective, with exact dynamics.


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("seed", range(3))
def test_gradient_with_exact_functions_is_that_of_the_return_at_any_horizon(seed, horizon):
    """Started from the policy's own states every H + 1 steps, so that each action counts once."""
    world = random_world(seed)
    start = normal(torch.Generator().manual_seed(seed), 4, 3)
    states = unroll(start, 200, world.actor(world.gain), world.step).observation
    starts, weight = rollout_starts(states, horizon, world.discount)
    got = maac_gradient(world, starts, weight, horizon, world.action_value)
    expected = world.return_gradient(start.T @ start / len(start))
    assert (got - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("exact_q", [True, False])
def test_gradient_from_one_state_counts_actions_up_to_the_horizon(exact_q, horizon):
    """sum_{t<=H} gamma^t -2 E_t s_t s_t', with E_t from the costs to go of the H-step problem, whatever closes it."""
    world = random_world(1)
    generator = torch.Generator().manual_seed(1)
    start, terminal = normal(generator, 1, 3), positive(generator, 5)
    if exact_q:
        terminal = world.action_value_matrix()

    def value(s, a):
        x = torch.cat((s, a), dim=-1)
        return -((x @ terminal) * x).sum(dim=-1)

    got = maac_gradient(world, start, 1.0, horizon, value)

    states = unroll(start, horizon, world.actor(world.gain), world.step).observation
    stack = torch.cat((torch.eye(3, dtype=EXACT), world.gain))  # x = stack s
    advantage, to_go = terminal[3:] @ stack, stack.T @ terminal @ stack
    expected = torch.zeros_like(world.gain)
    for t in reversed(range(horizon + 1)):
        expected -= world.discount**t * 2.0 * advantage @ states[t].T @ states[t]
        advantage = world.action_cost @ world.gain
        advantage = advantage + world.discount * world.control.T @ to_go @ world.closed_loop
        own = world.state_cost + world.gain.T @ world.action_cost @ world.gain
        to_go = own + world.discount * world.closed_loop.T @ to_go @ world.closed_loop
    assert (got - expected).norm() < 1e-10 * expected.norm()


# Lemma 4.1.


@dataclass(frozen=True)
class Perturbed:
    """A linear world and a quadratic Q, each with a perturbed twin; the weights are the policy's offset or its gain.

    Q(x) = -x' q x and r(x) = slope' x - x' cost x, for x = (s, a).
    """

    f: Tensor  # (O, O + A)
    f_hat: Tensor
    q: Tensor  # (O + A, O + A), symmetric
    q_hat: Tensor
    slope: Tensor  # (O + A,)
    cost: Tensor  # (O + A, O + A), symmetric
    gain: Tensor  # (A, O)
    start: Tensor  # (1, O)
    horizon: int
    weights: str = "offset"
    discount: float = 0.95

    def path(self, f: Tensor, theta: Tensor):
        """The rollout under dynamics ``f``; ``theta`` is added to the weights."""

        def act(s, t):
            gain, offset = self.gain, 0.0
            if self.weights == "gain":
                gain = gain + theta.view_as(gain)
            else:
                offset = theta
            return s @ gain.T + offset, torch.zeros_like(s[:, 0])

        def step(s, a, t):
            x = torch.cat((s, a), dim=1)
            reward = x @ self.slope - ((x @ self.cost) * x).sum(dim=1)
            return Prediction(x @ f.T, reward, torch.zeros_like(reward))

        return unroll(self.start, self.horizon, act, step)

    @property
    def theta(self) -> Tensor:
        size = self.gain.numel() if self.weights == "gain" else len(self.gain)
        return torch.zeros(size, dtype=EXACT)

    def gradient(self, f: Tensor, q: Tensor) -> Tensor:
        theta = self.theta.requires_grad_()
        rollout = self.path(f, theta)
        x = torch.cat((rollout.observation[-1], rollout.action[-1]), dim=1)
        terminal = -((x @ q) * x).sum(dim=1)
        none = torch.tensor(0.0, dtype=EXACT)
        objective = expanded_return(rollout, terminal, self.discount, none, first_entropy=True)
        return torch.autograd.grad(objective.sum(), theta)[0]

    @property
    def error(self) -> float:
        """What the lemma bounds."""
        return size(self.gradient(self.f_hat, self.q_hat) - self.gradient(self.f, self.q))

    def points(self, f: Tensor) -> Tensor:
        """x_t (H + 1, O + A)."""
        return self._stacked(f, self.theta)

    def slopes(self, f: Tensor) -> Tensor:
        """dx_t / dtheta (H + 1, O + A, weights)."""
        return torch.autograd.functional.jacobian(lambda w: self._stacked(f, w), self.theta)

    def _stacked(self, f: Tensor, theta: Tensor) -> Tensor:
        rollout = self.path(f, theta)
        return torch.cat((rollout.observation, rollout.action), dim=-1).squeeze(1)

    @cached_property
    def eps_f(self) -> float:
        return size(self.f_hat - self.f)

    @cached_property
    def eps_q(self) -> float:
        ends = self.points(self.f_hat)[-1], self.points(self.f)[-1]
        return size(2.0 * self.q_hat @ ends[0] - 2.0 * self.q @ ends[1])

    @cached_property
    def slope_q_hat(self) -> float:
        return size(2.0 * self.q_hat @ self.points(self.f_hat)[-1])


def size(x: Tensor) -> float:
    """Spectral norm of a matrix, Euclidean norm of a vector."""
    return float(torch.linalg.matrix_norm(x, 2) if x.dim() == 2 else x.norm())


def perturbed(seed: int, horizon: int, **changes) -> Perturbed:
    """A random world of the proof: the reward is linear, and so is the policy in its weights, whatever the state."""
    generator = torch.Generator().manual_seed(seed)
    f, q = 0.5 * normal(generator, 3, 5), 0.5 * positive(generator, 5)
    case = Perturbed(
        f=f,
        f_hat=f + 0.1 * normal(generator, 3, 5),
        q=q,
        q_hat=q + 0.1 * positive(generator, 5),
        slope=torch.cat((normal(generator, 3), torch.zeros(2, dtype=EXACT))),
        cost=torch.zeros(5, 5, dtype=EXACT),
        gain=0.5 * normal(generator, 2, 3),
        start=normal(generator, 1, 3),
        horizon=horizon,
    )
    return replace(case, **changes)


def quadratic(seed: int, horizon: int, **changes) -> Perturbed:
    """The setting of the study: the reward is quadratic, and the weights are the gain."""
    generator = torch.Generator().manual_seed(1000 + seed)
    changes = {"weights": "gain", "cost": positive(generator, 5)} | changes
    return perturbed(seed, horizon, **changes)


def constants(case: Perturbed) -> tuple[float, float]:
    """c1 and c2 as they stand at the end of appendix A.1, with the L_r that the last line there loses.

    L_f and the growth K of dx_t / dtheta are at least 1 without loss of generality; K = 1 + L will do, for
    dx_{t+1} <= L dx_t + 1.
    """
    gamma, horizon = case.discount, case.horizon
    lipschitz_f = max(1.0, size(case.f), size(case.f_hat))
    ratio = lipschitz_f * (1.0 + size(case.gain))
    growth = 1.0 + ratio

    def series(base: float) -> float:
        return (base**horizon - 1.0) / (base - 1.0)

    model = series(gamma * growth * ratio) - series(gamma * growth)
    c1 = size(case.slope) * ratio / (ratio - 1.0) * model
    c2 = (gamma * growth) ** horizon
    return c1 + case.slope_q_hat * series(ratio) * c2, c2


def followed(case: Perturbed, count_states: bool = True) -> float:
    """The recursion of appendix A.1 with the norms along these rollouts in place of Lipschitz constants.

    The proof leaves out that slopes are taken at different states: of the reward, and of the policy by its weights.
    ``count_states`` adds the difference of the states, which follows eps_f by a recursion of the same kind.
    """
    points, slopes, true_slopes = (
        case.points(case.f_hat),
        case.slopes(case.f_hat),
        case.slopes(case.f),
    )
    lipschitz_f, lipschitz_policy = size(case.f), size(case.gain)
    policy_slope_changes = 1.0 if case.weights == "gain" else 0.0
    state, state_slope, bound = 0.0, 0.0, 0.0
    for t in range(case.horizon + 1):
        there = state if count_states else 0.0
        x_slope = (1.0 + lipschitz_policy) * state_slope + policy_slope_changes * there
        weight = case.discount**t
        if t == case.horizon:
            bound += weight * (case.eps_q * size(true_slopes[t]) + case.slope_q_hat * x_slope)
            break
        reward_slope = size(case.slope - 2.0 * case.cost @ points[t])
        reward_change = 2.0 * size(case.cost) * (1.0 + lipschitz_policy) * there
        bound += weight * (reward_slope * x_slope + reward_change * size(true_slopes[t]))
        state_slope = case.eps_f * size(slopes[t]) + lipschitz_f * x_slope
        state = case.eps_f * size(points[t]) + lipschitz_f * (1.0 + lipschitz_policy) * state
    return bound


@pytest.mark.parametrize("horizon", HORIZONS)
def test_gradient_error_is_within_the_bound_of_the_lemma(horizon):
    for seed in range(20):
        case = perturbed(seed, horizon)
        c1, c2 = constants(case)
        assert 0.0 < case.error <= c1 * case.eps_f + c2 * case.eps_q, seed


@pytest.mark.parametrize("horizon", HORIZONS)
def test_bound_needs_the_term_of_the_critics(horizon):
    case = perturbed(0, horizon)
    case = replace(case, f_hat=case.f)
    c1, c2 = constants(case)
    assert c1 * case.eps_f < case.error <= c2 * case.eps_q


@pytest.mark.parametrize("horizon", HORIZONS[2:])
def test_bound_needs_the_term_of_the_model(horizon):
    nothing = torch.zeros(5, 5, dtype=EXACT)
    case = perturbed(0, horizon, q=nothing, q_hat=nothing)
    c1, c2 = constants(case)
    assert c2 * case.eps_q < case.error <= c1 * case.eps_f


def test_term_of_the_critics_is_attained():
    """One state, one weight: nothing in the bound is to spare, so that a smaller one would be wrong."""
    f = torch.tensor([[2.0, 1.0]], dtype=EXACT)
    q = torch.diag(torch.tensor([2.0, 0.0], dtype=EXACT))
    case = Perturbed(
        f=f,
        f_hat=f,
        q=q,
        q_hat=1.1 * q,
        slope=torch.zeros(2, dtype=EXACT),
        cost=torch.zeros(2, 2, dtype=EXACT),
        gain=torch.tensor([[-1.0]], dtype=EXACT),
        start=torch.ones(1, 1, dtype=EXACT),
        horizon=1,
    )
    # The feedback takes the offset back: ds_1 / dtheta = 1, da_1 / dtheta = 0.
    assert case.error == pytest.approx(case.discount * case.eps_q, rel=1e-12)
    assert followed(case) == pytest.approx(case.error, rel=1e-12)


def test_term_of_the_model_is_attained():
    """The model errs in what the action does, the reward is the state, and nothing is fed back."""
    nothing = torch.zeros(2, 2, dtype=EXACT)
    case = Perturbed(
        f=torch.tensor([[1.0, 1.0]], dtype=EXACT),
        f_hat=torch.tensor([[1.0, 1.1]], dtype=EXACT),
        q=nothing,
        q_hat=nothing,
        slope=torch.tensor([3.0, 0.0], dtype=EXACT),
        cost=nothing,
        gain=torch.zeros(1, 1, dtype=EXACT),
        start=torch.ones(1, 1, dtype=EXACT),
        horizon=2,
    )
    assert case.error == pytest.approx(case.discount * 3.0 * case.eps_f, rel=1e-12)
    assert followed(case) == pytest.approx(case.error, rel=1e-12)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("make", [perturbed, quadratic])
def test_gradient_error_is_within_the_bound_followed_along_the_rollouts(make, horizon):
    for seed in range(20):
        case = make(seed, horizon)
        assert case.error <= followed(case), seed
        if make is perturbed:
            c1, c2 = constants(case)
            assert followed(case) <= c1 * case.eps_f + c2 * case.eps_q, seed


def test_quadratic_rewards_need_the_difference_of_the_states_as_well():
    """The policy brings the true state to zero at once, where the reward is flat; the model's state it does not."""
    nothing = torch.zeros(2, 2, dtype=EXACT)
    case = Perturbed(
        f=torch.tensor([[1.0, 1.0]], dtype=EXACT),
        f_hat=torch.tensor([[1.1, 1.0]], dtype=EXACT),
        q=nothing,
        q_hat=nothing,
        slope=torch.zeros(2, dtype=EXACT),
        cost=torch.diag(torch.tensor([1.0, 0.0], dtype=EXACT)),
        gain=torch.tensor([[-1.0]], dtype=EXACT),
        start=torch.tensor([[1.0]], dtype=EXACT),
        horizon=2,
        weights="gain",
    )
    assert followed(case, count_states=False) < case.error <= followed(case)


# The study.


def test_model_and_critics_of_the_study_learn_the_world():
    world = double_integrator((-1.0, -1.0), 0.9)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    data = collect(world, 20, 0.5, generator)
    learned = learn(world, *data, 800, False, generator)
    got = fitness(world, learned, policy_states(world))
    # Shares of the standard deviation: 1 is what a constant would reach.
    assert got.dynamics < 0.05
    assert got.reward < 0.2
    assert got.critics < 0.5


def test_study_writes_figures_and_a_picture(tmp_path, capsys):
    path = tmp_path / "studies" / "gradient.json"
    options = ["--seeds", "2", "--episodes", "2", "--critic-updates", "20", "--horizons", "0", "4"]
    assert main(["study", "gradient", *options, "--json", str(path)]) == 0
    assert "Lemma 4.1" in capsys.readouterr().out
    found = evidence.read(path)
    assert found.command.startswith("maac study gradient --seeds 2")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    first, second = found.rows
    assert (first["horizon"], second["horizon"]) == (0, 4)
    # The model is not used at H = 0.
    assert first["true_l1"] == first["learned_l1"] == first["known_reward_l1"] > 0.0
    assert first["model_l1"] == 0.0
    assert first["both_l1"] == first["critics_l1"] > 0.0
    assert first["eps_f"] is None
    # Here everything counts, and differs.
    assert len({second[name] for name in ("true_l1", "learned_l1", "known_reward_l1")}) == 3
    assert second["eps_f"] > 0.0
    for row in found.rows:
        assert row["exact_l1"] < 1e-4 * found.details["gradient_l1"]
    assert len(found.details["seeds"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--seeds 0", "--seeds: got 0; expected at least 1"),
        ("--horizons 3 -1", r"--horizons: got [3, -1]; expected numbers of at least 0"),
        ("--discount 1", "--discount: got 1.0; expected more than 0, less than 1"),
        ("--json picture.png", "--json: got 'picture.png'; expected a name that ends in .json"),
    ],
)
def test_options_out_of_range_are_refused(options, message, capsys):
    assert main(["study", "gradient", *options.split()]) == 2
    assert message in capsys.readouterr().err
