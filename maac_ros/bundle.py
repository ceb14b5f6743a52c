"""The bundle: the folder that carries a learned controller from training to a robot.

``bundle.yaml`` describes, ``policy.onnx``, ``model.onnx``, ``step.onnx``, ``value.onnx`` and, where a bundle has them,
``state_value.onnx``, ``distilled_step.onnx`` and ``distilled_policy.onnx`` compute (normalisation and action scaling
inside), ``golden.npz`` holds inputs and outputs that every runtime must reproduce before it may act.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field

from maac_ros import golden, inference, schema
from maac_ros.errors import BundleError
from maac_ros.files import read_regular
from maac_ros.inference import Array, OnnxFunction, Signature
from maac_ros.plain_graph import require_plain
from maac_ros.resources import bundle_folder
from maac_ros.task import Task
from maac_ros.terms import Recalled, Source

SCHEMA_VERSION = 2
MANIFEST = "bundle.yaml"
GOLDEN = "golden.npz"
MAX_FILE_BYTES = 256 << 20
"""No graph of a robot policy comes near this; a larger file is refused before it is read."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ObservationField(schema.Description):
    """One entry of the observation vector, as the policy was trained on it."""

    name: str
    unit: str
    source: Source | Recalled
    clip: tuple[float, float] | None = None
    offset: Finite = 0.0
    """Taken off what ``source`` tells."""
    scale: Finite = Field(default=1.0, gt=0)
    """What is left is multiplied by this; ``unit`` and ``clip`` are those of the product."""


class ActionField(schema.Description):
    """One entry of the action vector, in command units."""

    name: str
    unit: str
    low: Finite
    high: Finite
    safe: Finite | None
    """Commanded when the policy must not act; null where the joint holds its position."""


class Provenance(schema.Description):
    """Where a bundle comes from."""

    maac_ros_version: str
    git_revision: str | None
    created: str
    """UTC, ISO 8601."""
    seed: int
    env_steps: int = Field(ge=0)
    evaluation_return: float | None
    """Mean undiscounted return of the last evaluation, on the task's reward scale."""
    training_seconds: float = Field(ge=0)


class Calibration(schema.Description):
    """How well the model predicts, on transitions that it was not fitted to: see :mod:`maac_ros.monitor`."""

    rows: int = Field(ge=1)
    """Held-out transitions that the limits come from."""
    quantile: float = Field(gt=0, lt=1)
    """Share of those transitions that lie within each limit."""
    disagreement: Finite = Field(ge=0)
    """Limit of :func:`maac_ros.monitor.disagreement`."""
    residual: Finite = Field(ge=0)
    """Limit of :func:`maac_ros.monitor.residual`."""
    change_std: tuple[Finite, ...]
    """Standard deviation of the change of each observation entry in a control period."""


class Observed(schema.Description):
    """What the robot was like in all of the training data."""

    low: tuple[Finite, ...]
    high: tuple[Finite, ...]
    """Least and largest value of each observation entry."""


class StateValueError(schema.Description):
    """How far ``state_value.onnx`` is from what it has learned: what the policy collects, followed through the model.

    On states that candidates of plans reach from observations that it has not learned from.
    """

    model_steps: int = Field(default=0, ge=0)
    """For which it was followed, before the critics' mean at its own action closed the sum."""
    rows: int = Field(ge=1)
    """Such states."""
    unexplained: Finite = Field(ge=0)
    """Its mean squared error, as a share of the variance over all of them."""
    unexplained_among_candidates: Finite = Field(ge=0)
    """The same of what sets apart states that are as many steps from the same observation: plans compare only these.

    Where states lead apart within ``model_steps``, most of it is chance that no network can learn.
    """


class DistillationError(schema.Description):
    """How far ``distilled_step.onnx`` and ``distilled_policy.onnx`` are from ``step.onnx`` and ``policy.onnx``.

    Mean squared errors, as shares of the variance, on what candidates of plans come through from observations that
    nothing was learned from.
    """

    rows: int = Field(ge=1)
    """Such steps, and such states."""
    step: Finite = Field(ge=0)
    """Of the change of the observation and the reward, on average over what varies of them."""
    policy: Finite = Field(ge=0)
    """Of the action, on average over its entries."""


