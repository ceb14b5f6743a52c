"""The study of model fits: the fits of training again, measured on what came next."""

import pytest
import torch

from maac_learning import evidence
from maac_learning.cli import main
from maac_learning.config import load_train_config
from maac_learning.studies import model_fit
from maac_learning.studies.model_fit import VARIANTS, refit
from maac_learning.trainer import Trainer

SHORT = {
    "env_steps": 600,
    "random_steps": 200,
    "threads": 1,
    "model": {
        "first_fit_steps": 100,
        "fit_steps": 50,
        "fit_every": 100,
        "members": 2,
        "hidden": [32],
    },
    "agent": {"critic_warmup": 0, "first_updates": 0},
    "evaluation": {"every": 600, "episodes": 1},
}


@pytest.fixture
def run(tmp_path):
    config = load_train_config("inverted_pendulum", overrides=SHORT)
    trainer = Trainer(config, tmp_path / "run")
    trainer.train()
    return trainer


def test_fits_are_those_of_training_and_what_came_next_is_not_among_them(run):
    found = list(refit(run, run.config.model, 10_000, seed=0))
    # The last of the run's own fits has nothing after it.
    assert [each.transitions for each in found] == [200, 300, 400, 500]
    assert all(0.0 < each.held_out < 1.0 for each in found)
    assert [each.transitions for each in refit(run, run.config.model, 350, seed=0)] == [200, 300]
    # What comes next changes the figures of the last fit, and nothing else does.
    altered = run.transitions
    rows = torch.randperm(100, generator=torch.Generator().manual_seed(0)) + 500
    altered.next_observation[500:600] = altered.next_observation[rows]
    again = list(refit(run, run.config.model, 10_000, seed=0))
    assert again[:-1] == found[:-1]
    assert again[-1].held_out == found[-1].held_out
    assert again[-1].following > 5.0 * found[-1].following
    assert again[-1].surprise > found[-1].surprise


def test_errors_have_the_same_units_whatever_the_fit_normalises_by(run, monkeypatch):
    honest = next(iter(refit(run, run.config.model, 10_000, seed=0)))

    def rescaled(model, *arguments):
        report = fit_in_turn(model, *arguments)
        mean, std = model.target.mean.clone(), model.target.std.clone()
        for weight in (model._mlp.weights[-1], model._mlp.biases[-1]):
            weight.data[..., : len(std)] *= 0.5
        model._mlp.biases[-1].data[..., len(std) :] -= 2.0 * torch.log(torch.tensor(2.0))
        model.max_log_var.data -= 2.0 * torch.log(torch.tensor(2.0))
        model.min_log_var.data -= 2.0 * torch.log(torch.tensor(2.0))
        model.target.mean.copy_(mean)
        model.target.std.copy_(2.0 * std)
        return report

    fit_in_turn = model_fit.fit_in_turn
    monkeypatch.setattr(model_fit, "fit_in_turn", rescaled)
    other = next(iter(refit(run, run.config.model, 10_000, seed=0)))
    assert other.following == pytest.approx(honest.following, rel=1e-4)
    assert other.surprise == pytest.approx(honest.surprise, rel=1e-4, abs=1e-3)


def test_command_writes_a_row_for_each_variant_that_changes_something(run, tmp_path, capsys):
    path = tmp_path / "fits.json"
    arguments = ["study", "model-fit", "--runs", str(run.run_dir), "--json", str(path)]
    assert main(arguments) == 0
    rows = evidence.read(path).rows
    # The pendulum has no mirror, and its later fits take steps as large as the first.
    expected = [
        v for v in VARIANTS if v not in ("no-mirror", "no-turn", "no-heading", "large-refits")
    ]
    assert [row["variant"] for row in rows] == expected
    assert all(row["fits"] == 4 for row in rows)
    assert len({row["next"] for row in rows}) == len(rows)
    assert "surprise" in capsys.readouterr().out
    for wrong, message in (
        (["--variants", "none"], "--variants: unknown variant 'none'; expected one of: full"),
        (["--variants", "no-mirror"], "got no-mirror; expected what changes something"),
        (["--until", "250"], "expected more than two fits need, 400, and --until to allow them"),
    ):
        assert main([*arguments, *wrong]) != 0
        assert message in capsys.readouterr().err
