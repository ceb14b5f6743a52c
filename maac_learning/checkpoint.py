"""Checkpoints without pickle: a folder with ``tensors.safetensors`` and ``state.yaml``, written atomically."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from maac_ros import schema
from maac_ros.errors import CheckpointError

KEEP = 2
"""Checkpoints kept; older ones are removed."""

_TENSORS, _STATE = "tensors.safetensors", "state.yaml"


def save(folder: Path, env_steps: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write ``<folder>/step_<env_steps>``; it appears only when it is complete."""
    final = folder / f"step_{env_steps:09d}"
    staging = folder / f".{final.name}.writing"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, staging / _TENSORS)
    (staging / _STATE).write_text(yaml.safe_dump(state, sort_keys=False), encoding="utf-8")
    for path in (staging / _TENSORS, staging / _STATE, staging):
        _flush(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(staging, final)
    for old in available(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def available(folder: Path) -> list[Path]:
    """Complete checkpoints below ``folder``, oldest first."""
    return sorted(folder.glob("step_*"))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read one checkpoint.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    state = schema.read_yaml(path / _STATE, CheckpointError)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path / _STATE}: expected a mapping, got {type(state).__name__}")
    try:
        return load_file(path / _TENSORS), state
    except (OSError, SafetensorError) as reason:
        raise CheckpointError(f"{path / _TENSORS}: cannot be read: {reason}") from reason


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an Adam-like optimiser as flat tensors ``<name>.<parameter>.<key>``."""
    return {
        f"{name}.{index}.{key}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def load_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Take back what :func:`optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        if full.startswith(f"{name}."):
            index, key = full.removeprefix(f"{name}.").split(".", 1)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
