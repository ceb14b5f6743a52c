"""Model rollouts for planning: candidates through the learned ensemble, one graph call a model step.

Candidates know nothing of each other until they are compared, so each thread takes a share of them through a whole
rollout; ONNX Runtime lets go of the interpreter while a graph runs. Threads inside the graphs would have to wait for
each other at every layer, and the layers are too small for that.

All memory is laid out once. A call per model step costs about as much as one graph for a whole horizon
(``maac bench planner`` shows both), and leaves every step open to the budget and to the policy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maac_ros.bundle import Bundle
from maac_ros.inference import Array
from maac_ros.scheduling import as_main_thread
from maac_ros.task import PlannerSettings

_LEAST_ROWS = 32
"""With fewer rows for each thread, what another one saves is less than what it costs to wake it."""


WHOLE_ROWS = 16
"""Policy and state value are asked about multiples of so many rows. What does not fill its registers ONNX Runtime
computes in another way, and rounds differently: plans would depend on how candidates are shared out."""


class PlanGraphs(NamedTuple):
    """Names of the graphs of a bundle that plans use.

    ``policy`` is asked on the way, after the first step; ``state_value`` is None where policy and critics close a
    rollout, then by their own graphs.
    """

    step: str
    policy: str
    state_value: str | None

    @classmethod
    def of(cls, bundle: Bundle, settings: PlannerSettings) -> PlanGraphs:
        """Those that ``settings`` ask for, as far as ``bundle`` has them."""
        distilled = settings.model == "distilled" and bundle.distilled_step is not None
        known = settings.terminal_value == "state_value" and bundle.state_value is not None
        return cls(
            "distilled_step" if distilled else "step",
            "distilled_policy" if distilled else "policy",
            "state_value" if known else None,
        )


class Share:
    """Some of the candidates with all their particles, for one thread to take through the model.

    Particle p of the share's candidate n is row n P + p. Any E rows in a row follow the E members of the ensemble, each
    another one, as the draw says.

    Args:
        bundle: its graphs for planning are used, see :class:`PlanGraphs`.
        settings: particles, and which graphs.
        candidates: which of all candidates these are.
        draw: (D, G, E): for model step t, or for all where D is 1, which of a group's E rows each member gets.
        returns: (N,) of all candidates, to write those of these in.

    Attributes:
        candidates: as given.
        policy_action, policy_std: (n, A) of :meth:`ask_policy` at each candidate's first particle, in command units.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: PlannerSettings,
        candidates: slice,
        draw: NDArray[np.int64],
        returns: Array,
    ) -> None:
        manifest = bundle.manifest
        observations, actions = len(manifest.observation), len(manifest.action)
        self.candidates = candidates
        self._particles, self._discount = settings.particles, manifest.discount
        self._reduce = np.amin if settings.terminal_value == "minimum" else np.mean
        self._returns = returns[candidates]
        rows = len(self._returns) * settings.particles
        draws, groups, members = draw.shape
        # Slot order holds a member's rows together.
        self._draw = draw
        self._first_rows = np.arange(0, rows, members)[:, None]
        self._slots = np.arange(rows).reshape(members, groups).T
        self._group = np.arange(groups)[:, None]
        self._slot_row = np.zeros((draws, members, groups), np.int64)
        self._slot_candidate = np.zeros_like(self._slot_row)
        self._row_slot = np.zeros((draws, groups, members), np.int64)
        padded = -(-rows // WHOLE_ROWS) * WHOLE_ROWS
        padded_states = np.zeros((padded, observations), np.float32)
        self._states = padded_states[:rows]
        shape = (members, groups)
        self._slot_states = np.zeros((*shape, observations), np.float32)
        self._slot_actions = np.zeros((*shape, actions), np.float32)
        self._slot_following = np.zeros((*shape, observations), np.float32)
        self._slot_reward = np.zeros(shape, np.float32)
        self._slot_alive = np.zeros(shape, np.float32)
        graphs = PlanGraphs.of(bundle, settings)
        self._step = getattr(bundle, graphs.step).bind(
            {"observation": self._slot_states, "action": self._slot_actions},
            {
                "next_observation": self._slot_following,
                "reward": self._slot_reward,
                "alive": self._slot_alive,
            },
        )
        padded_gain = np.zeros(padded, np.float32)
        self._gain = padded_gain[:rows]
        padded_action = np.zeros((padded, actions), np.float32)
        padded_std = np.zeros_like(padded_action)
        self.policy_action = padded_action[: rows : settings.particles]
        self.policy_std = padded_std[: rows : settings.particles]
        # At the first step all candidates are in the same state.
        self._start = np.zeros((WHOLE_ROWS, observations), np.float32)
        self._start_action = np.zeros((WHOLE_ROWS, actions), np.float32)
        self._start_std = np.zeros_like(self._start_action)
        self._start_policy = bundle.policy.bind(
            {"observation": self._start},
            {"action": self._start_action, "action_std": self._start_std},
        )
        self._policy = getattr(bundle, graphs.policy).bind(
            {"observation": padded_states}, {"action": padded_action, "action_std": padded_std}
        )
        self._close = (
            self._closed_by_critics(bundle, padded_states, padded_action)
            if graphs.state_value is None
            else getattr(bundle, graphs.state_value).bind(
                {"observation": padded_states}, {"value": padded_gain}
            )
        )
        self._total = np.zeros(rows, np.float32)
        self._alive = np.ones(rows, np.float32)
        self._weight, self._steps = 1.0, 0

    def begin(self, observation: Array) -> None:
        """Put every row at ``observation`` (O,), with nothing collected yet."""
        self._states[:] = observation
        self._total.fill(0.0)
        self._alive.fill(1.0)
        self._weight, self._steps = 1.0, 0
        np.add(self._draw, self._first_rows, out=self._slot_row.transpose(0, 2, 1))
        np.floor_divide(self._slot_row, self._particles, out=self._slot_candidate)
        for slot_of, draw in zip(self._row_slot, self._draw, strict=True):
            slot_of[self._group, draw] = self._slots

    def ask_policy(self) -> None:
        """Let ``policy_action`` and ``policy_std`` be the policy's at the present states."""
        if self._steps > 0:
            self._policy()
            return
        self._start[:] = self._states[0]
        self._start_policy()
        self.policy_action[:] = self._start_action[0]
        self.policy_std[:] = self._start_std[0]

    def advance(self, actions: Array) -> None:
        """One model step under ``actions`` (n, A), the same for all particles of a candidate."""
        draw = min(self._steps, len(self._draw) - 1)
        slot_row, slot_candidate, row_slot = (
            each[draw].reshape(-1)
            for each in (self._slot_row, self._slot_candidate, self._row_slot)
        )
        flat = self._slot_states.reshape(len(self._states), -1)
        np.take(self._states, slot_row, axis=0, out=flat, mode="clip")
        flat = self._slot_actions.reshape(len(flat), -1)
        np.take(actions, slot_candidate, axis=0, out=flat, mode="clip")
        self._step()
        flat = self._slot_following.reshape(len(self._states), -1)
        np.take(flat, row_slot, axis=0, out=self._states, mode="clip")
        # The terminal step's own reward counts, and nothing after it.
        np.take(self._slot_reward.reshape(-1), row_slot, out=self._gain, mode="clip")
        self._collect()
        np.take(self._slot_alive.reshape(-1), row_slot, out=self._gain, mode="clip")
        self._alive *= self._gain
        self._weight *= self._discount
        self._steps += 1

    def close(self) -> None:
        """Add the value of the last states under the policy, and write the candidates' returns.

        A return that is not finite is minus infinity: such a candidate must never be chosen.
        """
        self._close()
        self._collect()
        np.mean(self._total.reshape(-1, self._particles), axis=1, out=self._returns)
        np.copyto(self._returns, -np.inf, where=~np.isfinite(self._returns))

    def _closed_by_critics(
        self, bundle: Bundle, padded_states: Array, padded_action: Array
    ) -> Callable[[], None]:
        """A call that lets the gain be what the critics say of the policy's own action at the present states."""
        rows = len(self._states)
        values = np.zeros((bundle.manifest.critics, rows), np.float32)
        act = bundle.policy.bind({"observation": padded_states}, {"action": padded_action})
        assess = bundle.value.bind(
            {"observation": self._states, "action": padded_action[:rows]}, {"value": values}
        )

        def close() -> None:
            act()
            assess()
            self._reduce(values, axis=0, out=self._gain)

        return close

    def _collect(self) -> None:
        """Count the present gain, discounted, where the episode has not ended."""
        self._gain *= self._alive
        self._gain *= self._weight
        self._total += self._gain


class ModelRollouts:
    """N candidates, each propagated by P particles that follow one member of the ensemble at a time.

    Members predict without noise: what the particles of a candidate differ in is what the ensemble does not know. What
    is drawn does not depend on the number of threads.

    Args:
        bundle: its graphs for planning are used, see :class:`PlanGraphs`.
        settings: particles, how members are drawn, and which graphs.
        random: the stream that members are drawn from.
        threads: as many shares, where there are rows enough.

    Attributes:
        candidates: N, the ``settings.candidates`` rounded up so that N P divides by the members.
        shares: the candidates, shared out.
        returns: (N,) of the last rollout.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: PlannerSettings,
        random: np.random.Generator,
        threads: int = 1,
    ) -> None:
        members, particles = bundle.manifest.members, settings.particles
        # So many candidates have rows for whole groups.
        together = members // math.gcd(members, particles)
        blocks = -(-settings.candidates // together)
        self.candidates = blocks * together
        groups = self.candidates * particles // members
        draws = settings.horizon if settings.member_draw == "step" else 1
        self._random = random
        self._draw = np.zeros((draws, groups, members), np.int64)
        self._unshuffled = np.arange(members)
        self.returns = np.zeros(self.candidates, np.float32)
        count = max(1, min(threads, groups * members // _LEAST_ROWS))
        bounds = [blocks * each // count * together for each in range(count + 1)]
        self.shares = [
            Share(
                bundle,
                settings,
                slice(low, high),
                self._draw[:, low * particles // members : high * particles // members],
                self.returns,
            )
            for low, high in itertools.pairwise(bounds)
        ]
        # A planner may be made by a thread that goes before nobody; its own are for control.
        self._pool = (
            ThreadPoolExecutor(count - 1, "planner", initializer=as_main_thread)
            if count > 1
            else None
        )

    def run(self, job: Callable[[Share], bool]) -> bool:
        """Draw members, and let ``job`` take every share through a rollout, side by side; true if all say so.

        An exception of any job is raised when all have ended.
        """
        self._draw[...] = self._unshuffled
        self._random.permuted(self._draw, axis=-1, out=self._draw)
        if self._pool is None:
            return job(self.shares[0])
        others = [self._pool.submit(job, share) for share in self.shares[1:]]
        try:
            done = job(self.shares[0])
        finally:
            wait(others)
        return all([done, *(other.result() for other in others)])

    def close(self) -> None:
        """End the threads, which would else live until the garbage collector comes by."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
