"""Checkpoints: whole or not there, and what is left of them when a disk or a process fails."""

import shutil

import pytest
import torch

from maac_learning import checkpoint
from maac_ros.errors import CheckpointError

STATE = {"env_steps": 0, "random": {"state": 2**100}, "last": [1.0, float("inf")]}


def save(folder, steps, value=0.0):
    return checkpoint.save(folder, steps, {"a": torch.full((1000,), value)}, STATE)


def names(folder):
    return [path.name for path in checkpoint.available(folder)]


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_to_whole_lines(path):
    """What is left is YAML as good as ever; only its end is missing."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def overwrite(path):
    path.write_text("{: [")


def remove(path):
    path.unlink()


def test_loads_what_was_saved(tmp_path):
    tensors, state = checkpoint.load(save(tmp_path, 5, 2.5))
    assert state == STATE
    assert tensors["a"].tolist() == [2.5] * 1000


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.yaml", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, overwrite, remove])
def test_damaged_checkpoint_gives_way_to_the_previous_one(tmp_path, caplog, name, damage):
    previous, newest = save(tmp_path, 100, 1.0), save(tmp_path, 200, 2.0)
    damage(newest / name)
    value = checkpoint.load_newest(tmp_path, lambda tensors, state: tensors["a"][0].item())
    assert value == 1.0
    assert str(newest / name) in caplog.text or name == "SHA256SUMS"
    assert f"going on from {previous} instead" in caplog.text


def test_state_that_lost_its_last_lines_is_noticed(tmp_path):
    saved = save(tmp_path, 100)
    cut_to_whole_lines(saved / "state.yaml")
    with pytest.raises(CheckpointError, match=r"state\.yaml: damaged"):
        checkpoint.load(saved)


def test_every_unusable_checkpoint_is_listed_when_none_is_left(tmp_path):
    one, two = save(tmp_path, 100), save(tmp_path, 200)
    remove(one / "state.yaml")
    truncate(two / "tensors.safetensors")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_newest(tmp_path, lambda tensors, state: None)
    first, *rest = str(caught.value).splitlines()
    assert first == "no usable checkpoint:"
    assert [line.partition(": ")[0] for line in rest] == [
        str(two / "tensors.safetensors"),
        str(one / "state.yaml"),
    ]


def test_checkpoint_that_lacks_something_gives_way_too(tmp_path, caplog):
    save(tmp_path, 100)
    newest = checkpoint.save(tmp_path, 200, {"b": torch.zeros(1)}, STATE)
    checkpoint.load_newest(tmp_path, lambda tensors, state: tensors["a"])
    assert f"{newest}: does not fit this run's settings: 'a' is missing" in caplog.text


def test_folder_left_half_written_is_not_a_checkpoint_and_is_cleaned_up(tmp_path):
    saved = save(tmp_path, 100)
    shutil.copytree(saved, tmp_path / ".step_000000150.writing")
    assert names(tmp_path) == ["step_000000100"]
    save(tmp_path, 200)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000100", "step_000000200"]


def test_two_checkpoints_are_kept_and_those_of_an_abandoned_course_are_not(tmp_path):
    for steps in (100, 200, 300):
        save(tmp_path, steps)
    assert names(tmp_path) == ["step_000000200", "step_000000300"]
    save(tmp_path, 250)  # the one at 300 was unusable: training went on from 200
    assert names(tmp_path) == ["step_000000200", "step_000000250"]


def test_newer_checkpoint_of_the_same_step_takes_the_place_of_the_older(tmp_path):
    for value in (1.0, 2.0, 3.0):
        saved = save(tmp_path, 100, value)
        assert [tmp_path / name for name in names(tmp_path)] == [saved]
        assert checkpoint.load(saved)[0]["a"][0] == value


def test_checkpoint_that_cannot_be_written_is_an_error_that_says_why(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(CheckpointError, match=r"step_000000100: cannot be written: Not a dir"):
        save(tmp_path / "checkpoints", 100)
