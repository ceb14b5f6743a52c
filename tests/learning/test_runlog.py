"""The curve: never torn, never with rows twice, and columns that stay under their names."""

import csv
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maac_learning.config import TrainConfig
from maac_learning.runlog import COLUMNS, Row, RunLog, rows_from_tensors, rows_to_tensors
from maac_ros.errors import CheckpointError, ConfigError


def row(steps):
    return Row(steps, steps / 3, 0.0, 1.5, 40.0, 0.1, math.nan, -0.25, 0.1, 1e-30)


def logged(folder, before, after):
    log = RunLog(folder, TrainConfig(), before)
    log.open()
    for each in after:
        log.add(each)
    return log


def table(folder):
    lines = (folder / "curve.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_rows_beyond_the_checkpoint_are_redone_and_not_doubled(tmp_path):
    rows = [row(steps) for steps in (100, 200, 300, 400)]
    logged(tmp_path, [], rows[:3])  # killed here, with a checkpoint at 200
    log = logged(tmp_path, rows[:2], [])
    assert [line["env_steps"] for line in table(tmp_path)] == ["100", "200"]
    for each in rows[2:]:
        log.add(each)
    log.close()
    assert [line["env_steps"] for line in table(tmp_path)] == ["100", "200", "300", "400"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("eval_return")] == [100, 200, 300, 400]


def test_resumed_curve_keeps_its_origin_and_says_where_it_goes_on(tmp_path):
    logged(tmp_path, [], [row(100)])
    origin = [x for x in (tmp_path / "curve.csv").read_text().splitlines() if x.startswith("#")]
    logged(tmp_path, [row(100)], [])
    comments = [x for x in (tmp_path / "curve.csv").read_text().splitlines() if x.startswith("#")]
    assert comments[:-1] == origin
    assert comments[-1].startswith("# resumed after step 100: ")


def test_curve_with_other_columns_is_written_anew_and_never_mixed(tmp_path):
    (tmp_path / "curve.csv").write_text("# old\nseconds,env_steps\n1,100\n\xff")
    logged(tmp_path, [row(100)], [row(200)])
    lines = table(tmp_path)
    assert all(tuple(line) == COLUMNS and None not in line.values() for line in lines)
    assert [line["seconds"] for line in lines] == ["1.5", "1.5"]


def test_large_step_counts_are_written_in_full(tmp_path):
    logged(tmp_path, [], [row(12_345_678)])
    assert table(tmp_path)[0]["env_steps"] == "12345678"


def test_rows_survive_a_checkpoint_exactly():
    rows = [row(100), row(123_456_789)]
    back = rows_from_tensors(rows_to_tensors(rows))
    assert list(map(repr, back)) == list(map(repr, rows))
    assert rows_from_tensors(rows_to_tensors([])) == []


def test_rows_of_an_older_version_are_taken_back_without_what_it_did_not_write():
    tensors = rows_to_tensors([row(100), row(200)])
    del tensors["eval_steps"]
    back = rows_from_tensors(tensors)
    assert [r.env_steps for r in back] == [100, 200]
    assert math.isnan(back[1].eval_steps)
    assert back[1].value == row(200).value


def test_rows_of_unknown_columns_are_refused_by_name():
    tensors = rows_to_tensors([row(100)])
    with pytest.raises(CheckpointError, match=r"columns are actor_loss, .*reward.*; expected .*"):
        rows_from_tensors({**tensors, "reward": torch.zeros(1)})
    del tensors["env_steps"]
    with pytest.raises(CheckpointError, match=r"expected actor_loss, .*env_steps"):
        rows_from_tensors(tensors)


def test_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(ConfigError, match=r"run folder '.*run': cannot be written to: Not a dir"):
        RunLog(tmp_path / "run", TrainConfig()).open()
