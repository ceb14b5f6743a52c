"""The ablation study: variants that differ as said, runs gone on with, words that follow from the curves."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from maac_learning import evidence
from maac_learning.benchmarks.runs import differences
from maac_learning.cli import main
from maac_learning.report.published import Bar
from maac_learning.report.style import spread
from maac_learning.studies.ablation_results import Outcome, effect_of, row, share_of_area
from maac_learning.studies.ablations import AblationsArguments, plan
from maac_learning.studies.variants import FULL, VARIANTS
from maac_ros.errors import ConfigError

TINY = """
env_steps: 200
random_steps: 100
model: {members: 2, hidden: [16, 16], fit_every: 50, first_fit_steps: 50, fit_steps: 50}
rollout: {batch: 20}
agent: {hidden: [16, 16], batch_size: 32, critics: 3, critic_warmup: 0}
evaluation: {every: 50, episodes: 1}
"""


@pytest.fixture
def options(tiny_run):
    """A tiny study of one task, one seed."""
    return ["study", "ablations", *tiny_run(TINY)]


def changes(preset, task="half_cheetah"):
    """What each variant of a plan changes, as dotted settings."""
    arms = plan(AblationsArguments(tasks=(task,), preset=preset, seeds=(0,))).arms
    full = arms[0].runs[0].settings
    assert arms[0].variant is FULL
    return {
        arm.variant.name: {
            key: value for key, (_, value) in differences(full, arm.runs[0].settings).items()
        }
        for arm in arms[1:]
    }


def test_variants_of_the_paper_preset_are_those_of_figures_4_and_5():
    assert changes("paper") == {
        "h0": {"agent.horizon": 0},
        "no-steve": {"agent.steve": False, "agent.critic_horizon": 0},
        "single-sample": {"agent.terminal_samples": 1},
        "5x-batch": {"agent.terminal_samples": 1, "agent.batch_size": 1280},
        "real-data": {"rollout.real_fraction": 1.0},
        "no-entropy": {"agent.entropy": False},
    }


def test_variants_of_the_default_preset_lack_what_this_project_adds():
    assert changes("default") == {
        "h0": {"agent.horizon": 0},
        "5x-batch": {"agent.batch_size": 1280},
        "real-data": {"rollout.real_fraction": 1.0},
        "no-entropy": {"agent.entropy": False},
        "unbounded-critics": {"agent.bounded_values": False},
        "two-critics": {"agent.critics": 2},
        "no-layer-norm": {"agent.critic_norm": "none"},
        "no-warm-up": {"agent.critic_warmup": 0},
    }
    ant = changes("default", "ant")
    assert [ant[f"no-{of}"] for of in ("mirror", "turn", "heading")] == [
        {"model.mirror": False},
        {"model.turn": False},
        {"model.heading": False},
    ]
    arm = changes("default", "two_joint_arm")
    assert arm["plain-likelihood"] == {"model.variance_power": 0.0}
    assert arm["no-layer-norm"] == {"agent.policy_norm": "none", "agent.critic_norm": "none"}


def test_variant_that_the_preset_is_already_is_left_out_with_a_word_or_refused_when_asked_for():
    planned = plan(AblationsArguments(tasks=("inverted_pendulum", "half_cheetah"), seeds=(0,)))
    assert (
        "inverted_pendulum: two-critics is left out: preset 'default' is that already"
        in planned.left_out
    )
    assert not any(text.startswith("half_cheetah: two-critics") for text in planned.left_out)
    with pytest.raises(
        ConfigError, match=r"--variants: got no-steve; expected .* 'default' is that"
    ):
        plan(AblationsArguments(variants=("h0", "no-steve")))


def test_runs_are_planned_seed_by_seed_in_folders_of_their_own_and_never_end_early():
    planned = plan(AblationsArguments(seeds=(0, 1), variants=("h0",)))
    assert list(map(str, planned.runs))[:5] == [
        "inverted_pendulum default full seed 0",
        "inverted_pendulum default h0 seed 0",
        "half_cheetah default full seed 0",
        "half_cheetah default h0 seed 0",
        "inverted_pendulum default full seed 1",
    ]
    last = planned.runs[-1]
    assert str(last.folder) == "runs/studies/ablations/half_cheetah/default/h0-seed1"
    assert str(last.result) == "results/studies/ablations/half_cheetah/default/h0/seed1.csv"
    steps = {run.task: run.settings.env_steps for run in planned.runs}
    assert steps == {"inverted_pendulum": 5000, "half_cheetah": 15_000}
    assert {run.settings.evaluation.stop_at_return for run in planned.runs} == {None}


def test_steps_that_are_asked_for_come_before_the_studys_own(tmp_path):
    (tmp_path / "more.yaml").write_text("env_steps: 16000\n")
    chosen = {"tasks": ("half_cheetah",), "seeds": (0,), "variants": ("h0",)}
    for more, expected in (
        ({"config": tmp_path / "more.yaml"}, 16_000),
        ({"config": tmp_path / "more.yaml", "env_steps": 17_000}, 17_000),
    ):
        (first, _) = plan(AblationsArguments(**chosen, **more)).runs
        assert first.settings.env_steps == expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants", "h1"], "unknown variant 'h1'; expected one of: full, h0"),
        (["--seeds"], "--seeds: got none"),
        (["--jobs", "0"], "--jobs: got 0"),
        (["--json", "out.txt"], "--json: got 'out.txt'"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(tmp_path, options, more, message, capsys):
    assert main([*options, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_signal_stops_the_study_before_anything_is_evaluated(tmp_path, options, capsys):
    usual = signal.getsignal(signal.SIGINT)

    def interrupt():
        deadline = time.monotonic() + 30
        while signal.getsignal(signal.SIGINT) is usual and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert main([*options, "--variants", "h0", "--json", str(tmp_path / "none.json")]) == 130
    assert "stopping with checkpoints" in capsys.readouterr().out
    assert not (tmp_path / "none.json").exists()


@pytest.mark.slow
def test_study_ends_in_table_evidence_and_picture(tmp_path, options, capsys):
    options += ["--variants", "h0", "--json", str(tmp_path / "ablations.json")]
    curve = tmp_path / "results/inverted_pendulum/default/full/seed3.csv"
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "H = 0" in printed
    assert "the paper: a severe drop" in printed
    found = evidence.read(tmp_path / "ablations.json")
    full, h0 = found.rows
    assert (full["variant"], full["setting"], full["area_share_of_full"]) == ("full", "", 1.0)
    assert (full["effect"], full["as_in_paper"]) == (None, None)
    assert (h0["variant"], h0["setting"]) == ("H = 0", "agent.horizon 0")
    assert h0["area_share_of_full"] > 0
    assert all(line["finished"] and line["env_steps"] == 200 for line in found.rows)
    lines = [line.split(",") for line in curve.read_text().splitlines() if line[0] != "#"]
    assert [line[0] for line in lines] == ["env_steps", "100", "150", "200"]
    assert full["final_return"] == float(lines[-1][1])
    assert full["best_return"] == max(float(line[1]) for line in lines[1:])
    assert found.details["full_settings"]["inverted_pendulum"]["agent"]["horizon"] == 5
    assert os.path.getsize(tmp_path / "ablations.png") > 10_000

    assert main([*options, "--env-steps", "250"]) == 2
    assert "env_steps 200 (now 250)" in capsys.readouterr().err


def curves(name, *returns, steps=(0, 100, 200)):
    """An outcome of made-up curves, one a seed."""
    return Outcome(
        task="ant",
        variant=VARIANTS[name],
        setting="",
        seeds=tuple(range(len(returns))),
        env_steps=np.array(steps),
        returns=np.array(returns, dtype=float),
        seconds=(1.0,) * len(returns),
        finished=True,
    )


def test_area_is_that_under_the_mean_curve_over_the_steps_both_have():
    full = curves("full", [0, 10, 10], [0, 30, 30])
    assert share_of_area(curves("h0", [0, 10, 20]), full) == pytest.approx(2000 / 3000)
    shorter = curves("h0", [0, 10], steps=(0, 100))
    assert share_of_area(shorter, full) == pytest.approx(0.5)
    uneven = curves("h0", [10, 20, 20], steps=(0, 50, 200))
    assert share_of_area(uneven, curves("full", [4, 4, 4])) == pytest.approx(15 / 4)


def test_area_relative_to_one_that_is_not_positive_is_not_given():
    full = curves("full", [-10, -10, 0])
    found = curves("h0", [0, 10, 20])
    assert share_of_area(found, full) is None
    assert effect_of(found, full) is None
    assert row(found, full, None)["as_in_paper"] is None


@pytest.mark.parametrize(
    ("level", "effect"),
    [(40, "severe drop"), (80, "drop"), (93, "no clear difference"), (120, "gain")],
)
def test_effect_is_named_by_the_share_of_the_area(level, effect):
    full = curves("full", [100, 100, 100])
    assert effect_of(curves("h0", [level] * 3), full) == effect


def test_difference_within_the_noise_of_the_seeds_is_not_called_one():
    full = curves("full", [100] * 3, [101] * 3, [99] * 3)
    noisy = curves("h0", [30] * 3, [100] * 3, [110] * 3)
    steady = curves("h0", [79] * 3, [80] * 3, [81] * 3)
    assert noisy.returns.mean() == steady.returns.mean() == 80
    assert effect_of(noisy, full) == "no clear difference"
    assert effect_of(steady, full) == "drop"


@pytest.mark.parametrize(
    ("name", "level", "as_in_paper"),
    [
        ("h0", 40, True),
        ("h0", 80, False),
        ("no-steve", 100, True),
        ("single-sample", 80, True),  # ant is not simple
        ("no-entropy", 120, False),
        ("5x-batch", 40, None),  # of which the paper says nothing in words
    ],
)
def test_effect_is_compared_with_what_the_paper_says(name, level, as_in_paper):
    found = row(curves(name, [level] * 3), curves("full", [100] * 3), None)
    assert found["as_in_paper"] is as_in_paper


def test_row_has_spread_over_seeds_best_mean_and_steps_until_solved():
    found = curves("full", [0, 960, 940], [0, 900, 920])
    bar = Bar(eval_return=950, env_steps=100, kind="reached_within")
    line = row(found, found, bar)
    assert line["final_return"] == 930
    assert line["final_return_std"] == pytest.approx(np.std([940, 920], ddof=1))
    assert line["best_return"] == 930
    assert line["solved_at"] == "100, never"
    assert row(curves("full", [0, 1, 2]), found, None)["final_return_std"] is None


def test_as_many_labels_as_there_are_variants_fit_beside_a_panel():
    heights = spread([0.5] * len(VARIANTS), gap=0.052)
    assert 0 <= heights[0] <= heights[-1] <= 1
