"""Tasks as data: the shipped ones agree with Gymnasium, wrong ones are refused with a useful message."""

from functools import partial
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import yaml

from maac_ros.errors import ConfigError, TaskError
from maac_ros.observation import ObservationBuilder, RobotState, flat_names
from maac_ros.resources import named_file
from maac_ros.simulation import Simulation, TaskEnv
from maac_ros.symmetry import heading_parts
from maac_ros.task import Task, load_task

TASKS = ["inverted_pendulum", "hopper", "half_cheetah", "walker2d", "ant"]


@pytest.mark.parametrize("name", TASKS)
def test_observation_reward_and_ends_equal_gymnasium_over_a_random_rollout(name):
    task = load_task(name)
    ours = TaskEnv(task)
    theirs = gymnasium.make(task.simulation.gymnasium_id, **task.simulation.kwargs)
    random = np.random.default_rng(1)
    observation, _ = ours.reset(seed=5)
    expected, _ = theirs.reset(seed=5)
    for _ in range(400):
        np.testing.assert_array_equal(observation, expected)
        action = random.uniform(ours.action_space.low, ours.action_space.high)
        observation, *outcome, _ = ours.step(action)
        expected, *expected_outcome, _ = theirs.step(action)
        assert outcome == expected_outcome
        if outcome[1] or outcome[2]:
            observation, _ = ours.reset()
            expected, _ = theirs.reset()


@pytest.mark.parametrize("name", ["hopper", "walker2d"])
def test_unclipped_robot_differs_from_gymnasiums_in_the_clipping_alone(name):
    ours, theirs = TaskEnv(load_task(f"{name}_unclipped")), TaskEnv(load_task(name))
    velocities = np.array([e.name.endswith("/velocity") for e in ours.builder.entries])
    random = np.random.default_rng(1)
    for env in (ours, theirs):
        env.reset(seed=5)
        env.simulation.data.qvel[-1] = 15.0  # a kick of the foot
    observation, expected = (e.builder.build(e.simulation.state()) for e in (ours, theirs))
    fastest = 0.0
    for _ in range(200):
        fastest = max(fastest, np.abs(observation[velocities]).max())
        clipped = np.where(velocities, observation.clip(-10, 10), observation)
        np.testing.assert_array_equal(clipped, expected)
        action = random.uniform(ours.action_space.low, ours.action_space.high)
        observation, *outcome, _ = ours.step(action)
        expected, *expected_outcome, _ = theirs.step(action)
        assert outcome == expected_outcome
        if outcome[1]:
            observation, _ = ours.reset()
            expected, _ = theirs.reset()
    assert fastest > 10.0


@pytest.mark.parametrize("name", [*TASKS, "hopper_unclipped", "walker2d_unclipped"])
def test_declared_termination_is_the_environments(name):
    task = load_task(name)
    env = TaskEnv(task)
    names = [entry.name for entry in env.builder.entries]
    random = np.random.default_rng(2)
    env.reset(seed=2)
    ends = 0
    for _ in range(600):
        observation, _, terminated, truncated, _ = env.step(
            random.uniform(env.action_space.low, env.action_space.high)
        )
        outside = any(
            (rule.min is not None and observation[names.index(rule.entry)] < rule.min)
            or (rule.max is not None and observation[names.index(rule.entry)] > rule.max)
            for rule in task.termination
        )
        assert outside == terminated
        ends += terminated
        if terminated or truncated:
            env.reset()
    assert (ends > 0) == (name != "half_cheetah")


@pytest.mark.parametrize("name", TASKS)
def test_units_and_limits_are_stated_for_every_entry(name):
    task = load_task(name)
    assert all(entry.unit for entry in task.observation_entries())
    for entry in task.action_entries():
        assert entry.low < entry.high
        assert entry.low <= entry.safe <= entry.high


def test_snapshot_restores_the_simulation_exactly():
    env = Simulation(load_task("hopper"))
    command = np.array([0.3, -0.2, 0.1])
    env.reset(seed=3)
    for _ in range(20):
        env.step(command)
    snapshot = env.snapshot()

    def outcome(simulation):
        steps = [simulation.step(command) for _ in range(10)]
        simulation.reset()
        return [(s.state.flat(), s.reward, s.done) for s in steps], simulation.state().flat()

    first, first_reset = outcome(env)
    other = Simulation(load_task("hopper"))
    other.restore(snapshot)
    second, second_reset = outcome(other)
    for (state, *rest), (same_state, *same_rest) in zip(first, second, strict=True):
        np.testing.assert_array_equal(state, same_state)
        assert rest == same_rest
    np.testing.assert_array_equal(first_reset, second_reset)


