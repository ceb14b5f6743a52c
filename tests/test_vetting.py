"""Bundles verified by another process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maac_ros import vetting
from maac_ros.bundle import load_bundle, load_verified, manifest_yaml
from maac_ros.errors import BundleError

CPU = ["CPUExecutionProvider"]


@pytest.fixture
def bundle(untrained_bundle, tmp_path):
    shutil.copytree(untrained_bundle("inverted_pendulum").path, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_what_another_process_verified_is_the_bundle(bundle):
    loaded = load_bundle(bundle)
    vetted = vetting.vet(str(bundle), CPU)
    assert (vetted.folder, vetted.manifest) == (loaded.path, loaded.manifest)
    assert vetted.metadata == manifest_yaml(loaded.manifest)
    opened = load_verified(vetted.folder, vetted.manifest)
    observation = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for got, expected in zip(
        opened.policy(observation=observation), loaded.policy(observation=observation), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_refusals_are_told_in_the_words_of_load_bundle(bundle):
    graph = bundle / "value.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(BundleError) as here:
        load_bundle(bundle)
    with pytest.raises(BundleError) as there:
        vetting.vet(str(bundle), CPU)
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize("name", ["", "/nowhere", "--help", "a\0b", "$(true)"])
def test_what_is_no_bundle_is_refused(name):
    with pytest.raises(BundleError, match="bundle"):
        vetting.vet(name, CPU)


@pytest.mark.parametrize("file", ["policy.onnx", "model.onnx", "step.onnx", "value.onnx"])
def test_graphs_that_changed_since_are_not_taken(bundle, file):
    vetted = vetting.vet(str(bundle), CPU)
    data = bytearray((bundle / file).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / file).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{file}: sha256: got .* expected"):
        load_verified(vetted.folder, vetted.manifest)


def test_process_that_dies_or_takes_for_ever_is_told(bundle, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(BundleError, match=r"cannot be verified: .*/nowhere/python"):
        vetting.vet(str(bundle), CPU)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(BundleError, match="was not verified: the process that did it ended with 1"):
        vetting.vet(str(bundle), CPU)
    monkeypatch.undo()
    monkeypatch.setattr(vetting, "TRIES", (((), 0.01), ((), 0.02)))
    with pytest.raises(BundleError, match=r"not verified within 0\.03 s"):
        vetting.vet(str(bundle), CPU)


def test_busy_machine_gives_it_a_second_chance(bundle, monkeypatch):
    monkeypatch.setattr(vetting, "TRIES", ((("maac_ros.idle",), 0.01), ((), 60.0)))
    assert vetting.vet(str(bundle), CPU).folder == bundle


def test_the_process_runs_while_nobody_else_wants_the_core(tmp_path):
    (tmp_path / "told.py").write_text("import os, sys; print(os.sched_getscheduler(0), sys.argv)")
    words = [sys.executable, "-m", "maac_ros.idle", "told", "--these"]
    path = f"{tmp_path}{os.pathsep}{Path(vetting.__file__).parent.parent}"
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=True, text=True
    )
    assert done.stdout.split(maxsplit=1)[0] == str(os.SCHED_IDLE)
    assert done.stdout.rstrip().endswith("told.py', '--these']")
