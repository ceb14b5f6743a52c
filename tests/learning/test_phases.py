"""The clock that tells where the time of training goes."""

import time

import pytest

from maac_learning.config import load_train_config
from maac_learning.phases import PhaseClock, timed
from maac_learning.trainer import Trainer


def test_time_inside_an_inner_phase_counts_for_that_phase_alone():
    clock = PhaseClock()
    with clock("outer"):
        time.sleep(0.02)
        with clock("inner"):
            time.sleep(0.2)
        with clock("inner"):
            pass
    assert 0.2 <= clock.seconds["inner"] < 0.4
    assert 0.02 <= clock.seconds["outer"] < 0.2
    assert (clock.recorders["inner"].count, clock.recorders["outer"].count) == (2, 1)
    clock.clear()
    assert clock.seconds == {}


def test_a_phase_that_fails_is_counted_and_left():
    clock = PhaseClock()
    with pytest.raises(ZeroDivisionError), clock("outer"), clock("inner"):
        _ = 1 / 0
    with clock("outer"):
        time.sleep(0.01)
    assert clock.recorders["outer"].count == 2
    assert clock.seconds["outer"] >= 0.01


def test_the_device_is_waited_for_at_both_ends_of_a_phase():
    clock, seen = PhaseClock(), []
    clock.synchronize = lambda: seen.append(dict(clock.seconds))
    with clock("a"):
        pass
    assert seen == [{}, {}]  # before the phase was counted


def test_methods_are_counted_for_the_clock_of_their_object():
    class Worker:
        def __init__(self):
            self.phases = PhaseClock()

        @timed("work")
        def work(self, x, y=0):
            """Add."""
            return x + y

    worker = Worker()
    assert worker.work(1, y=2) == 3
    assert worker.phases.recorders["work"].count == 1
    assert Worker.work.__doc__ == "Add."


def test_phases_of_training_sum_to_its_time(tmp_path):
    config = load_train_config(
        "inverted_pendulum",
        overrides={
            "env_steps": 150,
            "random_steps": 100,
            "threads": 1,
            "model": {"hidden": [16, 16], "fit_every": 25, "first_fit_steps": 50, "fit_steps": 50},
            "agent": {"critic_warmup": 3, "hidden": [16, 16]},
            "evaluation": {"every": 50, "episodes": 1},
        },
    )
    trainer = Trainer(config, tmp_path / "run")
    trainer.phases.clear()
    began = time.perf_counter()
    trainer.advance(1000)  # no further than the run goes
    elapsed = time.perf_counter() - began
    assert trainer.env_steps == 150
    assert 0.8 * elapsed < sum(trainer.phase_seconds.values()) <= elapsed
    counts = {name: recorder.count for name, recorder in trainer.phases.recorders.items()}
    fits = 3  # after 100, 125 and 150 steps
    assert counts.pop("rollouts") >= fits
    assert counts == {
        "environment": 150,
        "fit": fits,
        "critic_warmup": 3 * fits,
        "update": 51,
        "evaluation": 2,
    }