def test_unknown_entries_stay_nan_and_are_named():
    from maac_ros.errors import ObservationError

    builder = ObservationBuilder(load_task("inverted_pendulum"))
    observation = builder.build(RobotState.unknown(2))
    assert np.isnan(observation).all()
    with pytest.raises(
        ObservationError,
        match="joint_states slider/position = nan m, joint_states hinge/position = nan rad",
    ):
        builder.single(observation)


def _broken(tmp_path: Path, change, base: str = "inverted_pendulum") -> Path:
    document = yaml.safe_load(named_file("tasks", base, "task").read_text())
    change(document)
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(colour="red"), r"broken\.yaml: colour: unknown key \(value 'red'\)"),
        (lambda d: d.pop("control"), r"broken\.yaml: control: missing key"),
        (
            lambda d: d["observation"][0].update(joints=["slidr"]),
            "unknown joint 'slidr'; expected one of: slider, hinge",
        ),
        (
            lambda d: d["observation"][0].update(term="joint_posture"),
            "joint_posture.*joint_position",
        ),
        (
            lambda d: d["observation"].append({"term": "base_orientation"}),
            "needs a floating base; robot.base is missing",
        ),
        (
            lambda d: d["control"].update(period_s=-1),
            r"control\.period_s: got -1; .*greater than 0",
        ),
        (lambda d: d["action"][0].update(limits=[3, -3]), r"expected \[low, high\]"),
        (lambda d: d["action"][0].update(gear=[1, 2]), "2 gears for 1 joints"),
        (lambda d: d["action"][0].update(safe=7), "safe command 7.0 is outside limits"),
        (
            lambda d: d["observation"].append(d["observation"][0]),
            "listed more than once: slider/position",
        ),
        (
            lambda d: d["termination"][0].update(entry="hinge/angle"),
            "unknown observation entry 'hinge/angle'; expected one of: slider/position",
        ),
        (lambda d: d.update(schema_version=2), "schema_version: got 2"),
        (
            lambda d: d["robot"].update(mirror={"flip": ["slidr"]}),
            r"robot\.mirror\.flip: unknown joint 'slidr'; expected one of: slider, hinge",
        ),
        (
            lambda d: d["robot"].update(mirror={"flip": ["slider", "slider"]}),
            "flip: listed more than once: slider",
        ),
        (
            lambda d: d["robot"].update(mirror={"swap": [["slider", "hinge"]]}),
            "the mirror image of 'slider/effort' is 'hinge/effort', which is no part of the action",
        ),
        (
            lambda d: d["robot"].update(mirror={"swap": [["slider", "hinge"]], "flip": ["hinge"]}),
            "flip: 'hinge' is listed and its partner is not; of slider and hinge expected both or neither",
        ),
        (
            lambda d: (
                d["robot"].update(mirror={"flip": ["slider", "hinge"]}),
                d["action"][0].update(limits=[-3, 2]),
            ),
            r"'slider/effort' has the limits \[-3, 2\].* 'slider/effort', \[-3, 2\], do not match",
        ),
        (
            lambda d: (
                d["robot"].update(mirror={"swap": [["slider", "hinge"]]}),
                d["action"][0].update(joints=["slider", "hinge"], gear=[100, 50]),
            ),
            "'slider/effort' has a gear of 100, its mirror image 'hinge/effort' one of 50",
        ),
        (
            lambda d: d["robot"].update(turn={"cycles": [["slider", "hinge"]]}),
            r"robot\.turn: the image of 'slider/effort' is 'hinge/effort', which is no part of the action",
        ),
        (
            lambda d: d["robot"].update(turn={"cycles": [["slider", "hing"]]}),
            r"robot\.turn\.cycles: unknown joint 'hing'; expected one of: slider, hinge",
        ),
        (
            lambda d: d["robot"].update(
                turn={"cycles": [["slider", "hinge"], ["slider", "hinge"]]}
            ),
            "cycles: listed more than once: slider, hinge",
        ),
        (
            lambda d: d["robot"].update(turn={"cycles": [["slider"], ["hinge"]]}),
            "cycles: got 1, 1 names in a cycle; expected two or more, as many in each",
        ),
        (
            lambda d: d["robot"].update(turn={"cycles": [["slider", "hinge"]], "flip": ["slider"]}),
            "flip: 'slider' is none of a cycle's names but the first",
        ),
    ],
)
def test_malformed_task_names_file_key_value_and_expectation(tmp_path, change, message):
    with pytest.raises(TaskError, match=message) as caught:
        load_task(_broken(tmp_path, change))
    assert "broken.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: (
                d["robot"]["joints"].update(elbow={"type": "revolute"}),
                d["observation"].append({"term": "joint_position", "joints": ["elbow"]}),
            ),
            "no joint 'elbow' in InvertedPendulum-v5; expected one of: slider, hinge",
        ),
        (
            lambda d: d["robot"]["joints"]["hinge"].update(type="prismatic"),
            "joints.hinge.type: got 'prismatic', but the joint is a mjJNT_HINGE",
        ),
        (lambda d: d["control"].update(period_s=0.02), "period_s: got 0.02; expected 0.04"),
        (lambda d: d["action"][0].update(gear=[10]), "gear of 'slider': got 10; expected 100"),
        (lambda d: d["action"][0].update(limits=[-1, 1]), r"got \[-1, 1\]; expected \[-3, 3\]"),
        (lambda d: d["action"][0].update(joints=["hinge"]), "'hinge' is driven by 0 actuators"),
        (lambda d: d["simulation"].update(gymnasium_id="Nope-v5"), "Nope-v5"),
        (lambda d: d["simulation"].update(gymnasium_id="CartPole-v1"), "not a MuJoCo environment"),
        (lambda d: d["simulation"].update(kwargs={"colour": 1}), "colour"),
    ],
)
def test_task_that_does_not_fit_its_simulation_is_refused(tmp_path, change, message):
    task = load_task(_broken(tmp_path, change))
    with pytest.raises(TaskError, match=message):
        Simulation(task)


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", "\x00", "3"])
def test_files_that_are_not_a_task_are_refused(tmp_path, content):
    path = tmp_path / "odd.yaml"
    path.write_text(content)
    with pytest.raises(TaskError, match=r"odd\.yaml"):
        load_task(path)


