"""Where the Go1 of MuJoCo Menagerie is, or a robot of the same joints, standing in for it: boxes and capsules."""

from pathlib import Path

import pytest

LEGS = ("FR", "FL", "RR", "RL")
JOINTS = [f"{leg}_{part}_joint" for leg in LEGS for part in ("hip", "thigh", "calf")]
_RANGES = {"hip": (-0.863, 0.863), "thigh": (-0.686, 4.501), "calf": (-2.818, -0.888)}


def _leg(leg: str) -> str:
    x, y = (0.19 if leg[0] == "F" else -0.19), (-1 if leg[1] == "R" else 1)
    return f"""
      <body pos="{x} {0.05 * y} 0">
        <joint name="{leg}_hip_joint" axis="1 0 0" damping="1" armature="0.01"/>
        <geom type="box" size="0.04 0.03 0.04" mass="0.7" contype="0" conaffinity="0"/>
        <body pos="0 {0.08 * y} 0">
          <joint name="{leg}_thigh_joint" axis="0 1 0" damping="2" armature="0.01"/>
          <geom type="capsule" fromto="0 0 0 0 0 -0.213" size="0.015" mass="1" contype="0" conaffinity="0"/>
          <body pos="0 0 -0.213">
            <joint name="{leg}_calf_joint" axis="0 1 0" damping="2" armature="0.01"/>
            <geom type="capsule" fromto="0 0 0 0 0 -0.2" size="0.01" mass="0.2" contype="0" conaffinity="0"/>
            <geom type="sphere" pos="0 0 -0.213" size="0.023" mass="0.01" friction="0.8"/>
          </body>
        </body>
      </body>"""


def stand_in(folder: Path) -> Path:
    """A menagerie in ``folder`` whose Go1 is of boxes; to be named by ``MENAGERIE_ROOT``."""
    stance = "0 0.9 -1.8 " * 4
    servos = "".join(
        f'<position joint="{joint}" kp="100" ctrllimited="true" ctrlrange="{low} {high}"/>'
        for joint in JOINTS
        for low, high in [_RANGES[joint.split("_")[1]]]
    )
    (folder / "unitree_go1").mkdir(parents=True)
    (folder / "unitree_go1" / "scene.xml").write_text(
        f"""
<mujoco>
  <option timestep="0.002"/>
  <worldbody>
    <geom type="plane" size="0 0 1"/>
    <body name="trunk" pos="0 0 0.445">
      <freejoint/>
      <geom type="box" size="0.2 0.08 0.05" mass="5"/>{"".join(map(_leg, LEGS))}
    </body>
  </worldbody>
  <actuator>{servos}</actuator>
  <keyframe><key name="home" qpos="0 0 0.27 1 0 0 0 {stance}" ctrl="{stance}"/></keyframe>
</mujoco>""",
        encoding="utf-8",
    )
    return folder


def require_menagerie() -> None:
    """Skip where the real Go1 is not here and would have to be downloaded."""
    menagerie = pytest.importorskip(
        "mujoco_menagerie", reason="the package mujoco-menagerie is not installed"
    )
    cache, robot = menagerie.Cache(), menagerie.get("unitree_go1")
    there = (cache.root / robot.name).is_dir() if cache.root else cache.is_cached(robot)
    if not there:
        pytest.skip(
            "the Go1 of MuJoCo Menagerie is not here: mujoco-menagerie downloads it when the task is first used"
        )
