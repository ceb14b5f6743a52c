"""Linear dynamics, quadratic cost and linear policy: the world whose policy gradient is known in closed form.

With ``s' = A s + B a``, ``r(s, a) = -(s' W s + a' R a)`` and ``a = K s``, the returns are quadratic forms::

    V(s)    = -s' P s          P = W + K' R K + gamma (A + B K)' P (A + B K)
    Q(s, a) = -x' M x          x = (s, a),  M = diag(W, R) + gamma (A, B)' P (A, B)
    dJ/dK   = -2 E S           E = R K + gamma B' P (A + B K),  S = sum_t gamma^t E[s_t s_t']

and P and S are solutions of discrete Lyapunov equations. Sizes: O observations, A actions, B rows. Everything here is
in double precision, so that what is measured against it is the error of something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maac_learning.dynamics import Prediction
from maac_learning.objectives import Act
from maac_ros import schema
from maac_ros.errors import ConfigError, TaskError
from maac_ros.task import Task

PERIOD_S = 0.1
"""Control period of the double integrator, s."""


@dataclass(frozen=True)
class LinearQuadratic:
    """A linear world with quadratic cost under one linear policy.

    Attributes:
        transition: A (O, O).
        control: B (O, A).
        state_cost: W (O, O), symmetric.
        action_cost: R (A, A), symmetric.
        gain: K (A, O), the policy's weights.
        discount: gamma.

    Raises:
        ConfigError: when the return under this policy is infinite.
    """

    transition: Tensor
    control: Tensor
    state_cost: Tensor
    action_cost: Tensor
    gain: Tensor
    discount: float

    def __post_init__(self) -> None:
        radius = self.spectral_radius
        limit = 1.0 / math.sqrt(self.discount)
        if not radius < limit:
            raise ConfigError(
                f"gain: got {self.gain.tolist()}, under which the closed loop has spectral radius {radius:.4g}; "
                f"expected less than {limit:.4g}, or the discounted return is infinite"
            )

    @property
    def closed_loop(self) -> Tensor:
        """A + B K (O, O)."""
        return self.transition + self.control @ self.gain

    @property
    def spectral_radius(self) -> float:
        """Of the closed loop: the rate at which states decay, a step."""
        return float(torch.linalg.eigvals(self.closed_loop.detach()).abs().max())

    @property
    def jacobian(self) -> Tensor:
        """Derivative (O, O + A) of the next state by state and action."""
        return torch.cat((self.transition, self.control), dim=1)

    def act(self, observation: Tensor) -> Tensor:
        """Actions (..., A) of the policy for states (..., O), in their dtype."""
        return self.actor(self.gain)(observation, 0)[0]

    def actor(self, gain: Tensor) -> Act:
        """The linear policy with weights ``gain`` (A, O), for :func:`~maac_learning.objectives.unroll`."""
        return lambda s, t: (s @ gain.to(s.dtype).T, torch.zeros_like(s[..., 0]))

    def step(self, observation: Tensor, action: Tensor, t: int = 0) -> Prediction:
        """The true step from (B, O) under (B, A), in their dtype, at any time; nothing terminates."""
        following = (
            observation @ self.transition.to(observation.dtype).T
            + action @ self.control.to(action.dtype).T
        )
        reward = self.reward(observation, action)
        return Prediction(following, reward, torch.zeros_like(reward))

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        """r(s, a) (...) for states (..., O) and actions (..., A)."""
        return -(
            _quadratic(observation, self.state_cost.to(observation.dtype))
            + _quadratic(action, self.action_cost.to(action.dtype))
        )

    def value_matrix(self) -> Tensor:
        """P (O, O), with V(s) = -s' P s."""
        cost = self.state_cost + self.gain.T @ self.action_cost @ self.gain
        return solve_lyapunov(math.sqrt(self.discount) * self.closed_loop.T, cost)

    def action_value_matrix(self) -> Tensor:
        """M (O + A, O + A), with Q(s, a) = -x' M x."""
        ahead = self.jacobian.T @ self.value_matrix() @ self.jacobian
        return torch.block_diag(self.state_cost, self.action_cost) + self.discount * ahead

    def action_value(self, observation: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) (B,) of the policy with weights ``self.gain``; a function of states and actions alone."""
        x = torch.cat((observation, action), dim=-1)
        return -_quadratic(x, self.action_value_matrix().to(x.dtype))

    def occupancy(self, start_moment: Tensor) -> Tensor:
        """S = sum_t gamma^t E[s_t s_t'] (O, O) for E[s_0 s_0'] = ``start_moment``."""
        return solve_lyapunov(math.sqrt(self.discount) * self.closed_loop, start_moment)

    def return_gradient(self, start_moment: Tensor) -> Tensor:
        """dJ/dK (A, O) of the expected discounted return J from states with E[s_0 s_0'] = ``start_moment``."""
        return self.gradient_of(self.occupancy(start_moment))

    def gradient_of(self, moment: Tensor) -> Tensor:
        """-2 E ``moment``: E[dQ/da s'] (A, O) over states with that second moment (O, O)."""
        advantage = self.action_cost @ self.gain + self.discount * (
            self.control.T @ self.value_matrix() @ self.closed_loop
        )
        return -2.0 * advantage @ moment


def solve_lyapunov(factor: Tensor, constant: Tensor) -> Tensor:
    """The X (O, O) with X = ``factor`` X ``factor``' + ``constant``, as one linear system in its O^2 entries."""
    identity = torch.eye(factor.numel(), dtype=factor.dtype)
    flat = torch.linalg.solve(identity - torch.kron(factor, factor), constant.flatten())
    return flat.view_as(constant)


def double_integrator(gain: tuple[float, float], discount: float) -> LinearQuadratic:
    """A mass of 1 kg on a frictionless slide, pushed with a force (N) that is constant over each control period.

    The state is position (m) and velocity (m/s); the step is exact. The cost is position^2 + velocity^2 / 10 +
    force^2 / 10.

    Args:
        gain: the policy's weights, N/m and N s/m.
        discount: gamma, a control step.

    Raises:
        ConfigError: when the return under this gain is infinite.
    """
    exact = torch.float64
    return LinearQuadratic(
        transition=torch.tensor([[1.0, PERIOD_S], [0.0, 1.0]], dtype=exact),
        control=torch.tensor([[0.5 * PERIOD_S**2], [PERIOD_S]], dtype=exact),
        state_cost=torch.diag(torch.tensor([1.0, 0.1], dtype=exact)),
        action_cost=torch.tensor([[0.1]], dtype=exact),
        gain=torch.tensor([gain], dtype=exact),
        discount=discount,
    )


def double_integrator_task() -> Task:
    """What the model ensemble asks of a task: the entries of the observation, and that nothing terminates."""
    description = {
        "schema_version": 1,
        "name": "double_integrator",
        "description": "A mass on a frictionless slide, in closed form.",
        "robot": {"joints": {"slide": {"type": "prismatic"}}},
        # Never made: the step above is exact, a simulator's would be one more source of error.
        "simulation": {"gymnasium_id": "none", "episode_steps": 1},
        "control": {"period_s": PERIOD_S},
        "observation": [
            {"term": "joint_position", "joints": ["slide"]},
            {"term": "joint_velocity", "joints": ["slide"]},
        ],
        "action": [{"term": "effort", "joints": ["slide"], "gear": [1.0], "limits": [-1.0, 1.0]}],
        "reward": {"source": "environment"},
    }
    return schema.parse(description, Task, "double integrator", TaskError)


def _quadratic(x: Tensor, matrix: Tensor) -> Tensor:
    """x' matrix x for each row (..., n)."""
    return ((x @ matrix) * x).sum(dim=-1)
