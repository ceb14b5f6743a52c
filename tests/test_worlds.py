"""Worlds from an MJCF file: rewards, terminations and initial states are the task's."""

import sys

import gymnasium
import mujoco
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

from maac_ros.errors import ConfigError, TaskError
from maac_ros.observation import RobotState
from maac_ros.resources import named_file
from maac_ros.simulation import Simulation, TaskEnv
from maac_ros.task import load_task

# A cart that a spring of its own pulls back: known to nobody but this file.
MJCF = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body>
      <joint name="rail" type="slide" axis="1 0 0" stiffness="2"/>
      <geom type="box" size="0.1 0.1 0.1" mass="2"/>
    </body>
  </worldbody>
  <actuator><motor joint="rail" gear="5" ctrllimited="true" ctrlrange="-2 1"/></actuator>
  <keyframe><key name="drawn" qpos="0.5" qvel="0.25"/></keyframe>
</mujoco>
"""
TASK = {
    "schema_version": 1,
    "name": "cart",
    "description": "A cart on a rail.",
    "robot": {"joints": {"rail": {"type": "prismatic"}}},
    "simulation": {"mjcf": "worlds/cart.xml", "keyframe": "drawn", "episode_steps": 20},
    "control": {"period_s": 0.03},
    "observation": [
        {"term": "joint_position", "joints": ["rail"]},
        {"term": "joint_velocity", "joints": ["rail"]},
    ],
    "action": [{"term": "effort", "joints": ["rail"], "gear": [5], "limits": [-2, 1]}],
    "reward": {
        "source": "analytic",
        "analytic": [
            {"term": "alive", "weight": 3},
            {"term": "closeness", "entry": "rail/position", "target": 1, "scale": 0.5, "weight": 2},
            {"term": "velocity", "entry": "rail/velocity", "weight": 0.5},
            {"term": "square", "entry": "rail/position", "target": 0.5, "weight": -4},
            {"term": "effort", "weight": -0.1},
        ],
    },
    "termination": [{"entry": "rail/position", "min": -1, "max": 0.6}],
}


@pytest.fixture
def cart(tmp_path):
    """Writes the cart's two files, the task with ``change`` made to it, and returns the task's path."""

    def write(change=lambda task: None, mjcf=MJCF):
        task = yaml.safe_load(yaml.safe_dump(TASK))
        change(task)
        (tmp_path / "worlds").mkdir(exist_ok=True)
        (tmp_path / "worlds" / "cart.xml").write_text(mjcf)
        path = tmp_path / "cart.yaml"
        path.write_text(yaml.safe_dump(task))
        return path

    return write


def test_a_world_outside_the_package_steps_as_mujoco_does(cart, tmp_path, monkeypatch):
    path = cart()
    monkeypatch.chdir("/")  # the MJCF is found beside the task, wherever that is read from
    env = TaskEnv(load_task(path))
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [0.5, 0.25]
    model = mujoco.MjModel.from_xml_string(MJCF)
    data = mujoco.MjData(model)
    data.qpos, data.qvel, data.ctrl = 0.5, 0.25, -1.5
    mujoco.mj_step(model, data, 3)
    observation, reward, terminated, truncated, _ = env.step(np.array([-1.5]))
    assert observation.tolist() == [data.qpos[0], data.qvel[0]]
    position, velocity = observation
    # -1.5 of [-2, 1] is -2/3 of half the range.
    expected = (
        3
        + 2 / (1 + ((position - 1) / 0.5) ** 2)
        + 0.5 * (0.25 + velocity) / 2
        - 4 * (position - 0.5) ** 2
        - 0.1 * (2 / 3) ** 2
    )
    assert reward == pytest.approx(expected, abs=1e-12)
    assert (terminated, truncated) == (False, False)


def test_termination_ends_the_episode_and_the_reward_for_staying(cart):
    alive = [{"term": "alive", "weight": 3}]
    simulation = Simulation(load_task(cart(lambda task: task["reward"].update(analytic=alive))))
    simulation.reset(seed=0)
    simulation.place(RobotState(np.array([0.599]), np.array([1.0])))
    result = simulation.step(np.array([0.0]))
    assert (result.reward, result.terminated, result.truncated) == (0.0, True, False)
    simulation.place(RobotState(np.array([0.59]), np.array([-1.0])))
    assert simulation.step(np.array([0.0])).reward == 3.0


def test_episodes_are_truncated_after_their_steps(cart):
    env = TaskEnv(load_task(cart()))
    env.reset(seed=0)
    ends = [env.step(np.array([0.0]))[2:4] for _ in range(20)]
    assert ends == [(False, False)] * 19 + [(False, True)]
    env.reset()
    assert env.step(np.array([0.0]))[2:4] == (False, False)


def test_initial_states_spread_as_the_task_says_and_follow_the_seed(cart):
    def spread(task):
        task["simulation"]["reset"] = [
            {"term": "joint_position", "joints": ["rail"], "offset": [-0.25, 0.05]}
        ]

    env = TaskEnv(load_task(cart(spread)))
    starts = np.array([env.reset(seed=3 if i == 0 else None)[0] for i in range(300)])
    assert (starts[:, 1] == 0.25).all()
    assert 0.25 <= starts[:, 0].min() < 0.27
    assert 0.53 < starts[:, 0].max() <= 0.55
    again = [env.reset(seed=3)[0], env.reset()[0]]
    np.testing.assert_array_equal(again, starts[:2])


def test_without_a_keyframe_episodes_begin_where_the_mjcf_is(cart):
    env = TaskEnv(load_task(cart(lambda task: task["simulation"].pop("keyframe"))))
    assert env.reset(seed=0)[0].tolist() == [0.0, 0.0]


def test_a_snapshot_goes_on_exactly(cart):
    def spread(task):
        task["simulation"]["reset"] = [
            {"term": "joint_velocity", "joints": ["rail"], "offset": [-1, 1]}
        ]

    simulation, other = (Simulation(load_task(cart(spread))) for _ in range(2))
    simulation.reset(seed=1)
    for _ in range(5):
        simulation.step(np.array([0.3]))
    snapshot = simulation.snapshot()

    def go_on(one):
        steps = [one.step(np.array([-0.4])) for _ in range(15)]
        ends = [(s.state.flat().tolist(), s.reward, s.done) for s in steps]
        return repr(ends), repr(one.reset().flat().tolist())

    expected = go_on(simulation)
    other.restore(snapshot)
    assert go_on(other) == expected
    assert "True" in expected[0]


def test_a_robot_that_bursts_ends_its_episode(cart):
    simulation = Simulation(load_task(cart(lambda task: task.pop("termination"))))
    simulation.reset(seed=0)
    simulation.data.qvel[0] = 1e12
    assert simulation.step(np.array([0.0])).terminated


def test_the_shipped_arm_is_a_gymnasium_environment_that_vectorises():
    task = load_task("two_joint_arm")
    with pytest.warns(UserWarning, match="infinity"):  # of observations that have no bounds
        check_env(TaskEnv(task), skip_render_check=True)
    several = gymnasium.vector.SyncVectorEnv([lambda: TaskEnv(task)] * 3)
    observations, _ = several.reset(seed=1)
    assert len(np.unique(observations[:, 0])) == 3
    assert several.step(several.action_space.sample())[1].shape == (3,)


def test_the_arm_lifts_itself_with_its_own_motors():
    """Upright is worth most, and the torques of a PD controller within the limits get there."""
    env = TaskEnv(load_task("two_joint_arm"))
    observation, _ = env.reset(seed=0)
    rewards = []
    for _ in range(200):
        position, velocity = observation[:2], observation[2:]
        torque = np.array([40.0, 12.0]) * (np.array([np.pi, 0.0]) - position)
        torque -= np.array([4.0, 0.8]) * velocity
        command = np.clip(torque / [12, 4], -1, 1)
        observation, reward, _, _, _ = env.step(command)
        rewards.append(reward)
    assert rewards[0] < 0.6
    assert min(rewards[-50:]) > 0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["simulation"].update(gymnasium_id="Hopper-v5"),
            "give either gymnasium_id or mjcf",
        ),
        (lambda d: d["simulation"].pop("mjcf"), "give either gymnasium_id or mjcf"),
        (
            lambda d: d["simulation"].update(kwargs={"a": 1}),
            "kwargs: belongs to gymnasium_id, which is not given",
        ),
        (
            lambda d: (
                d["simulation"].pop("mjcf"),
                d["simulation"].update(gymnasium_id="Hopper-v5"),
            ),
            "keyframe: belongs to mjcf, which is not given",
        ),
        (lambda d: d["reward"].update(source="environment"), "reward.source: got 'environment'"),
        (lambda d: d["reward"].update(analytic=[]), "expected at least one"),
        (
            lambda d: d["reward"]["analytic"][1].update(entry="rail/effort"),
            r"reward\.analytic\.1\.entry: unknown observation entry 'rail/effort'",
        ),
        (
            lambda d: d["reward"]["analytic"][1].update(entry=["rail/position", "rail/effort"]),
            r"reward\.analytic\.1\.entry: unknown observation entry 'rail/effort'",
        ),
        (lambda d: d["reward"]["analytic"][1].update(entry=[]), r"reward\.analytic\.1"),
        (lambda d: d["reward"]["analytic"][1].update(scale=0), "scale: got 0"),
        (
            lambda d: d["simulation"].update(
                reset=[{"term": "joint_position", "joints": ["rail"], "offset": [1, -1]}]
            ),
            "low < high",
        ),
    ],
)
def test_malformed_worlds_name_file_key_and_value(cart, change, message):
    with pytest.raises(TaskError, match=message) as caught:
        load_task(cart(change))
    assert "cart.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["control"].update(period_s=0.025), "got 0.025; expected a multiple of 0.01"),
        (
            lambda d: d["simulation"].update(keyframe="home"),
            r"no keyframe 'home' in cart\.xml; expected one of: drawn",
        ),
        (
            lambda d: d["simulation"].update(
                reset=[{"term": "joint_position", "joints": ["wheel"], "offset": [-1, 1]}]
            ),
            r"simulation\.reset: no joint 'wheel' in cart\.xml; expected one of: rail",
        ),
        (lambda d: d["action"][0].update(limits=[-1, 1]), r"got \[-1, 1\]; expected \[-2, 1\]"),
    ],
)
def test_tasks_that_do_not_fit_their_world_are_refused(cart, change, message):
    task = load_task(cart(change))
    with pytest.raises(TaskError, match=message):
        Simulation(task)


def test_files_that_are_no_world_are_refused(cart):
    task = load_task(cart(mjcf="<mujoco><worldbody><geom/></worldbody></mujoco>"))
    with pytest.raises(TaskError, match=r"simulation\.mjcf: MuJoCo cannot load '.*cart\.xml'"):
        Simulation(task)
    task = load_task(cart(lambda d: d["simulation"].update(mjcf="worlds/none.xml")))
    with pytest.raises(ConfigError, match=r"'worlds/none\.xml' does not exist.*two_joint_arm\.xml"):
        Simulation(task)


BASE = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body><freejoint{name}/><geom size="0.1"/>
      <body><joint name="rail" type="slide"/><geom size="0.1"/></body>
    </body>{other}
  </worldbody>
  <actuator><motor joint="rail" gear="5" ctrllimited="true" ctrlrange="-2 1"/></actuator>
</mujoco>
"""