def test_unknown_task_lists_the_shipped_ones():
    with pytest.raises(
        ConfigError, match=r"unknown task 'cartwheel'.*ant, go1, half_cheetah, hopper"
    ):
        load_task("cartwheel")
    with pytest.raises(ConfigError, match=r"task file 'nowhere/x\.yaml' does not exist"):
        load_task("nowhere/x.yaml")


LEGGED_TERMS = [
    {"term": "projected_gravity"},
    {"term": "base_linear_velocity", "frame": "body"},
    {"term": "base_angular_velocity", "frame": "body"},
    {"term": "base_angular_velocity", "frame": "world"},
    {"term": "base_position", "axes": ["z"]},
]


@pytest.fixture
def legged(tmp_path):
    """The ant, observed as legged robots are."""
    task = yaml.safe_load(named_file("tasks", "ant", "task").read_text())
    joints = [term for term in task["observation"] if term["term"].startswith("joint_")]
    del task["reward"]["analytic"]  # of velocities in the world
    del task["robot"]["base"]["any_heading"]  # where it faces is not observed
    path = tmp_path / "legged.yaml"
    path.write_text(yaml.safe_dump({**task, "observation": [*LEGGED_TERMS, *joints]}))
    return load_task(path)


def test_base_is_observed_in_its_own_frame_as_mujoco_measures_it(legged):
    env = TaskEnv(legged)
    simulation, names = env.simulation, [entry.name for entry in env.builder.entries]
    torso = mujoco.mj_name2id(simulation.model, mujoco.mjtObj.mjOBJ_BODY, "torso")
    env.reset(seed=0)
    random = np.random.default_rng(0)
    measured = np.zeros((2, 6))
    for _ in range(30):
        observation, *_ = env.step(random.uniform(-1, 1, 8))
        simulation.data.qvel[3:6] += random.normal(size=3)  # a push
        mujoco.mj_forward(simulation.model, simulation.data)
        observation = env.builder.build(simulation.state())
        for row, local in zip(measured, (0, 1), strict=True):
            kind = mujoco.mjtObj.mjOBJ_XBODY
            mujoco.mj_objectVelocity(simulation.model, simulation.data, kind, torso, row, local)
        down = simulation.data.xmat[torso].reshape(3, 3).T @ [0, 0, -1]
        expected = np.concatenate((down, measured[1, 3:], measured[1, :3], measured[0, :3]))
        np.testing.assert_allclose(observation[:12], expected, atol=1e-9)
    assert names[:12] == [
        *(f"base/projected_gravity_{axis}" for axis in "xyz"),
        *(f"base/body_linear_velocity_{axis}" for axis in "xyz"),
        *(f"base/angular_velocity_{axis}" for axis in "xyz"),
        *(f"base/world_angular_velocity_{axis}" for axis in "xyz"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["observation"].pop(1),
            r"any_heading: 'base/linear_velocity_x' is told in the frame of the world.*: expected base/orientation_w, ",
        ),
        (
            lambda d: d["observation"][0].update(axes=["x", "z"]),
            r"any_heading: the image of 'base/position_x' is 'base/position_y', which is no part of the observation",
        ),
        (
            lambda d: (
                d["robot"].update(turn={"cycles": [["hip_1", "hip_2", "hip_3"]]}),
                d["observation"].append(
                    {
                        "term": "goal",
                        "source": "cmd_vel",
                        "ranges": {"linear_x": [0, 1], "linear_y": [0, 1]},
                    }
                ),
            ),
            r"turn: 'goal/linear_x' has the limits \[0, 1\], and turns with 'goal/linear_x'; expected the same",
        ),
    ],
    ids=["where it faces is not told", "one of two", "one side"],
)
def test_what_turns_with_the_heading_is_told_whole_and_in_one_measure(tmp_path, change, message):
    data = yaml.safe_load(named_file("tasks", "ant", "task").read_text(encoding="utf-8"))
    del (
        data["robot"]["mirror"],
        data["robot"]["turn"],
        data["reward"]["analytic"],
        data["termination"],
    )
    change(data)
    path = tmp_path / "ant.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    with pytest.raises(TaskError, match=message):
        load_task(path)


