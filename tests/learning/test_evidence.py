"""Files of measurements: what is written is read again, and what does not fit is refused by name."""

import json

import numpy as np
import pytest

from maac_learning import evidence
from maac_ros.errors import ResultError
from maac_ros.version import __version__

ROWS = [
    {"case": "cpu", "p50_ms": np.float32(1.5), "count": np.int64(3), "met": np.bool_(True)},
    {"case": "cuda", "p50_ms": None, "note": "no GPU"},
]


def test_what_is_written_is_read_again_with_provenance_added(tmp_path):
    path = tmp_path / "bench" / "update.json"
    written = evidence.write(path, "Update", "bench --json x", ROWS, raw_ms=np.ones((2, 2)))
    read = evidence.read(path)
    assert read.rows == written.rows
    assert read.rows[0] == {"case": "cpu", "p50_ms": 1.5, "count": 3, "met": True}
    assert [type(cell) for cell in read.rows[0].values()] == [str, float, int, bool]
    assert read.columns == ["case", "p50_ms", "count", "met", "note"]
    assert read.provenance["maac_ros"] == __version__
    assert read.provenance["cores"] >= 1
    assert read.details == {"raw_ms": [[1.0, 1.0], [1.0, 1.0]]}


def test_the_same_measurements_give_the_same_text(tmp_path):
    texts = []
    for name in ("a.json", "b.json"):
        evidence.write(tmp_path / name, "Größe", "c", ROWS, seed=0)
        data = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        del data["provenance"]["created"]
        texts.append(json.dumps(data))
    assert texts[0] == texts[1]
    assert '"title": "Größe",\n' in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"x\.json: rows: got \[\]; .*at least 1"),
        ([{"a": float("nan")}], r"x\.json: rows\.0\.a: got nan; .*finite number.*$"),
        ([{"a": 1}, {"a": [1]}], r"x\.json: rows\.1\.a: got \[1\]; .*expected a text.*$"),
    ],
)
def test_rows_that_are_no_flat_table_are_refused_and_nothing_is_written(tmp_path, rows, message):
    with pytest.raises(ResultError, match=message):
        evidence.write(tmp_path / "x.json", "t", "c", rows)
    assert list(tmp_path.iterdir()) == []


def test_details_that_are_no_json_are_refused(tmp_path):
    for value in (float("inf"), {1, 2}):
        with pytest.raises(ResultError, match=r"x\.json: details: cannot be written as JSON"):
            evidence.write(tmp_path / "x.json", "t", "c", ROWS, value=value)


GOOD = {"schema_version": 1, "title": "t", "command": "c", "provenance": {}, "rows": [{"a": 1}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "x.json: not valid JSON: .*line 1"),
        ('{"rows": NaN}', "x.json: not valid JSON: NaN is no JSON number"),
        ("[1]", "x.json: expected a mapping at the top level, got list"),
        (json.dumps({**GOOD, "schema_version": 2}), r"x\.json: schema_version: got 2"),
        (json.dumps({**GOOD, "row": []}), r"x\.json: row: unknown key"),
        (
            json.dumps({k: v for k, v in GOOD.items() if k != "command"}),
            "command: missing key; it is required",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_by_field(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ResultError, match=message):
        evidence.read(tmp_path / "x.json")


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ResultError, match=r"none\.json: cannot be read: No such file"):
        evidence.read(tmp_path / "none.json")
