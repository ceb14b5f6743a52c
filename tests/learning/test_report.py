"""The report: curves are checked, aggregated as stated, judged by the bar, and drawn the same way every time."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from rliable import metrics

from maac_learning import evidence
from maac_learning.cli import main
from maac_learning.report.aggregate import aggregate, summarise
from maac_learning.report.curves import find_curves, read_curve
from maac_learning.report.published import Bar, load_published
from maac_learning.report.style import spread
from maac_ros.errors import ResultError

ROOT = Path(__file__).resolve().parents[2]
HEADER = [
    "# maac_ros: 0.1.0",
    "# git_revision: 0123456789ab",
    "# created: 2026-01-02T03:04:05+00:00",
    "# system: Linux x86_64",
    "# torch: 2.13.0, 1 threads",
]
COLUMNS = "env_steps,eval_return,eval_return_std,seconds,model_mse"


def write_lines(folder: Path, lines, place="hopper/default/seed0.csv") -> Path:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_curve(folder: Path, place: str, returns: dict[int, float], settings=None) -> Path:
    """A curve with a minute of wall-clock time for each 1000 steps."""
    header = [*HEADER, *([f"# settings: {json.dumps(settings)}"] if settings else [])]
    rows = [f"{step},{value},1.5,{step * 0.06:g},nan" for step, value in returns.items()]
    return write_lines(folder, [*header, COLUMNS, *rows], place)


def curves_of(folder: Path, *seeds: dict[int, float]):
    for i, returns in enumerate(seeds):
        write_curve(folder, f"hopper/default/seed{i}.csv", returns)
    return find_curves(folder)


# --- files


def test_curve_is_read_with_its_place_provenance_and_settings(tmp_path):
    settings = {"task": "hopper", "seed": 3, "agent": {"horizon": 5}}
    path = write_curve(tmp_path, "hopper/sac/seed3.csv", {500: -1.5, 1000: 20}, settings)
    curve = read_curve(path)
    assert (curve.task, curve.preset, curve.seed) == ("hopper", "sac", 3)
    assert curve.header["git_revision"] == "0123456789ab"
    assert curve.settings == settings
    np.testing.assert_array_equal(curve.env_steps, [500, 1000])
    np.testing.assert_array_equal(curve.returns, [-1.5, 20])
    np.testing.assert_array_equal(curve.seconds, [30, 60])


def test_a_curve_of_the_demo_as_it_was_written_is_read(tmp_path):
    written = (ROOT / "results" / "demo" / "curve.csv").read_text(encoding="utf-8")
    curve = read_curve(
        write_lines(tmp_path, written.splitlines(), "inverted_pendulum/default/seed0.csv")
    )
    assert curve.returns[-1] >= 950
    assert curve.settings["agent"]["horizon"] == 5


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*HEADER[1:], COLUMNS, "1,2,3,4,5"], "the header lacks maac_ros; expected"),
        (["# maac_ros 0.1.0"], "line 1: got '# maac_ros 0.1.0'; expected '# key: value'"),
        (HEADER, "no line with the names of the columns"),
        ([*HEADER, "env_steps,seconds", "1,2"], "line 6: no column 'eval_return', 'eval_return_st"),
        ([*HEADER, COLUMNS], "no evaluation; expected at least one row below line 6"),
        ([*HEADER, COLUMNS, "1,2,3,4,5", "2,3"], "line 8: 2 cells; expected 5, the columns of"),
        ([*HEADER, COLUMNS, "1,x,3,4,5"], "line 7, column 'eval_return': got 'x'; expected a fin"),
        ([*HEADER, COLUMNS, "1,nan,3,4,5"], "line 7, column 'eval_return': got 'nan'; expected"),
        ([*HEADER, COLUMNS, "1.5,2,3,4,5"], "line 7, column 'env_steps': got '1.5'; expected a wh"),
        (
            [*HEADER, COLUMNS, "9,2,3,4,5", "9,2,3,4,5"],
            "line 8, column 'env_steps': got '9'; expected a whole number above 9",
        ),
        ([*HEADER, "# settings: {", COLUMNS], "settings: not valid JSON"),
        (
            [*HEADER, '# settings: {"task": "ant"}', COLUMNS],
            "settings: task: got 'ant'; expected 'hopper'",
        ),
        ([*HEADER, '# settings: {"seed": 4}', COLUMNS], "settings: seed: got 4; expected 0"),
    ],
)
def test_malformed_curves_are_refused_by_file_line_and_column(tmp_path, lines, message):
    path = write_lines(tmp_path, lines)
    with pytest.raises(ResultError) as caught:
        find_curves(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["seed.csv", "seed01.csv", "seed-1.csv", "seed1-old.csv"])
def test_a_curve_not_named_after_its_seed_is_refused(tmp_path, name):
    write_curve(tmp_path, f"hopper/default/{name}", {1: 1})
    with pytest.raises(ResultError, match=f"{name}: expected a name like seed0.csv"):
        find_curves(tmp_path)


def test_committed_results_can_all_be_read():
    results = ROOT / "results"
    find_curves(results)
    for folder in ("bench", "studies"):
        for path in (results / folder).glob("*.json"):
            evidence.read(path)


# --- statistics


def test_interquartile_mean_drops_the_outer_quarters(tmp_path):
    found = aggregate(curves_of(tmp_path, *({10: r, 20: -r} for r in (0.0, 10.0, 20.0, 100.0))))
    np.testing.assert_allclose(found.iqm, [15, -15])
    np.testing.assert_allclose(found.mean, [32.5, -32.5])
    np.testing.assert_allclose(found.std, np.std([0, 10, 20, 100], ddof=1))
    assert (found.low < found.iqm).all()
    assert (found.iqm < found.high).all()


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5, 8, 11])
def test_interquartile_mean_is_that_of_rliable(tmp_path, seeds):
    values = np.random.default_rng(0).normal(size=seeds)
    found = aggregate(curves_of(tmp_path, *({10: v} for v in values)))
    np.testing.assert_allclose(found.iqm, [metrics.aggregate_iqm(values[:, None])])


def test_of_three_seeds_it_is_the_mean_and_the_interval_their_range(tmp_path):
    found = aggregate(curves_of(tmp_path, {10: 1.0}, {10: 4.0}, {10: 10.0}))
    np.testing.assert_allclose([found.iqm, found.mean], 5.0)
    np.testing.assert_allclose([found.low[0], found.high[0]], [1.0, 10.0])


def test_interval_narrows_with_seeds(tmp_path):
    rng = np.random.default_rng(1)
    few = aggregate(curves_of(tmp_path / "few", *({10: v} for v in rng.normal(size=5))))
    many = aggregate(curves_of(tmp_path / "many", *({10: v} for v in rng.normal(size=40))))
    assert many.high[0] - many.low[0] < 0.7 * (few.high[0] - few.low[0])


def test_each_point_counts_the_seeds_that_have_it(tmp_path):
    found = aggregate(curves_of(tmp_path, {10: 1, 20: 2}, {10: 3, 20: 4, 30: 5}, {20: 6}))
    np.testing.assert_array_equal(found.env_steps, [10, 20, 30])
    np.testing.assert_array_equal(found.seeds, [2, 3, 1])
    np.testing.assert_allclose(found.mean, [2, 4, 5])
    np.testing.assert_array_equal(np.isnan(found.low), [False, False, True])
    np.testing.assert_array_equal(np.isnan(found.std), [False, False, True])


def test_intervals_are_the_same_each_time_and_leave_other_random_streams_alone(tmp_path):
    curves = curves_of(tmp_path, *({10: v} for v in (1.0, 2.0, 4.0, 8.0, 9.0)))
    np.random.seed(5)  # noqa: NPY002
    first = aggregate(curves)
    after = np.random.random()  # noqa: NPY002
    second = aggregate(curves)
    np.testing.assert_array_equal([first.low, first.high], [second.low, second.high])
    np.random.seed(5)  # noqa: NPY002
    assert after == np.random.random()  # noqa: NPY002


# --- the bar

AT = Bar(eval_return=100, env_steps=50, kind="mean_at")
WITHIN = Bar(eval_return=100, env_steps=50, kind="reached_within")


@pytest.mark.parametrize(
    ("seeds", "met"),
    [
        ([{50: 90, 60: 500}, {50: 110}], True),
        ([{40: 900, 50: 90}, {50: 109}], False),
        ([{50: 500}, {40: 500}], None),
    ],
)
def test_mean_over_seeds_is_judged_at_the_bars_steps_once_all_are_there(tmp_path, seeds, met):
    assert summarise(curves_of(tmp_path, *seeds), AT).bar_met is met


@pytest.mark.parametrize(
    ("seeds", "met"),
    [
        ([{10: 5, 20: 100}, {40: 120, 50: 3}], True),
        ([{20: 100}, {50: 99, 60: 100}], False),
        ([{20: 100}, {40: 99}], None),
    ],
)
def test_every_seed_is_to_reach_it_within_the_bars_steps(tmp_path, seeds, met):
    found = summarise(curves_of(tmp_path, *seeds), WITHIN)
    assert found.bar_met is met
    assert found.seeds == 2


def test_summary_of_seeds_some_of_which_are_unfinished(tmp_path):
    curves = curves_of(tmp_path, {40: 9, 50: 80, 60: 20}, {40: 10, 50: 100, 60: 100}, {40: 7})
    found = summarise(curves, AT)
    assert (found.seeds, found.seeds_total, found.shortest) == (2, 3, 40)
    assert (found.mean, found.iqm, found.env_steps) == (90, 90, 50)
    assert found.std == pytest.approx(np.sqrt(200))
    assert found.minutes == pytest.approx(0.05)
    assert found.last_over_best == pytest.approx(0.25)
    assert found.reached_at == (50,)


def test_without_a_bar_the_last_evaluation_that_all_seeds_have_counts(tmp_path):
    found = summarise(curves_of(tmp_path, {10: 1, 20: 2, 30: 9}, {10: 3, 20: 4}), None)
    assert (found.env_steps, found.mean, found.bar_met) == (20, 3, None)


def test_no_ratio_to_a_best_return_that_is_not_positive(tmp_path):
    assert summarise(curves_of(tmp_path, {50: -3}), AT).last_over_best is None


def test_published_figures_are_of_the_five_tasks_and_comparable_only_on_the_same_rewards():
    published = load_published()
    tasks = {path.stem for path in (ROOT / "config" / "tasks").glob("*.yaml")}
    assert set(published.tasks) <= tasks
    for method in published.methods:
        assert {*method.returns, *method.converged, *method.own_rewards} <= set(published.tasks)
    paper, dhmbpo = published.methods[:2]
    assert (paper.at("half_cheetah", 50_000), paper.at("hopper", 50_000)) == (10_000, None)
    assert dhmbpo.at("walker2d", 100_000) == 6500
    assert str(published.bar("half_cheetah")) == "7500 at 50k"


# --- drawing


@pytest.mark.parametrize(
    "wanted", [[0.1, 0.9], [0.5] * 5, [0.0, 0.01, 0.02], [0.5, 0.55, 0.98, 1.0]]
)
def test_labels_are_spread_apart_in_order_and_within_the_axes(wanted):
    heights = spread(wanted, gap=0.1)
    assert min(np.diff(heights)) >= 0.1 - 1e-9
    assert heights[0] >= 0
    assert heights[-1] <= 1 + 1e-9
    assert np.mean(heights) == pytest.approx(np.mean(wanted), abs=0.11)


@pytest.fixture
def results(tmp_path):
    """Two presets, one seed short, a custom task, and measurements."""
    folder = tmp_path / "results"
    for seed, end in enumerate((50_000, 50_000, 30_000)):
        curve = {step: step / (5 + seed) for step in range(10_000, end + 1, 10_000)}
        settings = {"task": "half_cheetah", "seed": seed, "agent": {"horizon": 5}}
        write_curve(folder, f"half_cheetah/default/seed{seed}.csv", curve, settings)
    write_curve(folder, "half_cheetah/sac/seed0.csv", {25_000: 1000, 50_000: 3700})
    write_curve(folder, "inverted_pendulum/default/seed0.csv", {500: 7, 1250: 1000})
    write_curve(folder, "my_robot/default/seed0.csv", {500: -7, 1250: -1})
    rows = [{"device": "<cpu>", "p50_ms": 1.23456}, {"device": "cuda", "p50_ms": None}]
    evidence.write(folder / "bench" / "tick.json", "Tick & tock", "bench --fast", rows, seed=0)
    return folder


def test_page_and_pictures_hold_everything_and_need_nothing_else(results, tmp_path, capsys):
    out, table = tmp_path / "out", tmp_path / "table.json"
    (results / "bench" / "tick.png").write_bytes(b"\x89PNG the picture beside it")
    arguments = ["report", "--results", str(results), "--out", str(out), "--json", str(table)]
    assert main(arguments) == 0
    assert re.search(
        r"HalfCheetah +default +7500 at 50k +open: one is at 30k +2 of 3 ", capsys.readouterr().out
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "half_cheetah.png",
        "index.html",
        "inverted_pendulum.png",
        "my_robot.png",
        "overview.png",
    ]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'src="([^,"]*)', page)) == {"data:image/png;base64"}
    assert page.count("<img ") == 5
    assert not re.search(r"https?://|<script|<link", page)
    for text in (
        "HalfCheetah",
        "my_robot",
        "default, seed 1: 50000 steps, maac_ros 0.1.0, revision 0123456789ab",
        "Linux x86_64",
        "&#34;horizon&#34;: 5",
        "yes, at 1250",
        "Tick &amp; tock",
        "<code>bench --fast</code>",
        "&lt;cpu&gt;",
        "1.235",
        "DHMBPO",
        "2 of 3",
        "prefers-color-scheme: dark",
    ):
        assert text in page, text
    # 50 000 / 5 and 50 000 / 6, over 7400 and over 10 000
    assert "<td>1.24</td><td>0.50</td>" in page
    assert "<td>0.92</td><td>0.37</td>" in page
    row = next(row for row in evidence.read(table).rows if row["task"] == "half_cheetah")
    assert row["mean"] == pytest.approx(np.mean([10_000, 50_000 / 6]))
    assert (row["seeds"], row["seeds_total"], row["bar_met"]) == (2, 3, None)
    assert (row["bar_return"], row["bar_env_steps"]) == (7500, 50_000)


def test_report_is_the_same_byte_for_byte(results, tmp_path):
    for name in ("a", "b"):
        assert main(["report", "--results", str(results), "--out", str(tmp_path / name)]) == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_measurements_alone_make_a_page_too(tmp_path):
    evidence.write(tmp_path / "studies" / "horizon.json", "Horizon", "study", [{"horizon": 1}])
    assert main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]
    assert "<h2>Studies</h2>" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        (None, "", r"no results; expected <task>/<preset>/seed<k>\.csv"),
        ("bench/x.json", "{}", r"x\.json: title: missing key"),
        ("hopper/default/seed0.csv", "", r"seed0\.csv: the header lacks maac_ros"),
    ],
)
def test_nothing_is_drawn_of_results_that_are_not_there_or_malformed(
    tmp_path, capsys, place, text, message
):
    if place is not None:
        write_lines(tmp_path, [text], place)
    assert main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