def test_orientation_and_turning_come_from_one_source(tmp_path):
    data = yaml.safe_load(named_file("tasks", "ant", "task").read_text(encoding="utf-8"))
    orientation = next(t for t in data["observation"] if t["term"] == "base_orientation")
    orientation["source"] = "imu"
    path = tmp_path / "ant.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    with pytest.raises(TaskError, match="come from odom and from imu; expected one source"):
        load_task(path)


@pytest.mark.parametrize("exchange", ["mirror", "turn", "heading"])
def test_the_image_of_the_observation_is_the_observation_of_the_image(legged, exchange):
    """In the frame of the base as in that of the world, and in the periods before."""
    data = legged.model_dump(mode="json", exclude_unset=True)
    data["observation"] += [
        {"term": "base_orientation", "history": 1},
        {"term": "base_linear_velocity", "frame": "world"},
    ]
    task = Task.model_validate(data)
    parts = {
        "mirror": lambda: task.robot.mirror.parts,
        "turn": lambda: task.robot.turn.parts,
        "heading": lambda: partial(heading_parts, angle=0.7),
    }[exchange]()
    builder = ObservationBuilder(task)
    names = [entry.name for entry in builder.entries]
    state_names = flat_names(task)

    def image_of(values, of):
        return np.array(
            [sum(f * values[of.index(part)] for part, f in parts(name).items()) for name in of]
        )

    random = np.random.default_rng(0)
    for _ in range(20):
        state = RobotState.from_flat(random.normal(size=len(state_names)), task)
        image = RobotState.from_flat(image_of(state.flat(), state_names), task)
        np.testing.assert_allclose(
            builder.build(image), image_of(builder.build(state), names), atol=1e-12
        )


def test_an_unknown_base_is_unknown_in_every_frame(legged):
    observation = ObservationBuilder(legged).build(RobotState.unknown(8))
    assert np.isnan(observation).all()
