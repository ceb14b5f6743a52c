"""What is checked before a run takes its first step, so that nothing fails hours later."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from maac_learning import checkpoint
from maac_learning.config import TrainConfig
from maac_ros.errors import ConfigError


def usable_device(name: str) -> torch.device:
    """The device of that name, after a sum on it.

    Raises:
        ConfigError: when this machine cannot use it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError) as reason:
        text = str(reason).splitlines()[0]
        raise ConfigError(f"device: got '{name}'; this machine cannot use it: {text}") from reason
    return device


def prepare_run_dir(run_dir: Path, config_file: str) -> None:
    """Create the folder of a new run, and try whether it can be written to.

    Raises:
        ConfigError: when it holds a run already, or cannot be written to.
    """
    if (run_dir / config_file).exists():
        raise ConfigError(
            f"run folder '{run_dir}' already holds a run; resume it or choose another folder"
        )
    trial = run_dir / ".writable"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as reason:
        raise ConfigError(
            f"run folder '{run_dir}': cannot be written to: {reason.strerror}"
        ) from reason


def check_sizes(
    config: TrainConfig, run_dir: Path, observations: int, actions: int, device: torch.device
) -> None:
    """Check that there are data for a first fit, and room for all of the data in memory and on the disk.

    Raises:
        ConfigError: naming the setting, what it needs and what there is.
    """
    if config.random_steps < 2:
        raise ConfigError(
            f"random_steps: got {config.random_steps}; expected at least 2: the first model fit needs a transition "
            "to learn from and one to hold out"
        )
    needed = config.env_steps * (2 * observations + actions + 2) * 4
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[1]
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    on_disk = needed * (checkpoint.KEEP + 1)  # one more while it is being written
    for what, wanted, there in (
        (f"of memory on {device}", needed, memory),
        (f"free in '{run_dir}' for checkpoints", on_disk, shutil.disk_usage(run_dir).free),
    ):
        if wanted > there:
            raise ConfigError(
                f"env_steps: got {config.env_steps}; all transitions are kept, which takes {wanted / 1e9:.1f} GB "
                f"{what}, and there are {there / 1e9:.1f}"
            )
