"""The training benchmark: arithmetic counted for real, phases that add up, devices that agree."""

import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

from maac_learning import evidence
from maac_learning.agent import UpdateReport
from maac_learning.benchmarks.flops import FlopCount, Product, ProductClock
from maac_learning.benchmarks.peers import Mbrl, portable
from maac_learning.benchmarks.training import (
    TrainingArguments,
    compare_with_cpu,
    loss_differences,
    measured_config,
    update_flops,
    update_products,
)
from maac_learning.cli import main
from maac_learning.config import load_train_config
from maac_learning.networks import EnsembleMLP
from maac_ros.errors import BenchmarkError, ConfigError
from maac_ros.task import load_task

TINY = """
threads: 1
model: {members: 2, hidden: [16, 16], fit_every: 20, fit_steps: 50}
rollout: {batch: 20}
agent: {hidden: [16, 16], batch_size: 32, critic_warmup: 2}
evaluation: {every: 40, episodes: 1}
checkpoint_every: 10000
"""


def products(members, rows, *sizes):
    """Operations of one pass through the layers."""
    return sum(2 * members * rows * a * b for a, b in itertools.pairwise(sizes))


def test_operations_of_an_ensemble_are_those_counted_by_hand():
    mlp = EnsembleMLP(3, (7, 11, 5), "silu", norm="before")
    with FlopCount() as count:
        loss = mlp(torch.randn(3, 13, 7)).sum()
    assert count.total == products(3, 13, 7, 11, 5)
    with FlopCount() as count:
        loss.backward()
    # Once more for the weights, and for the inputs of all layers but the first.
    assert count.total == products(3, 13, 7, 11, 5) + products(3, 13, 11, 5)


def test_operations_in_custom_functions_and_in_place_are_counted():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(context, x, weight):
            context.save_for_backward(weight)
            return 2 * (x @ weight)

        @staticmethod
        def backward(context, gradient):
            (weight,) = context.saved_tensors
            return 2 * (gradient @ weight.T), None

    x = torch.randn(4, 6, requires_grad=True)
    with FlopCount() as count:
        Double.apply(x, torch.randn(6, 5)).sum().backward()
    assert count.total == 2 * products(1, 4, 6, 5)
    with FlopCount() as count, torch.no_grad():
        torch.zeros(4, 5).addmm_(x, torch.randn(6, 5))
        torch.mm(x, torch.randn(6, 5), out=torch.empty(4, 5))
        torch.relu(x)
    assert count.total == 2 * products(1, 4, 6, 5)


def test_operations_of_an_update_grow_with_the_horizon_by_at_least_those_of_a_step():
    task = load_task("half_cheetah")
    counts = [
        update_flops(load_train_config(task.name, overrides={"agent": horizons}), task)
        for horizons in ({"horizon": h, "critic_horizon": h} for h in (2, 3, 4))
    ]
    assert counts[2] - counts[1] == counts[1] - counts[0]
    model, policy = (
        products(1, 260, 17 + 6, *4 * [200], 17 + 1),
        products(1, 260, 17, 256, 256, 2 * 6),
    )
    # Forward through both; back through the model to its inputs, and to inputs and weights of the policy.
    assert counts[1] - counts[0] >= 2 * model + 3 * policy


def test_model_steps_for_the_critics_alone_cost_no_gradient():
    task = load_task("half_cheetah")
    counts = [
        update_flops(
            load_train_config(
                task.name, overrides={"agent": {"horizon": horizon, "critic_horizon": 5}}
            ),
            task,
        )
        for horizon in (0, 1, 5)
    ]
    step, whole = counts[1] - counts[0], counts[2] - counts[0]
    assert step > 0
    assert whole == 5 * step


def test_products_of_an_update_are_those_of_its_largest_layers():
    config = load_train_config("half_cheetah")
    assert list(map(str, update_products(config))) == [
        "(5,52,256) x (5,256,256)",
        "(5,260,256) x (5,256,256)",
    ]


def test_speed_of_a_product_is_its_operations_over_its_time():
    product = Product(2, 30, 40, 50)
    assert product.flops == products(2, 30, 40, 50)
    waits = []
    clock = ProductClock([product], torch.device("cpu"), lambda: waits.append(1), seconds=0.01)
    clock.measure()
    once = len(waits)
    clock.measure()
    assert len(waits) > once > 1
    assert clock.gflops(product) > 0


