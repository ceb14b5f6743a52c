"""Films of evaluation episodes, made without a screen."""

import json

import imageio.v2 as imageio
import numpy as np
import pytest

from maac_learning.cli import main
from maac_learning.video import Video, check_video
from maac_ros.errors import ConfigError


@pytest.fixture
def renders(tmp_path, monkeypatch):
    """Skips where nothing renders; the backend that works is chosen for this test alone."""
    monkeypatch.setenv("MUJOCO_GL", "")
    try:
        check_video(tmp_path / "trial.mp4")
    except ConfigError as reason:
        pytest.skip(str(reason))


def evaluate(bundle, *options) -> int:
    return main(["evaluate", str(bundle.path), *map(str, options)])


def read(path):
    reader = imageio.get_reader(path)
    return reader.get_meta_data(), [np.asarray(frame).astype(int) for frame in reader]


def steps_of_each(path):
    results = json.loads(path.read_text())["results"]
    return {mode: [e["steps"] for e in result["episodes"]] for mode, result in results.items()}


def test_film_shows_the_first_episodes_in_real_time(renders, untrained_bundle, tmp_path, capsys):
    film, results = tmp_path / "film.mp4", tmp_path / "results.json"
    bundle = untrained_bundle("inverted_pendulum")
    options = ("--episodes", 3, "--video", film, "--video-episodes", 2, "--json", results)
    assert evaluate(bundle, *options) == 0
    assert f"video: {film}" in capsys.readouterr().out
    about, frames = read(film)
    steps = steps_of_each(results)["policy"]
    assert about["codec"] == "h264"
    assert about["fps"] == 25.0
    assert (
        len(frames) == sum(steps[:2]) + 2
    )  # the first state of an episode, and one after each step
    assert frames[0].std() > 10.0  # there is something to see,
    assert np.abs(frames[0] - frames[steps[0]]).max() > 50  # and it moves
    assert evaluate(bundle, "--episodes", 3, "--json", results) == 0
    assert steps_of_each(results)["policy"] == steps  # filming changes nothing


def test_each_mode_has_a_film_of_its_own(renders, untrained_bundle, tmp_path):
    bundle, results = untrained_bundle("inverted_pendulum"), tmp_path / "results.json"
    options = ("--episodes", 1, "--mpc", "--video", tmp_path / "film.mp4", "--json", results)
    assert evaluate(bundle, *options) == 0
    for mode, (steps,) in steps_of_each(results).items():
        assert len(read(tmp_path / f"film-{mode}.mp4")[1]) == steps + 1
    assert not (tmp_path / "film.mp4").exists()


def test_fast_robot_is_shown_in_real_time_without_more_frames_than_a_screen_has(tmp_path):
    with Video(tmp_path / "film.mp4", period_s=0.008) as film:  # 125 Hz: every third frame
        for shade in range(0, 250, 25):
            film.add(np.full((48, 64, 3), shade, dtype=np.uint8))
    about, frames = read(tmp_path / "film.mp4")
    assert about["fps"] == pytest.approx(125 / 3, abs=0.01)
    assert [frame.mean() for frame in frames] == pytest.approx([0, 75, 150, 225], abs=5)


def test_machine_that_cannot_render_is_told_what_to_install(tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", "glfw")  # which needs a screen
    with pytest.raises(ConfigError, match=r"apt-get install libegl1.*unset MUJOCO_GL, now 'glfw'"):
        check_video(tmp_path / "film.mp4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--video", "film.txt"], "--video: got 'film.txt'; expected a name in .mp4"),
        (["--video", "/nowhere/film.mp4"], "--video: the folder '/nowhere' does not exist"),
        (["--video-episodes", "0"], "--video-episodes: got 0; expected at least 1"),
    ],
)
def test_film_that_cannot_be_made_is_refused_first(untrained_bundle, capsys, options, message):
    assert evaluate(untrained_bundle("inverted_pendulum"), *options) == 2
    assert message in capsys.readouterr().err
