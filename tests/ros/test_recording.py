"""What a controller did, taken down and done again."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from loop_rig import SECOND, Rig
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from maac_learning.cli import main
from maac_learning.export import export_untrained_bundle
from maac_ros.bundle import load_bundle
from maac_ros.controller import Controller, Mode
from maac_ros.errors import RecordingError
from maac_ros.modes import Rules
from maac_ros.observation import JointReading
from maac_ros.recording import FlightRecorder, Heading, RecordedTick, Settings, read_recording
from maac_ros.replay import Replayer
from maac_ros.task import Task


@pytest.fixture(scope="module")
def bundle(untrained_bundle):
    return untrained_bundle("inverted_pendulum")


@pytest.fixture
def recorder(tmp_path):
    made = FlightRecorder(tmp_path / "recordings", "/robot/policy_node")
    yield made
    made.close()


class FitfulMachine:
    """Steady seconds of a machine that now and then is slow: budgets cut plans short however fast the real one is."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.now_s = 0.0

    def __call__(self):
        self.now_s += 5e-5 * self.random.choice([1.0, 1.0, 1.0, 8.0])
        return self.now_s


def eventful_run(bundle, recorder, ticks, seed):
    """Drive a loop with all that can befall it; the controller's seed is part of what a replay must find out."""
    random = np.random.default_rng(seed)
    clock = FitfulMachine(seed)
    rig = Rig(bundle, "observation", recorder=recorder, clock=clock, action_rate_limit=50.0)
    successor = Controller(bundle, rig.controller.settings, seed=7, clock=clock)
    rig.loop.start()
    stamp_ns = rig.now_ns
    for tick in range(ticks):
        settings = rig.loop.controller.settings
        match random.integers(12):
            case 0 | 1:
                use_mpc = bool(random.random() < 0.8)
                rig.loop.configure(dataclasses.replace(settings, use_mpc=use_mpc))
            case 2:
                budget_s = float(random.choice([2e-4, 1e-3, 2e-3, 1.0]))
                rig.loop.configure(dataclasses.replace(settings, mpc_budget_s=budget_s))
            case 3:
                candidates = int(random.choice([8, 64, 128]))
                planner = settings.planner.model_copy(update={"candidates": candidates})
                rig.loop.configure(dataclasses.replace(settings, planner=planner))
            case 4 if not rig.loop.controller.stopped:
                sent = len(rig.sent)
                rig.loop.latch_stop("by hand")
                rig.until_sent(sent + 1)
            case 5 | 6 if rig.loop.controller.stopped:
                rig.loop.clear_stop()
            case 7 if tick == ticks // 2:
                rig.loop.stop()
                rig.loop.start()
        if tick == ticks // 3:
            rig.loop.swap(successor, settings)
        position = random.normal(0.0, 0.05, 2)
        if random.random() < 0.05:
            position[1] = random.choice([np.nan, 1e9])
        stamp_ns += 40_000_000
        rig.now_ns = stamp_ns + int(random.choice([0, 0, 0, 0, SECOND]))
        sent = len(rig.sent)
        rig.put(stamp_ns, JointReading(position, random.normal(0.0, 0.2, 2)))
        rig.until_sent(sent + 1)
    rig.loop.stop()
    assert rig.failures == []
    recorder.close()


@pytest.mark.parametrize("seed", [0, 1])
def test_replay_repeats_every_command_whatever_befell(bundle, recorder, seed):
    eventful_run(bundle, recorder, 250, seed)
    assert (recorder.failure, recorder.lost) == ("", 0)
    lines = list(read_recording(recorder.folder))
    ticks = [line for line in lines if isinstance(line, RecordedTick)]
    outcome = Replayer(lambda heading: load_bundle(heading.bundle)).run(lines)
    assert outcome.identical, outcome.first
    assert outcome.ticks.total() == len(ticks) >= 250
    assert set(outcome.ticks) == set(Mode)
    assert {t.plan_iterations for t in ticks if t.mode is Mode.MPC} > {
        bundle.task.planner.iterations
    }
    assert outcome.other_files == set()


