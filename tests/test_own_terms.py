"""Terms of another package: installed, they are used by name in training as at run time."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import yaml

from maac_ros.resources import named_file

TERMS = '''
from typing import Literal

import numpy as np

from maac_ros.terms import DerivedTerm, ObservationEntry, RewardBase


class Tip(DerivedTerm):
    """How high the tip of the arm is, m, of links of 0.5 and 0.4 m."""

    term: Literal["tip_height"]

    def entries(self, robot):
        return [ObservationEntry("tip/height", "m", "joint_states")]

    def derive(self, state, joints):
        shoulder = state.joint_position[joints["shoulder"]]
        elbow = state.joint_position[joints["elbow"]]
        return np.array([-0.5 * np.cos(shoulder) - 0.4 * np.cos(shoulder + elbow)])


class High(RewardBase):
    """The square of an entry after the step."""

    term: Literal["high"]
    entry: str

    def entries(self):
        return (self.entry,)

    def value(self, step):
        return step.following[..., step.index[self.entry]] ** 2


class Short(Tip):
    term: Literal["short"]

    def derive(self, state, joints):
        return np.zeros(3)


class Failing(Tip):
    term: Literal["failing"]

    def derive(self, state, joints):
        raise KeyError("knee")


class Nameless(RewardBase):
    pass


class Taken(RewardBase):
    term: Literal["alive"]
'''

POINTS = {
    "tip": "arm_terms:Tip",
    "high": "arm_terms:High",
    "short": "arm_terms:Short",
    "failing": "arm_terms:Failing",
}


@pytest.fixture
def install(tmp_path):
    """``install(points)``: a package with these entry points; returns what runs Python code with it installed."""

    def make(points=POINTS):
        site = tmp_path / "site"
        info = site / "arm_terms-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "arm_terms.py").write_text(TERMS)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: arm-terms\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[maac_ros.terms]", *lines]) + "\n")

        def run(code, *arguments):
            path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
            return subprocess.run(
                [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )

        return run

    return make


@pytest.fixture
def task_file(tmp_path):
    """``task_file(term)``: the two-joint arm that observes ``term`` and is rewarded for its height."""

    def make(term="tip_height"):
        file = named_file("tasks", "two_joint_arm", "task")
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
        data["observation"].append({"term": term, "history": 1})
        data["reward"]["analytic"] = [{"term": "high", "entry": "tip/height", "weight": 2.0}]
        path = tmp_path / "task.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        return path

    return make


def test_own_terms_are_learned_exported_and_run(install, task_file, tmp_path):
    settings = tmp_path / "small.yaml"
    settings.write_text(
        yaml.safe_dump(
            {
                "env_steps": 60,
                "random_steps": 50,
                "planning": {"steps": 5},
                "model": {
                    "reward": "analytic",
                    "members": 2,
                    "hidden": [16],
                    "first_fit_steps": 20,
                },
                "agent": {"hidden": [16], "first_updates": 2, "critic_warmup": 1, "batch_size": 8},
                "evaluation": {"every": 10, "episodes": 1},
            }
        )
    )
    done = install()(
        """
        import json, sys
        import numpy as np
        from maac_learning.cli import main
        from maac_ros.bundle import load_bundle
        from maac_ros.evaluation import evaluate
        from maac_ros.simulation import TaskEnv

        task, settings, run = sys.argv[1:]
        assert main(["train", "--task", task, "--config", settings, "--run-dir", run]) == 0
        bundle = load_bundle(run + "/bundle")
        env = TaskEnv(bundle.task)
        first = env.reset(seed=0)[0]
        shoulder, elbow = first[:2]
        height = -0.5 * np.cos(shoulder) - 0.4 * np.cos(shoulder + elbow)
        following, reward, *_ = env.step(np.array([0.3, -0.1]))
        (episode, _), = evaluate(bundle, 1, 0, use_mpc=True)
        print("RESULT", json.dumps({
            "names": [e.name for e in env.builder.entries][4:],
            "height": [height, *first[4:]],
            "recalled": [first[4], following[5]],
            "reward": [2.0 * following[4] ** 2, reward],
            "steps": episode.steps,
        }))
        """,
        task_file(),
        settings,
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.split("RESULT ")[1])
    assert result["names"] == ["tip/height", "tip/height@1"]
    assert result["height"] == pytest.approx([result["height"][0]] * 3)
    assert result["recalled"][0] == result["recalled"][1]
    assert result["reward"][1] == pytest.approx(result["reward"][0])
    assert result["steps"] == 200


LOAD = """
    import sys
    from maac_learning.cli import main
    sys.exit(main(["check", "--task", sys.argv[1], "--robot", "reaching_arm"]))
"""


def test_without_its_package_a_term_is_told_to_be_unknown(install, task_file):
    done = install({})(LOAD, task_file())
    assert done.returncode != 0
    assert "observation.2" in done.stdout + done.stderr
    assert "'tip_height'" in done.stdout + done.stderr
    assert "'joint_position'" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ("short", "term 'short': derives an array of shape (3,); expected (1,)"),
        ("failing", "term 'failing': cannot be derived: KeyError('knee')"),
    ],
)
def test_a_term_that_does_not_do_what_it_says_is_refused(install, task_file, term, said):
    code = """
        import sys
        from maac_ros.errors import TaskError
        from maac_ros.simulation import TaskEnv
        from maac_ros.task import load_task
        try:
            TaskEnv(load_task(sys.argv[1]))
        except TaskError as reason:
            print(reason)
    """
    done = install()(code, task_file(term))
    assert said in done.stdout, done.stderr


def test_a_package_that_cannot_be_used_is_told_and_keeps_no_task_from_being_read(install):
    points = {
        "gone": "arm_terms:Gone",
        "nameless": "arm_terms:Nameless",
        "taken": "arm_terms:Taken",
        "other": "json:dumps",
        "high": "arm_terms:High",
    }
    code = """
        from maac_ros.reward_terms import AliveReward, Reward
        from maac_ros.task import load_task
        load_task("hopper")
        terms = [{"term": "alive", "weight": 1}, {"term": "high", "entry": "x", "weight": 1}]
        alive, high = Reward(source="analytic", analytic=terms).analytic
        assert type(alive) is AliveReward
        print(type(high).__name__)
    """
    done = install(points)(code)
    assert done.stdout == "High\n", done.stderr
    told = done.stderr.splitlines()
    assert len(told) == 4
    for name, said in {
        "gone = arm_terms:Gone": "cannot be loaded",
        "nameless = arm_terms:Nameless": "no Literal",
        "taken = arm_terms:Taken": "there is a term 'alive' already",
        "other = json:dumps": "expected a DerivedTerm or a RewardBase",
    }.items():
        origin = f"package 'arm-terms', entry point maac_ros.terms: {name}"
        assert any(origin in line and said in line for line in told)