def floating(joint=None):
    def change(task):
        task["robot"]["base"] = {} if joint is None else {"joint": joint}
        task["observation"].append({"term": "base_position", "axes": ["z"]})
        task["simulation"].pop("keyframe")

    return change


def test_the_only_free_joint_needs_no_name(cart):
    simulation = Simulation(load_task(cart(floating(), BASE.format(name="", other=""))))
    simulation.reset(seed=0)
    falling = simulation.step(np.array([0.0])).state
    assert falling.base_position[2] < 0
    assert falling.base_linear_velocity[2] < 0


def test_the_base_begins_where_the_task_spreads_it(cart):
    spreads = {
        "base_position": ["x", "z"],
        "base_rotation": ["z"],
        "base_linear_velocity": ["y"],
        "base_angular_velocity": ["x", "y"],
    }

    def change(task):
        floating()(task)
        task["simulation"]["reset"] = [
            {"term": term, "axes": axes, "offset": [0.2, 0.6]} for term, axes in spreads.items()
        ]

    simulation = Simulation(load_task(cart(change, BASE.format(name="", other=""))))
    states = [simulation.reset(seed=3 if i == 0 else None) for i in range(100)]
    yaw = [2 * np.arctan2(state.base_orientation[3], state.base_orientation[0]) for state in states]
    for drawn in (
        yaw,
        *(np.array([state.base_position[i] for state in states]) for i in (0, 2)),
        [state.base_linear_velocity[1] for state in states],
        *([state.base_angular_velocity[i] for state in states] for i in (0, 1)),
    ):
        assert 0.2 <= min(drawn) < 0.25
        assert 0.55 < max(drawn) <= 0.6
    last = states[-1]
    assert last.base_orientation[1:3].tolist() == [0.0, 0.0]
    assert np.linalg.norm(last.base_orientation) == pytest.approx(1.0)
    assert (last.base_position[1], last.base_linear_velocity[0]) == (0.0, 0.0)
    np.testing.assert_array_equal(simulation.reset(seed=3).flat(), states[0].flat())