def test_robot_that_is_told_positions_is_repeated_from_before_its_joints_are_known(
    recorder, untrained_bundle
):
    rig = Rig(
        untrained_bundle("servo_robot"),
        "timer",
        recorder=recorder,
        action_rate_limit=2.0,
        rules=Rules(1, np.inf),
    )
    random = np.random.default_rng(0)
    rig.loop.start()
    rig.until(lambda: len(rig.ticks) > 3)
    for tick in range(40):
        rig.now_ns += 20_000_000
        position = random.normal(0.02, 0.01, 3)
        if tick % 5 == 4:
            position[0] = np.nan
        done = len(rig.ticks)
        rig.put(rig.now_ns, JointReading(position, np.zeros(3)))
        rig.until(lambda done=done: len(rig.ticks) > done + 1)
    rig.loop.stop()
    recorder.close()
    lines = list(read_recording(recorder.folder))
    ticks = [line for line in lines if isinstance(line, RecordedTick)]
    assert np.isnan(ticks[0].values[1:]).all()
    assert {tick.mode for tick in ticks} == {Mode.SAFE, Mode.POLICY}
    outcome = Replayer(lambda heading: load_bundle(heading.bundle)).run(lines)
    assert outcome.identical, outcome.first
    changed = [
        line.model_copy(update={"values": (9.0, *line.values[1:])})
        if isinstance(line, RecordedTick)
        else line
        for line in lines
    ]
    assert Replayer(lambda heading: load_bundle(heading.bundle)).run(changed).differing == len(
        ticks
    )


def test_safe_command_that_follows_the_joints_is_repeated_too(bundle, recorder, tmp_path):
    task = bundle.task.model_dump(mode="json")
    task["action"][0]["safe"] = {"stiffness": 40.0, "damping": 20.0}
    made = export_untrained_bundle(Task.model_validate(task), tmp_path / "bundle")
    eventful_run(made, recorder, 150, seed=2)
    lines = list(read_recording(recorder.folder))
    safe = [line for line in lines if isinstance(line, RecordedTick) and line.mode is Mode.SAFE]
    assert {tick.joints is None for tick in safe} == {True, False}
    assert len({tick.values for tick in safe}) > 1
    outcome = Replayer(lambda heading: load_bundle(heading.bundle)).run(lines)
    assert outcome.identical, outcome.first
    torn = [
        line.model_copy(update={"joints": (0.0,)}) if isinstance(line, RecordedTick) else line
        for line in lines
    ]
    with pytest.raises(RecordingError, match=r"tick 0: joints: 1 entries; expected 4"):
        Replayer(lambda heading: load_bundle(heading.bundle)).run(torn)


def test_replay_names_the_first_tick_that_another_bundle_commands_otherwise(
    bundle, recorder, capsys
):
    recorded(bundle, recorder, 3)
    assert main(["replay", str(recorder.folder)]) == 0
    assert "every command is repeated; largest difference 0\n" in capsys.readouterr().out
    assert main(["replay", str(recorder.folder), "--bundle", "inverted_pendulum"]) == 1
    told = capsys.readouterr().out
    assert "the bundle is not the recorded one: golden.npz, model.onnx" in told
    assert "first difference: tick 0 (observation stamped 100.040000 s): slider/effort: " in told
    assert "3 ticks differ" in told
    assert (
        main(["replay", str(recorder.folder), "--bundle", "inverted_pendulum", "--tolerance", "6"])
        == 0
    )


def test_bundle_of_another_task_cannot_repeat_a_recording(bundle, recorder, capsys):
    recorded(bundle, recorder, 2)
    assert main(["replay", str(recorder.folder), "--bundle", "hopper"]) == 2
    told = capsys.readouterr().err
    assert "for task 'hopper' cannot repeat a recording of task 'inverted_pendulum'" in told
    assert "recorded were slider/position, hinge/position" in told


