"""The documentation site builds without a warning, and its reference is complete."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: parameters are the nodes'")
from maac_learning.config import AgentConfig, ModelConfig
from maac_ros.nodes import camera_node, policy_parameters, sim_node, trainer_node
from maac_ros.observation_terms import LastCommand

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def text(site, page):
    """A page without its tags, its white space as single spaces."""
    html = (site / page / "index.html").read_text(encoding="utf-8")
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_every_parameter_is_explained(site):
    page = text(site, "reference/parameters")
    for specs in (
        policy_parameters.SPECS.values(),
        sim_node.PARAMETERS,
        camera_node.PARAMETERS,
        trainer_node.PARAMETERS,
    ):
        for spec in specs:
            assert f" {spec.name} " in page
            assert spec.description.split(".")[0].replace("'", "&#39;")[:30] in page.replace(
                "'", "&#39;"
            )


def test_every_setting_and_term_is_explained(site):
    settings = text(site, "reference/settings")
    for model in (AgentConfig, ModelConfig):
        for name, field in model.model_fields.items():
            assert f" {name} " in settings
            assert field.description, name
    terms = text(site, "reference/descriptions")
    assert " last_command " in terms
    assert LastCommand.__doc__.split(",")[0] in terms


def test_pages_lead_to_what_they_name(site):
    """Strict building checks links between pages; those out of the docs folder are copied along."""
    copied = site / "repository"
    assert (copied / "config" / "tasks" / "reaching_arm.yaml").is_file()
    assert (copied / "results" / "report" / "overview.png").is_file()
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="your-robot/"' in start
    for target in re.findall(r'(?:href|src)="(repository/[^"#]+)"', start):
        assert (site / target).is_file(), target