def test_a_base_that_is_not_there_cannot_be_spread(cart):
    reset = [{"term": "base_position", "axes": ["x"], "offset": [-1, 1]}]
    path = cart(lambda task: task["simulation"].update(reset=reset))
    with pytest.raises(TaskError, match=r"simulation\.reset\.0\.term: 'base_position' needs a"):
        load_task(path)


FEELING = (
    MJCF.replace(
        "<keyframe>",
        """
  <sensor>
    <actuatorfrc name="told" actuator="motor"/>
    <accelerometer name="acceleration" site="middle"/>
  </sensor>
  <keyframe>""",
    )
    .replace("<motor joint", '<motor name="motor" joint')
    .replace("<geom", '<site name="middle"/><geom')
)


def feeling(task):
    task["observation"] += [
        {"term": "joint_effort", "joints": ["rail"]},
        {"term": "sensor", "sensors": ["acceleration_x", "told"], "unit": "m/s2", "clip": [-4, 40]},
    ]


def test_efforts_and_sensors_are_observed_as_they_are_in_the_step(cart):
    task = load_task(cart(feeling, FEELING))
    entries = {entry.name: entry.unit for entry in task.observation_entries()}
    assert entries["rail/effort"] == "N"
    assert entries["acceleration_x/reading"] == "m/s2"
    assert task.sources() == {"joint_states", "sensors"}
    env = TaskEnv(task)
    env.reset(seed=0)
    observation, *_ = env.step(np.array([-1.5]))
    model = mujoco.MjModel.from_xml_string(FEELING)
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    data.ctrl[:] = -1.5
    mujoco.mj_step(model, data, 3)
    force, acceleration = data.sensordata[:2]
    # Five newtons for a command of 1, which with the spring's pull move 2 kg.
    assert -4.3 < acceleration < -4.2
    assert observation[2:].tolist() == [-7.5, -4.0, force]  # clipped
    assert force == -1.5