class Manifest(schema.Description):
    """Contents of ``bundle.yaml``."""

    schema_version: int
    task: Task
    observation: tuple[ObservationField, ...]
    action: tuple[ActionField, ...]
    control_period_s: float
    discount: float = Field(gt=0, le=1)
    members: int = Field(ge=1)
    """Networks in the model ensemble."""
    critics: int = Field(ge=1)
    """Q-functions."""
    calibration: Calibration | None = None
    """What the model's errors usually are; without it planning is never given up for the model's sake."""
    observed: Observed | None = None
    """Range of the training data; without it no observation is implausible."""
    state_value: StateValueError | None = None
    """Of ``state_value.onnx``; null where the bundle has none."""
    distilled: DistillationError | None = None
    """Of ``distilled_step.onnx`` and ``distilled_policy.onnx``; null where the bundle has none."""
    provenance: Provenance
    sha256: dict[str, Sha256]
    """Digest of every other file of the bundle."""

    def signatures(self) -> dict[str, Signature]:
        """What each graph must take and give."""
        return inference.bundle_signatures(
            len(self.observation),
            len(self.action),
            self.members,
            self.critics,
            self.state_value is not None,
            self.distilled is not None,
        )


def observation_fields(task: Task) -> tuple[ObservationField, ...]:
    """The observation entries of ``task`` as a bundle states them."""
    return tuple(
        ObservationField(
            name=e.name,
            unit=e.observed_unit,
            source=e.source,
            clip=None if math.isinf(e.low) and math.isinf(e.high) else (e.low, e.high),
            offset=e.offset,
            scale=e.scale,
        )
        for e in task.observation_entries()
    )