def test_other_tools_read_a_recording(bundle, recorder):
    rig = Rig(bundle, "observation", recorder=recorder)
    rig.loop.start()
    rig.put(rig.now_ns)
    command, _ = rig.until_sent(1)
    rig.loop.stop()
    recorder.close()
    with AnyReader([recorder.folder], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as bag:
        kinds = {c.topic: c.msgtype for c in bag.connections}
        messages = [(c.topic, bag.deserialize(raw, c.msgtype)) for c, _, raw in bag.messages()]
    assert kinds == {
        "/robot/policy_node/recording": "std_msgs/msg/String",
        "/robot/policy_node/settings": "std_msgs/msg/String",
        "/robot/policy_node/tick": "std_msgs/msg/String",
        "/robot/policy_node/observation": "std_msgs/msg/Float64MultiArray",
        "/robot/policy_node/command": "std_msgs/msg/Float64MultiArray",
    }
    told = dict(messages)
    assert told["/robot/policy_node/command"].data.tolist() == command.values.tolist()
    assert told["/robot/policy_node/observation"].data.tolist() == [0.1, 0.05, 0.2, -0.1]
    assert json.loads(told["/robot/policy_node/tick"].data)["mode"] == "policy"


def recorded(bundle, recorder, ticks):
    rig = Rig(bundle, "observation", recorder=recorder)
    rig.loop.start()
    for count in range(1, ticks + 1):
        rig.put(rig.now_ns + count * 40_000_000)
        rig.until_sent(count)
    rig.loop.stop()
    recorder.close()
    return next(recorder.folder.glob("*.mcap"))


def test_recording_that_breaks_off_is_replayed_as_far_as_it_goes(bundle, recorder, tmp_path):
    whole = recorded(bundle, recorder, 300)
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    outcome = Replayer(lambda _: bundle).run(read_recording(torn))
    assert 0 < outcome.ticks.total() < 300
    assert outcome.first is None
    assert "torn.mcap: breaks off after" in outcome.problem
    assert not outcome.identical


def test_damaged_recording_is_found_out(bundle, recorder, tmp_path):
    data = bytearray(recorded(bundle, recorder, 300).read_bytes())
    data[4000] ^= 0xFF
    damaged = tmp_path / "damaged.mcap"
    damaged.write_bytes(data)
    with pytest.raises(RecordingError, match=r"damaged\.mcap: "):
        list(read_recording(damaged))


def test_what_is_no_recording_is_refused(tmp_path, recorder, capsys):
    with pytest.raises(RecordingError, match="no such file or folder"):
        list(read_recording(tmp_path / "missing"))
    with pytest.raises(RecordingError, match="0 MCAP files; expected the folder of one recording"):
        list(read_recording(tmp_path))
    (tmp_path / "text.mcap").write_text("not a recording")
    with pytest.raises(RecordingError, match=r"text\.mcap: breaks off after 0 lines: .*magic"):
        list(read_recording(tmp_path))
    recorder.close()
    with pytest.raises(RecordingError, match="holds no ticks of a policy node"):
        list(read_recording(recorder.folder))
    assert main(["replay", str(tmp_path / "missing")]) == 2
    assert "maac replay: " in capsys.readouterr().err


def test_replay_ends_where_a_tick_is_missing(bundle, recorder):
    recorded(bundle, recorder, 5)
    lines = list(read_recording(recorder.folder))
    assert isinstance(lines[0], Heading)
    assert isinstance(lines[1], Settings)
    del lines[4]
    outcome = Replayer(lambda _: bundle).run(lines)
    assert outcome.ticks.total() == 2
    assert "tick 2 is missing, and 3 depends on it" in outcome.problem


@pytest.mark.parametrize(("field", "size"), [("observation", 4), ("values", 1)])
def test_tick_of_another_size_is_named(bundle, recorder, field, size):
    recorded(bundle, recorder, 3)
    lines = list(read_recording(recorder.folder))
    lines[3] = lines[3].model_copy(update={field: (0.0,) * (size + 1)})
    outcome = Replayer(lambda _: bundle).run(lines)
    assert outcome.ticks.total() == 1
    assert f"{size + 1} entries; expected {size}" in outcome.problem


def test_recorder_that_cannot_write_says_so_and_lets_the_loop_go_on(bundle, recorder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="file': cannot be written to"):
        FlightRecorder(tmp_path / "file", "/policy_node")
    rig = Rig(bundle, "observation", recorder=recorder)
    rig.loop.start()
    recorder._file.close()  # as if the disk were gone
    sent = 0
    while not recorder.failure and sent < 10_000:
        sent += 1
        rig.put(rig.now_ns + sent * 40_000_000)
        rig.until_sent(sent)
    assert "closed file" in recorder.failure
    rig.put(rig.now_ns + (sent + 1) * 40_000_000)
    rig.until_sent(sent + 1)
    assert recorder.lost > 0
    rig.loop.stop()


def test_two_recordings_of_one_second_have_folders_of_their_own(tmp_path):
    made = [FlightRecorder(tmp_path, "/policy_node") for _ in range(2)]
    for each in made:
        each.close()
    assert made[0].folder != made[1].folder
    shutil.rmtree(tmp_path)