def test_a_snapshot_has_efforts_and_sensors_as_they_were(cart):
    one, other = (Simulation(load_task(cart(feeling, FEELING))) for _ in range(2))
    one.reset(seed=1)
    for command in (0.3, -0.4):
        one.step(np.array([command]))
    other.restore(one.snapshot())
    np.testing.assert_array_equal(other.state().flat(), one.state().flat())
    assert not np.isnan(one.state().sensors).any()


def test_a_sensor_that_the_world_does_not_have_is_named(cart):
    path = cart(
        lambda task: task["observation"].append({"term": "sensor", "sensors": ["acceleration"]}),
        FEELING,
    )
    known = "expected some of: told, acceleration_x, acceleration_y, acceleration_z"
    with pytest.raises(TaskError, match=rf"no sensor 'acceleration' in cart\.xml; {known}"):
        Simulation(load_task(path))


BALL = "<body pos='1 0 0'><freejoint name='ball'/><geom size='0.1'/></body>"


@pytest.mark.parametrize(
    ("joint", "mjcf", "message"),
    [
        (None, MJCF, r"robot\.base\.joint: missing, and cart\.xml has 0 free joints"),
        (None, BASE.format(name="", other=BALL), r"missing, and cart\.xml has 2 free joints"),
        ("rail", BASE.format(name="", other=""), r"robot\.base\.joint: 'rail' is not a free joint"),
        ("root", BASE.format(name=" name='base'", other=""), "no joint 'root'.*one of: base, rail"),
    ],
)
def test_a_base_that_the_world_does_not_have_is_refused(cart, joint, mjcf, message):
    task = load_task(cart(floating(joint), mjcf))
    with pytest.raises(TaskError, match=message):
        Simulation(task)


