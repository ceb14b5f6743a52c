"""The bundles that ship with the package run, and do what they say of themselves."""

import numpy as np
import pytest
import quadruped

from maac_ros.bundle import load_bundle, require_same_task
from maac_ros.errors import BundleError
from maac_ros.evaluation import evaluate
from maac_ros.resources import share_directory
from maac_ros.task import load_task

SHIPPED = sorted(folder.name for folder in (share_directory() / "bundles").iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_bundle_fits_its_task_and_reaches_its_return(name):
    bundle = load_bundle(name)
    require_same_task(bundle, load_task(name))
    if (bundle.task.simulation.mjcf or "").startswith("menagerie:"):
        quadruped.require_menagerie()
    promised = bundle.manifest.provenance.evaluation_return
    returns = [e.episode_return for e, _ in evaluate(bundle, 3, seed=0, use_mpc=False)]
    assert np.mean(returns) > 0.8 * promised, returns


def test_a_folder_is_taken_before_a_shipped_bundle_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / SHIPPED[0]).mkdir()
    with pytest.raises(BundleError, match=r"bundle\.yaml"):
        load_bundle(SHIPPED[0])


def test_unknown_bundle_is_refused_with_the_names_of_those_that_ship():
    with pytest.raises(BundleError, match=f"'nowhere' is not a folder; .*: .*{SHIPPED[0]}"):
        load_bundle("nowhere")
