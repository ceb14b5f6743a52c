"""A robot that is told positions and a velocity: an arm of two servos, and a wheel. Known to the tests only."""

import yaml

from maac_ros.task import load_task

MJCF = """
<mujoco>
  <option timestep="0.005" integrator="implicitfast"/>
  <worldbody>
    <body pos="0 0 1">
      <joint name="shoulder" type="hinge" axis="0 1 0" damping="0.2"/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.03" mass="1"/>
      <body pos="0.3 0 0">
        <joint name="slide" type="slide" axis="1 0 0" damping="1"/>
        <geom type="box" size="0.05 0.05 0.05" mass="0.2"/>
        <body pos="0.1 0 0">
          <joint name="wheel" type="hinge" axis="0 1 0" damping="0.01"/>
          <geom type="cylinder" size="0.05 0.02" mass="0.1"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="shoulder" kp="60" kv="4" ctrllimited="true" ctrlrange="-2 2"/>
    <position joint="slide" kp="80" kv="8"/>
    <velocity joint="wheel" kv="0.05"/>
  </actuator>
</mujoco>
"""
JOINTS = ["shoulder", "slide", "wheel"]
TASK = {
    "schema_version": 1,
    "name": "servo_robot",
    "description": "An arm of two servos, and a wheel.",
    "robot": {
        "joints": {
            "shoulder": {"type": "revolute"},
            "slide": {"type": "prismatic"},
            "wheel": {"type": "revolute"},
        }
    },
    "simulation": {
        "mjcf": "servo_robot.xml",
        "reset": [{"term": "joint_position", "joints": ["shoulder"], "offset": [-0.3, 0.3]}],
        "episode_steps": 40,
    },
    "control": {"period_s": 0.02},
    "observation": [
        {"term": "joint_position", "joints": ["shoulder", "slide"]},
        {"term": "joint_velocity", "joints": JOINTS},
    ],
    "action": [
        {"term": "velocity", "joints": ["wheel"], "limits": [-6, 3], "safe": -1},
        {"term": "position", "joints": ["shoulder", "slide"], "limits": [[-1, 1.5], [0, 0.1]]},
    ],
    "reward": {
        "source": "analytic",
        "analytic": [{"term": "closeness", "entry": "shoulder/position", "target": 1, "scale": 1, "weight": 1}],
    },
}  # fmt: skip


def write(folder, change=lambda task: None, mjcf=MJCF):
    """Both files in ``folder``, with ``change`` made to the task; returns the task's path."""
    task = yaml.safe_load(yaml.safe_dump(TASK))
    change(task)
    (folder / "servo_robot.xml").write_text(mjcf, encoding="utf-8")
    path = folder / "servo_robot.yaml"
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    return path


def load(folder, **given):
    """The task of :func:`write`."""
    return load_task(write(folder, **given))
