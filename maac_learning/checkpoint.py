"""Checkpoints without pickle: a folder with ``tensors.safetensors``, ``state.yaml`` and their ``SHA256SUMS``.

A checkpoint appears only when it is complete, and is removed only when a newer one is on the disk.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from maac_learning.files import flush
from maac_ros import schema
from maac_ros.errors import CheckpointError

logger = logging.getLogger(__name__)

KEEP = 2
"""Checkpoints kept; older ones are removed."""

_TENSORS, _STATE, _SUMS = "tensors.safetensors", "state.yaml", "SHA256SUMS"

Restored = TypeVar("Restored")


def save(folder: Path, env_steps: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write ``<folder>/step_<env_steps>`` and return it.

    Checkpoints from here on that are there already are of an abandoned course, and are removed.

    Raises:
        CheckpointError: when it cannot be written; the older ones remain.
    """
    contents = {
        _TENSORS: save_tensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()}),
        _STATE: yaml.safe_dump(state, sort_keys=False).encode(),
    }
    contents[_SUMS] = "".join(f"{_digest(d)}  {n}\n" for n, d in contents.items()).encode()
    # Never onto an older one of the same step: it may be the only one that is whole.
    stem = folder / f"step_{env_steps:09d}"
    final = next(p for p in _names(stem) if not p.exists())
    staging = folder / f".{final.name}.writing"
    for leftover in folder.glob(".step_*.writing"):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        for name, data in contents.items():
            (staging / name).write_bytes(data)
            flush(staging / name)
        flush(staging)
        os.replace(staging, final)
        flush(folder)
    except OSError as reason:
        shutil.rmtree(staging, ignore_errors=True)
        raise CheckpointError(f"{final}: cannot be written: {reason.strerror}") from reason
    before = [path for path in available(folder) if path.name < stem.name]
    for path in available(folder):
        if path != final and path not in before[-(KEEP - 1) :]:
            shutil.rmtree(path, ignore_errors=True)
    return final


def available(folder: Path) -> list[Path]:
    """Checkpoints below ``folder``, oldest first."""
    return sorted(folder.glob("step_*"))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read one checkpoint.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    sums = _read(path / _SUMS).decode(errors="replace").split()
    expected = dict(zip(sums[1::2], sums[::2], strict=False))
    data = {name: _read(path / name) for name in (_TENSORS, _STATE)}
    for name, content in data.items():
        if _digest(content) != expected.get(name):
            raise CheckpointError(f"{path / name}: damaged: its sha256 is not the one in {_SUMS}")
    state = schema.read_yaml(path / _STATE, CheckpointError)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path / _STATE}: expected a mapping, got {type(state).__name__}")
    try:
        return load_tensors(data[_TENSORS]), state
    except SafetensorError as reason:
        raise CheckpointError(f"{path / _TENSORS}: cannot be read: {reason}") from reason


def load_newest(
    folder: Path, restore: Callable[[dict[str, Tensor], dict[str, Any]], Restored]
) -> Restored:
    """What ``restore`` makes of the newest checkpoint that it can use; each newer one is warned of.

    Raises:
        CheckpointError: listing every checkpoint with what is wrong with it, when none can be used.
    """
    problems: list[str] = []
    for path in reversed(available(folder)):
        try:
            restored = restore(*load(path))
        except CheckpointError as reason:
            problems.append(str(reason))
        except (KeyError, RuntimeError, TypeError, ValueError) as reason:
            text = f"{reason} is missing" if isinstance(reason, KeyError) else str(reason)
            problems.append(f"{path}: does not fit this run's settings: {text}")
        else:
            for problem in problems:
                logger.warning("%s; going on from %s instead", problem, path)
            return restored
    if problems:
        raise CheckpointError("\n".join(["no usable checkpoint:", *problems]))
    raise CheckpointError(f"{folder}: no checkpoint to resume from")


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an Adam-like optimiser as flat tensors ``<name>.<parameter>.<key>``: its own, not copies."""
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


def _names(stem: Path) -> Iterator[Path]:
    yield stem
    for number in itertools.count(2):
        yield stem.with_name(f"{stem.name}.{number}")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as reason:
        raise CheckpointError(f"{path}: cannot be read: {reason.strerror}") from reason