def action_fields(task: Task) -> tuple[ActionField, ...]:
    """The action entries of ``task`` as a bundle states them."""
    return tuple(
        ActionField(name=e.name, unit=e.unit, low=e.low, high=e.high, safe=e.safe)
        for e in task.action_entries()
    )


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, ready to run.

    Attributes:
        path: the folder.
        manifest: its description.
        policy, model, step, value: the graphs, see :mod:`maac_ros.inference`; ``step`` is ``model`` for planning, with
            every row through one member.
        state_value: the value of states under the policy, where the bundle has it.
        distilled_step, distilled_policy: ``step`` and ``policy`` as small networks know them, where there are any.
    """

    path: Path
    manifest: Manifest
    policy: OnnxFunction
    model: OnnxFunction
    step: OnnxFunction
    value: OnnxFunction
    state_value: OnnxFunction | None = None
    distilled_step: OnnxFunction | None = None
    distilled_policy: OnnxFunction | None = None

    @property
    def task(self) -> Task:
        return self.manifest.task

    def origin(self) -> dict[str, Any]:
        """Task and provenance as plain values, to say which bundle a measurement is of."""
        return {"task": self.task.name, **self.manifest.provenance.model_dump(mode="json")}


def load_bundle(path: str | Path, providers: Sequence[str] = inference.CPU_PROVIDERS) -> Bundle:
    """Load a bundle and verify all of it: schema, checksums, graph signatures, golden vectors.

    Args:
        path: the bundle's folder, or the name of one that ships with the package, such as ``hopper``.
        providers: ONNX Runtime execution providers, best first.

    Raises:
        BundleError: naming the file and what is wrong with it.
    """
    folder = bundle_folder(str(path))
    manifest = _load_manifest(folder)
    signatures = manifest.signatures()
    archive = str(folder / GOLDEN)
    most = min(MAX_FILE_BYTES, golden.size_limit(signatures))
    data = _read(folder, GOLDEN, manifest.sha256[GOLDEN], most)
    functions = _functions(folder, manifest, providers, require_plain)
    golden.replay(golden.read(data, archive, signatures), archive, functions)
    return Bundle(folder, manifest, **functions)


def load_verified(
    folder: Path, manifest: Manifest, providers: Sequence[str] = inference.CPU_PROVIDERS
) -> Bundle:
    """Load a bundle that :func:`load_bundle` verified elsewhere, as ``manifest`` described it.

    Raises:
        BundleError: when its graphs are no longer those that were verified.
    """
    return Bundle(folder, manifest, **_functions(folder, manifest, providers, lambda *_: None))


def require_same_task(bundle: Bundle, task: Task) -> None:
    """Raise :class:`BundleError` unless ``bundle`` was trained for the interface of ``task``."""
    trained = bundle.manifest
    own = trained.task
    told = (
        ("task name", own.name, task.name),
        # What is heard by the names of one task is read by the order of the other.
        ("robot.joints", tuple(own.robot.joints), tuple(task.robot.joints)),
        ("robot.base", own.robot.base, task.robot.base),
        ("goal", own.goal, task.goal),
    )
    for what, got, expected in (*told, *_interface(trained, task)):
        if got != expected:
            raise BundleError(
                f"bundle '{bundle.path}' does not fit task '{task.name}': {what}: "
                f"the bundle has {_brief(got)}; the task needs {_brief(expected)}"
            )


def write_bundle(
    path: Path,
    manifest: Mapping[str, Any],
    graphs: Mapping[str, bytes],
    vectors: Mapping[str, Array],
) -> Bundle:
    """Write a bundle, then load it back with every check; an existing bundle is replaced only when that succeeds.

    Args:
        path: folder to create.
        manifest: fields of :class:`Manifest` other than ``schema_version`` and ``sha256``.
        graphs: the serialised graphs, by the names of :meth:`Manifest.signatures`.
        vectors: golden inputs and outputs of the graphs, named ``<graph>.<input or output>``.

    Raises:
        BundleError: when what was written does not verify.
    """
    path = path.absolute()
    staging = path.with_name(f".{path.name}.writing")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    contents = {f"{name}.onnx": data for name, data in graphs.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **vectors)  # type: ignore[arg-type]  # numpy types the keyword 'allow_pickle' here
    contents[GOLDEN] = buffer.getvalue()
    described = Manifest.model_validate(
        {
            **manifest,
            "schema_version": SCHEMA_VERSION,
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        }
    )
    for name, data in contents.items():
        (staging / name).write_bytes(data)
    (staging / MANIFEST).write_text(manifest_yaml(described), encoding="utf-8")
    load_bundle(staging)
    if path.exists():
        retired = path.with_name(f".{path.name}.old")
        shutil.rmtree(retired, ignore_errors=True)
        os.replace(path, retired)
        os.replace(staging, path)
        shutil.rmtree(retired)
    else:
        os.replace(staging, path)
    return load_bundle(path)


def manifest_yaml(manifest: Manifest) -> str:
    """``manifest`` as the YAML text of ``bundle.yaml``."""
    text: str = yaml.dump(
        manifest.model_dump(mode="json"),
        Dumper=yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    return text


def _load_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    data = schema.read_yaml(path, BundleError)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema_version: got {schema.brief(version)}; expected {SCHEMA_VERSION} (export the bundle again)"
        )
    manifest = schema.parse(data, Manifest, str(path), BundleError)
    for name, got, expected in _interface(manifest, manifest.task):
        if got != expected:
            raise BundleError(
                f"{path}: {name}: {_brief(got)} disagrees with the task, which gives {_brief(expected)}"
            )
    for name, numbers in _numbers_per_entry(manifest):
        if len(numbers) != len(manifest.observation):
            raise BundleError(
                f"{path}: {name}: got {len(numbers)} numbers; "
                f"expected one for each of the {len(manifest.observation)} observation entries"
            )
    expected_files = {*(f"{name}.onnx" for name in manifest.signatures()), GOLDEN}
    if set(manifest.sha256) != expected_files:
        raise BundleError(
            f"{path}: sha256: got {sorted(manifest.sha256)}; expected {sorted(expected_files)}"
        )
    return manifest


def _numbers_per_entry(manifest: Manifest) -> Iterator[tuple[str, tuple[float, ...]]]:
    if manifest.calibration is not None:
        yield "calibration.change_std", manifest.calibration.change_std
    if manifest.observed is not None:
        yield "observed.low", manifest.observed.low
        yield "observed.high", manifest.observed.high


def _interface(manifest: Manifest, task: Task) -> tuple[tuple[str, object, object], ...]:
    """What a bundle and a task must agree on: name, the bundle's value, the task's value."""
    return (
        ("observation", manifest.observation, observation_fields(task)),
        ("action", manifest.action, action_fields(task)),
        ("control_period_s", manifest.control_period_s, task.control.period_s),
    )


def _functions(
    folder: Path,
    manifest: Manifest,
    providers: Sequence[str],
    check: Callable[[bytes, str], None],
) -> dict[str, OnnxFunction]:
    """The graphs, from files whose digests are those of ``manifest`` and which ``check`` accepts."""
    functions = {}
    for name, signature in manifest.signatures().items():
        file = f"{name}.onnx"
        graph = _read(folder, file, manifest.sha256[file], MAX_FILE_BYTES)
        check(graph, str(folder / file))
        functions[name] = OnnxFunction(graph, str(folder / file), signature, providers)
    return functions


def _read(folder: Path, name: str, digest: str, limit: int) -> bytes:
    path = folder / name
    data = read_regular(path, limit, BundleError)
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise BundleError(
            f"{path}: sha256: got {found}; expected {digest} (file damaged or replaced)"
        )
    return data


def _brief(value: object) -> str:
    if isinstance(value, tuple):
        return f"({len(value)}) [" + ", ".join(getattr(v, "name", str(v)) for v in value) + "]"
    return repr(value)
