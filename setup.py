"""Install maac_ros, an ament_python package, with colcon or with pip."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

NAME = "maac_ros"
PROGRAMS = {
    "maac": "maac_learning.cli:main",
    "policy_node": "maac_ros.nodes.policy_node:main",
    "sim_node": "maac_ros.nodes.sim_node:main",
    "camera_node": "maac_ros.nodes.camera_node:main",
    "trainer_node": "maac_ros.nodes.trainer_node:main",
}

about = {}
exec(Path(NAME, "version.py").read_text(encoding="utf-8"), about)


def share(folder, pattern):
    """Return data_files entries that put the matching files, subfolders kept, under share/."""
    files = sorted(path for path in Path(folder).rglob(pattern) if path.is_file())
    return [(f"share/{NAME}/{path.parent}", [str(path)]) for path in files]


def executables():
    """Return data_files entries for lib/maac_ros, where `ros2 run` and launch files look.

    colcon puts the programs there itself (see setup.cfg). pip puts them into bin/ whatever
    setup.cfg says, so that a wheel needs a script in lib/maac_ros that starts the one in bin/.
    """
    if "bdist_wheel" not in sys.argv:
        return []
    folder = Path("build", "executables")
    folder.mkdir(parents=True, exist_ok=True)
    scripts = [folder / program for program in PROGRAMS]
    for script in scripts:
        script.write_text(
            f'#!/bin/sh\nexec "$(dirname "$(readlink -f "$0")")"/../../bin/{script.name} "$@"\n',
            encoding="utf-8",
        )
        script.chmod(0o755)
    return [(f"lib/{NAME}", [str(script) for script in scripts])]


setup(
    name=NAME,
    version=about["__version__"],
    description="Model-augmented actor-critic: learn a policy and a model, run both under ROS 2",
    license="MIT",
    maintainer="maac_ros maintainers",
    maintainer_email="maintainers@maac-ros.dev",
    python_requires=">=3.10",
    packages=find_packages(
        include=["maac_ros", "maac_ros.*", "maac_learning", "maac_learning.*"],
    ),
    package_data={"maac_ros": ["py.typed"], "maac_learning": ["py.typed", "report/page.html"]},
    zip_safe=False,
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *share("launch", "*.py"),
        *share("config", "*.yaml"),
        *share("config/sros2", "*.xml"),
        *share("config/foxglove", "*.json"),
        *share("config/plotjuggler", "*.xml"),
        *share("config/rviz", "*.rviz"),
        *share("bundles", "*"),
        *share("sim", "*"),
        *executables(),
    ],
    # Everything but ROS 2 itself. The versions that are tested are in requirements/.
    install_requires=[
        "gymnasium[mujoco]>=1.0",
        "imageio",
        "imageio-ffmpeg",
        "matplotlib",
        "mcap",
        "mcap-ros2-support",
        "mujoco>=3.2",
        "numpy>=1.26",
        "onnx",
        "onnxruntime; sys_platform != 'linux' or platform_machine != 'x86_64'",
        "onnxruntime-gpu; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "onnxscript",
        "pydantic>=2",
        "pyyaml",
        "safetensors",
        "setuptools",
        "tensorboard",
        "torch>=2.6",
        "tqdm",
        "tyro",
    ],
    extras_require={
        "baselines": ["stable-baselines3"],
        # For worlds from MuJoCo Menagerie.
        "menagerie": ["mujoco-menagerie"],
        # For `maac report`. The arch that rliable asks for cannot be imported with pandas 3.
        "report": ["jinja2", "pandas<3", "rliable"],
        "test": ["hypothesis", "pytest", "pytest-timeout", "rosbags"],
    },
    entry_points={
        "console_scripts": [f"{program} = {main}" for program, main in PROGRAMS.items()],
    },
)
