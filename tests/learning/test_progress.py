"""What a user sees of a run: the phase, the figures, the time left."""

import math
import subprocess
import sys

import pytest

from maac_learning.config import TrainConfig, load_train_config
from maac_learning.progress import Bar, Pace, Progress, describe, updates_left
from maac_learning.trainer import Trainer

CONFIG = TrainConfig(
    env_steps=3000,
    random_steps=1000,
    model={"fit_every": 500},
    agent={"first_updates": 300, "critic_warmup": 20, "updates_per_step": 0.5},
)


def progress(**changes) -> Progress:
    given = {
        "env_steps": 1000,
        "total_env_steps": 3000,
        "phase": "updating 1200/3000",
        "evaluation_return": 987.6,
        "episode_return": None,
        "model_loss": 0.0512,
        "critic_loss": 0.1,
        "seconds": 10.0,
        "seconds_left": 3700.0,
    }
    return Progress(**{**given, **changes})


def test_updates_left_count_what_is_owed_what_comes_with_steps_and_with_fits():
    assert updates_left(CONFIG, 3000, 0.5) == 0.5
    assert updates_left(CONFIG, 3000, 40.0) == 40.0
    assert updates_left(CONFIG, 2600, 0.0) == 400 * 0.5 + 20  # a fit with the last step
    assert updates_left(CONFIG, 1000, 300.0) == 300 + 2000 * 0.5 + 4 * 20


def test_time_left_comes_from_recent_updates_alone():
    pace = Pace(CONFIG)
    assert math.isnan(pace.seconds(100))
    assert pace.seconds(0) == 0.0
    pace.mark(0, now=500.0)  # hundreds of seconds of random steps and of the first fit do not count
    for update in range(1, 101):
        pace.mark(update, now=500.0 + 0.1 * update)
    assert pace.seconds(1000) == pytest.approx(100.0, rel=0.01)
    for update in range(101, 3000):  # the machine has become slower
        pace.mark(update, now=510.0 + 0.5 * (update - 100))
    assert pace.seconds(1000) == pytest.approx(500.0, rel=0.01)


def test_line_says_phase_return_model_error_and_time_left():
    assert describe(progress()) == "updating 1200/3000, return 988, model error 0.051, 1:01:40 left"
    early = progress(
        phase="collecting", evaluation_return=None, model_loss=math.nan, seconds_left=math.nan
    )
    assert describe(early) == "collecting, return –, model error –"


def test_warnings_stand_above_the_bar(capsys):
    with Bar(3000, 0) as bar:
        bar.show(progress(warnings=("since env step 1000: the critics",)))
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert "warning: since env step 1000: the critics" in lines
    assert "updating 1200/3000, return 988" in lines[-1]
    assert "1000/3000" in lines[-1]


def test_run_tells_every_phase_and_each_catching_up(tmp_path, monkeypatch):
    monkeypatch.setattr("maac_learning.trainer._PROGRESS_SECONDS", 0.0)
    overrides = {
        "env_steps": 230,
        "random_steps": 200,
        "threads": 1,
        "model": {"first_fit_steps": 50, "hidden": [32, 32], "fit_every": 20, "fit_steps": 50},
        "rollout": {"batch": 30},
        "agent": {"critic_warmup": 12, "hidden": [32, 32], "horizon": 2, "first_updates": 30},
        "evaluation": {"every": 10, "episodes": 1},
    }
    trainer = Trainer(load_train_config("inverted_pendulum", overrides=overrides), tmp_path / "run")
    seen: list[Progress] = []
    trainer.train(seen.append)
    phases = [x.phase for i, x in enumerate(seen) if not i or x.phase != seen[i - 1].phase]
    warm_up = [f"updating {done}/12" for done in range(12)]
    assert phases[: 2 + 12] == ["collecting", "fitting model", *warm_up]
    assert phases[2 + 12 : 2 + 12 + 31] == [f"updating {done}/31" for done in range(31)]
    assert phases[2 + 12 + 31 :] == [
        "evaluating",
        "collecting",
        "evaluating",
        "collecting",
        "fitting model",
        *warm_up,
        "evaluating",
        "collecting",
        "evaluating",
        "finished",
    ]
    before = next(x for x in seen if x.phase == "fitting model")
    assert math.isnan(before.seconds_left)
    after = [x.seconds_left for x in seen if x.phase == "updating 30/31"]
    assert all(0.0 < left < 600.0 for left in after)
    assert seen[-1].seconds_left == 0.0


def test_bar_goes_on_while_a_fit_takes_its_time(tmp_path):
    """A terminal sees the clock move although the trainer is silent."""
    program = (
        "import sys, time; sys.stderr.isatty = lambda: True\n"
        "from maac_learning.progress import Bar\n"
        "with Bar(10, 0) as bar: time.sleep(2.6)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "[00:01" in done.stderr
    assert "[00:02" in done.stderr