def test_a_reward_for_several_entries_is_the_sum_of_those_for_each(cart):
    both = ["rail/position", "rail/velocity"]
    terms = [
        {"term": "closeness", "target": 1, "scale": 0.5, "weight": 2},
        {"term": "square", "target": "rail/velocity", "weight": -4},
        {"term": "velocity", "weight": 3},
        {"term": "change", "weight": 5},
    ]

    def reward(analytic):
        path = cart(lambda task: task["reward"].update(analytic=analytic))
        simulation = Simulation(load_task(path))
        simulation.reset(seed=0)
        return simulation.step(np.array([-1.5])).reward

    for term in terms:
        single = [reward([{**term, "entry": name}]) for name in both]
        assert single[0] != single[1]
        assert reward([{**term, "entry": both}]) == pytest.approx(sum(single), abs=1e-12)


def test_shipped_worlds_stay_names_and_ones_own_become_paths(cart, tmp_path):
    assert load_task("two_joint_arm").simulation.mjcf == "two_joint_arm.xml"
    assert named_file("tasks", "two_joint_arm", "task").is_file()
    assert load_task(cart()).simulation.mjcf == str(tmp_path / "worlds" / "cart.xml")


def test_a_robot_of_the_menagerie_is_a_world(cart, tmp_path, monkeypatch):
    """Of a folder that holds one in place of the download."""
    pytest.importorskip("mujoco_menagerie", reason="the package mujoco-menagerie is not installed")
    folder = tmp_path / "menagerie" / "unitree_go1"
    folder.mkdir(parents=True)
    (folder / "scene.xml").write_text(MJCF)
    (folder / "go1.xml").write_text(MJCF.replace('mass="2"', 'mass="3"'))
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path / "menagerie"))
    for name, mass in (("menagerie:unitree_go1", 2), ("menagerie:unitree_go1/go1", 3)):
        path = cart(lambda task, name=name: task["simulation"].update(mjcf=name))
        assert Simulation(load_task(path)).model.body_mass.sum() == mass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("menagerie:unitree_go", "menagerie:unitree_go': Unknown robot"),
        ("menagerie:unitree_go1/stage", "no entry point 'stage'"),
        ("menagerie:unitree_go1", "not found under MENAGERIE_ROOT"),
    ],
)
def test_what_the_menagerie_does_not_have_is_named(cart, tmp_path, monkeypatch, name, said):
    pytest.importorskip("mujoco_menagerie", reason="the package mujoco-menagerie is not installed")
    root = tmp_path / "menagerie"
    root.mkdir()
    if "stage" in name:
        (root / "unitree_go1").mkdir()
    monkeypatch.setenv("MENAGERIE_ROOT", str(root))
    task = load_task(cart(lambda task: task["simulation"].update(mjcf=name)))
    with pytest.raises(ConfigError, match=said):
        Simulation(task)


def test_the_menagerie_is_asked_for_where_it_is_not_installed(cart, monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", None)
    task = load_task(cart(lambda task: task["simulation"].update(mjcf="menagerie:unitree_go1")))
    with pytest.raises(ConfigError, match="pip install mujoco-menagerie"):
        Simulation(task)