def test_command_prints_phases_that_add_up_and_writes_them_as_evidence(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(TINY)
    result = tmp_path / "training.json"
    options = ["--task", "inverted_pendulum", "--env-steps", "40", "--replay", "300"]
    options += ["--config", str(tmp_path / "tiny.yaml"), "--json", str(result)]
    assert main(["bench", "training", *options, "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "updates: joint" in printed
    assert "(1024,1024) x (1024,1024)" in printed
    written = evidence.read(result)
    seconds = {row["phase"]: row["seconds_per_1000_steps"] for row in written.rows}
    total, learning = seconds.pop("all in"), seconds.pop("learning")
    assert total == pytest.approx(sum(seconds.values()))
    assert learning == pytest.approx(total - seconds["evaluation"] - seconds["checkpoints"])
    assert all(value > 0 for value in seconds.values()), seconds
    blocks = written.details["block_seconds_per_1000_steps"]
    assert len(blocks) == 2
    assert learning == pytest.approx(sum(blocks) / 2)
    update = written.details["update"]
    assert update["count"] == 40
    assert seconds["updates: joint"] >= 0.5 * update["p50_ms"]
    assert written.details["update_gflops"] == pytest.approx(
        written.details["update_gflop"] / update["p50_ms"] * 1e3
    )
    assert written.details["peak_memory_mib"] > 100


def test_measured_steps_have_the_presets_own_settings():
    usual = load_train_config("half_cheetah")
    measured = measured_config(TrainingArguments(env_steps=3000, replay=10_000))
    assert measured.env_steps > 13_000
    differing = {k for k, v in measured if v != getattr(usual, k)}
    assert differing == {"device", "random_steps", "env_steps", "model", "agent"}
    differing = {k for k, v in measured.model if v != getattr(usual.model, k)}
    assert differing == {"first_fit_steps"}
    assert {k for k, v in measured.agent if v != getattr(usual.agent, k)} == {"first_updates"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_steps": 1500}, r"--env-steps: got 1500; expected a multiple of .*\(1000\)"),
        ({"replay": 0}, "--replay: got 0"),
        ({"config": Path("/nowhere.yaml")}, r"/nowhere\.yaml: cannot be read"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        measured_config(TrainingArguments(**options))


def report(**losses):
    values = dict.fromkeys(UpdateReport._fields, 2.0) | losses
    return UpdateReport(**{name: torch.tensor(value) for name, value in values.items()})


def test_losses_that_differ_between_devices_are_refused_by_name():
    differences = loss_differences(1, report(), report(critic_loss=2.001))
    assert differences["critic_loss"] == pytest.approx(1e-3, rel=1e-2)
    for wrong in (2.01, float("nan")):
        with pytest.raises(BenchmarkError, match=r"update 3: critic_loss: got .* on the CPU"):
            loss_differences(3, report(), report(critic_loss=wrong))


def test_updates_are_compared_from_the_same_weights_states_and_noise(tmp_path):
    config = load_train_config("inverted_pendulum", overrides={"device": "cpu"})
    differences = compare_with_cpu(config, load_task("inverted_pendulum"))
    assert differences == dict.fromkeys(UpdateReport._fields, 0.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_cuda_is_told_so(capsys):
    assert main(["bench", "training", "--device", "cuda"]) == 2
    assert "finds no CUDA device on this machine" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu_and_is_measured(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(TINY)
    result = tmp_path / "training.json"
    options = ["--task", "inverted_pendulum", "--env-steps", "20", "--replay", "300"]
    options += ["--config", str(tmp_path / "tiny.yaml"), "--json", str(result)]
    assert main(["bench", "training", *options, "--device", "cuda"]) == 0
    assert "losses on cuda and cpu agree" in capsys.readouterr().out
    assert json.loads(result.read_text())["details"]["peak_device_memory_mib"] > 0


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (None, "--peer-python: missing"),
        (Path("/nowhere/python"), "is not a program that can be run"),
        (Path(sys.executable), "cannot run mbrl-lib: ModuleNotFoundError"),
    ],
)
def test_a_peer_that_cannot_run_is_refused_with_the_way_to_install_it(python, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        Mbrl(python, "peer_mbrl.py", {"task": "half_cheetah", "replay": 1000}, threads=1)
    assert "pip install --no-deps mbrl==0.2.0" in str(refusal.value)


def test_evidence_does_not_name_the_place_of_the_peer():
    assert portable(["--peer-python", "/here/python", "--seed", "1"]) == [
        "--peer-python",
        "PYTHON",
        "--seed",
        "1",
    ]
    assert portable(["--peer-python=/here/python"]) == ["--peer-python=PYTHON"]
