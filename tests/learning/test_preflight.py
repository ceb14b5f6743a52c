"""What cannot work is refused before the first step."""

from pathlib import Path

import pytest

from maac_learning.cli import main
from maac_learning.config import load_train_config
from maac_learning.trainer import Trainer
from maac_ros.errors import ConfigError


def start(run: Path, **overrides) -> Trainer:
    return Trainer(load_train_config("inverted_pendulum", overrides=overrides), run)


@pytest.mark.parametrize("device", ["warp", "cuda:99", "meta"])
def test_device_that_does_not_work_here(tmp_path, device):
    with pytest.raises(ConfigError, match=f"device: got '{device}'; this machine cannot use it"):
        start(tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_run_folder_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run folder '.*file/run': cannot be written to: Not a"):
        start(tmp_path / "file" / "run")


def test_run_folder_on_a_read_only_file_system():
    with pytest.raises(ConfigError, match="run folder '/proc/run': cannot be written to"):
        start(Path("/proc/run"))


def test_run_folder_that_holds_a_run(tmp_path, capsys):
    start(tmp_path / "run")
    assert main(["train", "--run-dir", str(tmp_path / "run")]) == 2
    assert "already holds a run; resume it or choose another" in capsys.readouterr().err


def test_too_few_random_steps_for_a_first_fit(tmp_path):
    with pytest.raises(ConfigError, match="random_steps: got 1; expected at least 2"):
        start(tmp_path / "run", random_steps=1)


def test_more_transitions_than_there_is_room_for(tmp_path):
    with pytest.raises(ConfigError, match=r"env_steps: got 1000000000000; .* takes 44000\.0 GB of"):
        start(tmp_path / "run", env_steps=10**12)


def test_refused_run_leaves_no_run_behind(tmp_path):
    with pytest.raises(ConfigError):
        start(tmp_path / "run", random_steps=1)
    start(tmp_path / "run")


@pytest.mark.parametrize("form", [["--resume", "{}"], ["--resume={}"]])
def test_resume_of_a_folder_without_a_run(tmp_path, capsys, form):
    assert main(["train", *(part.format(tmp_path) for part in form)]) == 2
    assert "is not a run folder: config.yaml is missing" in capsys.readouterr().err


def test_resume_takes_no_other_settings(tmp_path, capsys):
    start(tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path / "run"), "--seed", "3"])
    assert "unrecognized arguments: --seed 3" in capsys.readouterr().err
