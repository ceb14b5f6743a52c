"""What is measured is observed less an offset, times a scale, where the task says so."""

import dataclasses

import numpy as np
import pytest
import servo_robot
import yaml

from maac_learning.export import export_untrained_bundle
from maac_ros.bundle import Observed
from maac_ros.errors import TaskError
from maac_ros.observation import JointReading, ObservationBuilder, RobotState
from maac_ros.plausibility import PlausibleRange
from maac_ros.resources import named_file
from maac_ros.simulation import TaskEnv
from maac_ros.task import load_task

POSITION, VELOCITY = 0, 1
"""Terms of the servo robot's observation: of shoulder and slide; of these and the wheel."""


def recalling(task):
    for term in task["observation"]:
        term["history"] = 2
    task["reward"]["analytic"] = [{"term": "effort", "weight": -1}]


def scaled(task):
    recalling(task)
    task["observation"][POSITION] |= {"offset": [0.4, 0.05], "scale": [2, 10]}
    task["observation"][VELOCITY] |= {"scale": 0.05, "clip": [-4, 40]}


OFFSET = np.array([0.4, 0.05, 0, 0, 0])
SCALE = np.array([2, 10, 0.05, 0.05, 0.05])


def rollout(task, steps=30):
    env, random = TaskEnv(task), np.random.default_rng(0)
    observations = [env.reset(seed=3)[0]]
    for _ in range(steps):
        observations.append(
            env.step(random.uniform(env.action_space.low, env.action_space.high))[0]
        )
    return env, np.array(observations)


def test_observation_is_what_is_measured_less_its_offset_times_its_scale(tmp_path):
    """And so is what is recalled, once; names stay, units and bounds are those of the product."""
    _, plain = rollout(servo_robot.load(tmp_path, change=recalling))
    env, observations = rollout(servo_robot.load(tmp_path, change=scaled))
    names = [entry.name for entry in env.builder.entries]
    assert names[:2] == ["shoulder/position", "slide/position"]
    quantities = ["shoulder/position", "slide/position", "shoulder/velocity", "slide/velocity"]
    quantities.append("wheel/velocity")
    owner = [quantities.index(name.partition("@")[0]) for name in names]
    speeds = np.array(owner) >= 2
    measured = np.where(speeds, plain.clip(-4, 40), plain)
    assert (measured != plain).any()  # something is clipped
    np.testing.assert_allclose(observations, (measured - OFFSET[owner]) * SCALE[owner], atol=1e-12)
    assert len(names) == 15
    for entry, at in zip(env.builder.entries, owner, strict=True):
        assert entry.observed_unit == ["0.5 rad", "0.1 m", "20 rad/s", "20 m/s", "20 rad/s"][at]
        low, high = (-np.inf, np.inf) if at < 2 else (-0.2, 2.0)
        assert (entry.low, entry.high) == pytest.approx((low, high))
    space = env.observation_space
    assert space.low[names.index("wheel/velocity")] == pytest.approx(-0.2)


def test_one_number_stands_for_all(tmp_path):
    entries = servo_robot.load(tmp_path, change=scaled).observation_entries()
    assert {e.scale for e in entries if e.name.endswith("/velocity")} == {0.05}


def test_what_cannot_be_is_told_as_it_is_observed(tmp_path):
    builder = ObservationBuilder(servo_robot.load(tmp_path, change=scaled))
    state = RobotState.unknown(3)
    state.joint_position[:], state.joint_velocity[:] = 0.4, [0, 0, 1000.0]
    # Ten widths of the clip beyond it, [-444, 480] rad/s, in units of 20.
    assert "wheel/velocity = 50 20 rad/s, expected -22.2 to 24" in str(builder.read(state))
    state.joint_velocity[2] = 470.0
    assert not isinstance(builder.read(state), Exception)


def test_joints_are_believed_in_their_own_unit(tmp_path):
    """The safe command is made from measurements, and what is known of them from observations."""
    task = servo_robot.load(tmp_path, change=scaled)
    bundle = export_untrained_bundle(task, tmp_path / "bundle")
    fields = bundle.manifest.observation
    assert (fields[0].offset, fields[0].scale, fields[0].unit) == (0.4, 2.0, "0.5 rad")
    assert fields[-1].clip == pytest.approx((-0.2, 2.0))
    low, high = np.full(15, -0.1), np.full(15, 0.1)
    low[0], high[0] = -2.8, 1.2  # -1 to 1 rad
    observed = Observed(low=tuple(low), high=tuple(high))
    manifest = bundle.manifest.model_copy(update={"observed": observed})
    plausible = PlausibleRange(dataclasses.replace(bundle, manifest=manifest).manifest)
    for position, velocity, believed in (
        ([2.9, 0.07, 0], [479, -443, 0], [True, True]),
        ([3.1, 0.07, 0], [0, 0, 0], [False, True]),
        ([-2.9, 0.09, 0], [0, 0, 0], [True, False]),
        ([-3.1, 0.05, 0], [0, 0, 0], [False, True]),
    ):
        reading = plausible.believed(JointReading(np.array(position), np.array(velocity)), 1.0)
        assert np.isfinite(reading.position[:2]).tolist() == believed
        assert np.isfinite(reading.velocity).all()
    reading = plausible.believed(JointReading(np.zeros(3), np.array([481.0, -445.0, 0.0])), 1.0)
    assert np.isfinite(reading.velocity).tolist() == [False, False, True]


def compare(task):
    between = {"entry": "shoulder/position", "target": "slide/position", "scale": 1, "weight": 1}
    task["reward"]["analytic"].append({"term": "closeness", **between})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["observation"][0].update(scale=0), "greater than 0"),
        (
            lambda t: t["observation"][0].update(scale=[1, 2, 3]),
            "scale: got 3 numbers; expected one for each of 2 entries, or one for all",
        ),
        (
            lambda t: t["observation"][1].update(offset=[1, 2]),
            "offset: got 2 numbers; expected one for each of 3 entries",
        ),
        (
            lambda t: t["action"][1].update(term="position_step", step=0.1),
            "'shoulder' needs its position in the observation, without clip, offset or scale",
        ),
        (compare, "'shoulder/position' and 'slide/position' are observed with another offset or"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, change, said):
    def changed(task):
        scaled(task)
        change(task)

    with pytest.raises(TaskError, match=said):
        servo_robot.load(tmp_path, change=changed)


def test_left_and_right_are_observed_alike(tmp_path):
    task = yaml.safe_load(named_file("tasks", "go1", "task").read_text(encoding="utf-8"))
    positions = task["observation"][3]
    assert positions["term"] == "joint_position"
    standing = {"hip": 0.1, "thigh": 0.9, "calf": -1.8}

    def load(**observed):
        positions.update(observed)
        path = tmp_path / "go1.yaml"
        path.write_text(yaml.safe_dump(task), encoding="utf-8")
        return load_task(path)

    def stance(hips):
        """Of every joint, with the hips of these sides the other way."""
        parts = [(name[1], standing[name.split("_")[1]]) for name in positions["joints"]]
        return [-angle if side in hips and angle == 0.1 else angle for side, angle in parts]

    load(offset=stance("R"))  # in the mirror hips turn the other way
    for wrong in ({"offset": stance("")}, {"offset": 0.1}):
        with pytest.raises(TaskError, match=r"robot\.mirror: 'FR_hip_joint/position' is observed"):
            load(**wrong)
    with pytest.raises(TaskError, match=r"an offset of -1\.8 and a scale of 1, its mirror image"):
        load(offset=stance("R"), scale=[1.0] * 11 + [2.0])
