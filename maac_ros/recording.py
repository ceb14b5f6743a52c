"""The recording of a controller: every tick with all that decided it, in an MCAP file that ROS 2 tools open.

A recording is a rosbag2 folder. ``~/observation`` and ``~/command`` (std_msgs/Float64MultiArray), in the order and
units of the task, are there to be looked at: no robot listens to these names when the recording is played.
``~/recording``, ``~/settings`` and ``~/tick`` (std_msgs/String) hold JSON of :class:`Heading`, :class:`Settings` and
:class:`RecordedTick`, and are enough to repeat every command: see :mod:`maac_ros.replay`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import yaml
from mcap.reader import NonSeekingReader
from mcap.records import Schema
from mcap_ros2.decoder import DecoderFactory
from mcap_ros2.writer import Writer
from pydantic import ConfigDict, ValidationError

from maac_ros.controller import Controller, ControllerSettings
from maac_ros.errors import RecordingError
from maac_ros.modes import Mode
from maac_ros.schema import Description, describe_problems
from maac_ros.version import __version__

SCHEMA_VERSION = 1

_CHUNK_BYTES = 1 << 16
"""Of ticks, before compression; what the end of the process by force can lose."""

_LARGEST_RECORD_BYTES = 1 << 26
_QUEUE = 50_000
"""Ticks that may wait to be written: more than a minute of them at any rate."""

_WRITE_EVERY_S = 0.1
_JOIN_SECONDS = 5.0

_STRING = "string data\n"
_FLOATS = """MultiArrayLayout layout
float64[] data
================================================================================
MSG: std_msgs/MultiArrayLayout
MultiArrayDimension[] dim
uint32 data_offset
================================================================================
MSG: std_msgs/MultiArrayDimension
string label
uint32 size
uint32 stride
"""
_TYPES = {"std_msgs/msg/String": _STRING, "std_msgs/msg/Float64MultiArray": _FLOATS}


class _Line(Description):
    """A line of JSON. What is not a finite number is a string there, as JSON has no word for it."""

    model_config = ConfigDict(ser_json_inf_nan="strings")


class Heading(_Line):
    """Written when commanding begins, and when another bundle takes over."""

    schema_version: int = SCHEMA_VERSION
    maac_ros_version: str = __version__
    bundle: str
    """Folder of the bundle."""
    sha256: dict[str, str]
    """Digests of its files."""
    task: str
    seed: int
    """Of the planner."""
    control_period_s: float
    observation: tuple[str, ...]
    """Names of the entries."""
    action: tuple[str, ...]


class Settings(_Line):
    """Written after each heading, and when they change."""

    settings: ControllerSettings


class RecordedTick(_Line):
    """One tick: what :meth:`maac_ros.controller.Controller.tick` was given, and what came of it."""

    number: int
    """Since commanding began, from 0."""
    observation: tuple[float, ...] | str
    """(O,), or why there was none."""
    age_s: float
    stamp_s: float
    source: str
    clears: int
    """How often a stop had been cleared before."""
    stopped: str
    """Why a stop was latched before; empty where none was."""
    settled_s: float
    """Steady time at which the mode was decided."""
    plan_iterations: int | None
    """How many the plan did; None without a plan."""
    overruled: str
    """Why the tick was overruled; empty where it was not."""
    overruled_s: float
    """The same as ``settled_s``, for that."""
    values: tuple[float, ...]
    """(A,) that was commanded."""
    joints: tuple[float, ...] | None = None
    """Positions and velocities (2 J,), where the safe command follows them and they were known."""
    mode: Mode
    reason: str


Line = Heading | Settings | RecordedTick
_KINDS: dict[str, type[Line]] = {"recording": Heading, "settings": Settings, "tick": RecordedTick}


@dataclass(frozen=True)
class _Entry:
    time_ns: int
    tick: RecordedTick
    controller: Controller
    settings: ControllerSettings


class FlightRecorder:
    """Writes ticks to a new recording, in a thread of its own: the control thread only hands them over.

    Recording never stands in the way of control: what cannot be written is counted in :attr:`lost`, and a disk that
    fails ends the recording, as :attr:`failure` says.

    Args:
        parent: where the folder of the recording is made; its name tells the node and the time.
        node: name of the node, fully qualified.

    Attributes:
        folder: of this recording.
        failure: why nothing more is written; empty while all is well.
        lost: ticks that could not be written.

    Raises:
        RecordingError: when the file cannot be made.
    """

    def __init__(self, parent: Path, node: str) -> None:
        self._node = node
        self.failure = ""
        self.lost = 0
        self._queue: deque[_Entry] = deque()
        self._ending = threading.Event()
        self._controller: Controller | None = None
        self._settings: ControllerSettings | None = None
        self._count: Counter[tuple[str, str]] = Counter()
        self._first_ns = self._last_ns = 0
        try:
            self.folder = _new_folder(parent, node.strip("/").replace("/", "-"))
            self._file: IO[bytes] = (self.folder / f"{self.folder.name}_0.mcap").open("wb")
        except OSError as reason:
            raise RecordingError(
                f"record: '{parent}': cannot be written to: {reason.strerror}"
            ) from reason
        self._writer = Writer(self._file, chunk_size=_CHUNK_BYTES)
        self._schemas: dict[str, Schema] = {
            name: self._writer.register_msgdef(name, text) for name, text in _TYPES.items()
        }
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def take(self, tick: RecordedTick, controller: Controller) -> None:
        """Hand over a tick and the controller that did it; called by the control thread."""
        if self.failure or len(self._queue) >= _QUEUE:
            self.lost += 1
            return
        self._queue.append(_Entry(time.time_ns(), tick, controller, controller.settings))

    def close(self) -> None:
        """Write what is left, and end the recording."""
        self._ending.set()
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        try:
            ending = False
            while not ending:
                ending = self._ending.wait(_WRITE_EVERY_S)
                while self._queue:
                    self._write(self._queue.popleft())
                self._file.flush()
            self._writer.finish()
            self._file.close()
            self._write_metadata()
        except Exception as reason:  # the disk is full, say: the robot goes on
            self.failure = str(reason) or repr(reason)

    def _write(self, entry: _Entry) -> None:
        tick = entry.tick
        if entry.controller is not self._controller or tick.number == 0:
            bundle = entry.controller.bundle
            manifest = bundle.manifest
            heading = Heading(
                bundle=str(bundle.path),
                sha256=manifest.sha256,
                task=manifest.task.name,
                seed=entry.controller.seed,
                control_period_s=manifest.control_period_s,
                observation=tuple(field.name for field in manifest.observation),
                action=tuple(field.name for field in manifest.action),
            )
            self._write_line("recording", heading, entry.time_ns, tick.number)
            self._controller, self._settings = entry.controller, None
        if entry.settings is not self._settings:
            self._settings = entry.settings
            line = Settings(settings=entry.settings)
            self._write_line("settings", line, entry.time_ns, tick.number)
        if not isinstance(tick.observation, str):
            topic = f"{self._node}/observation"
            self._write_floats(topic, tick.observation, entry.time_ns, tick.number)
        if all(map(math.isfinite, tick.values)):  # as it was sent
            topic = f"{self._node}/command"
            self._write_floats(topic, tick.values, entry.time_ns, tick.number)
        self._write_line("tick", tick, entry.time_ns, tick.number)

    def _write_line(self, name: str, line: Line, time_ns: int, number: int) -> None:
        message = {"data": line.model_dump_json()}
        self._write_message(f"{self._node}/{name}", "std_msgs/msg/String", message, time_ns, number)

    def _write_floats(
        self, topic: str, values: tuple[float, ...], time_ns: int, number: int
    ) -> None:
        size = len(values)
        layout = {"dim": [{"label": "", "size": size, "stride": size}], "data_offset": 0}
        message = {"layout": layout, "data": list(values)}
        self._write_message(topic, "std_msgs/msg/Float64MultiArray", message, time_ns, number)

    def _write_message(
        self, topic: str, kind: str, message: dict[str, Any], time_ns: int, number: int
    ) -> None:
        self._writer.write_message(
            topic, self._schemas[kind], message, time_ns, time_ns, number & 0xFFFFFFFF
        )
        if not self._count:
            self._first_ns = time_ns
        self._last_ns = time_ns
        self._count[topic, kind] += 1

    def _write_metadata(self) -> None:
        """What rosbag2 wants to know of a folder."""
        file = f"{self.folder.name}_0.mcap"
        start = {"nanoseconds_since_epoch": self._first_ns}
        duration = {"nanoseconds": self._last_ns - self._first_ns}
        total = self._count.total()
        topics = [
            {
                "topic_metadata": {
                    "name": topic,
                    "type": kind,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": "",
                },
                "message_count": count,
            }
            for (topic, kind), count in self._count.items()
        ]
        information = {
            "version": 5,
            "storage_identifier": "mcap",
            "duration": duration,
            "starting_time": start,
            "message_count": total,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [file],
            "files": [
                {
                    "path": file,
                    "starting_time": start,
                    "duration": duration,
                    "message_count": total,
                }
            ],
        }
        text = yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False)
        (self.folder / "metadata.yaml").write_text(text, encoding="utf-8")


def _new_folder(parent: Path, node: str) -> Path:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1000):
        folder = parent / (f"{node}-{stamp}-{number}" if number else f"{node}-{stamp}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(17, "a thousand recordings of this second", str(parent))


def recording_file(path: Path) -> Path:
    """The MCAP file of a recording, given as its folder or as that file.

    Raises:
        RecordingError: when there is none, or more than one.
    """
    if not path.exists():
        raise RecordingError(f"{path}: no such file or folder")
    if path.is_file():
        return path
    files = sorted(path.glob("*.mcap"))
    if len(files) != 1:
        raise RecordingError(
            f"{path}: {len(files)} MCAP files; expected the folder of one recording"
        )
    return files[0]


def read_recording(path: Path) -> Iterator[Line]:
    """The lines of a recording, in order.

    Args:
        path: folder, or MCAP file.

    Raises:
        RecordingError: when it cannot be read, is no recording of a controller, or breaks off; what came before has
            been given then.
    """
    file = recording_file(path)
    given = 0
    try:
        with file.open("rb") as stream:
            reader = NonSeekingReader(
                stream,
                validate_crcs=True,
                decoder_factories=[DecoderFactory()],
                record_size_limit=_LARGEST_RECORD_BYTES,
            )
            for _, channel, _, message in reader.iter_decoded_messages(log_time_order=False):
                kind = _KINDS.get(channel.topic.rpartition("/")[2])
                if kind is not None:
                    yield kind.model_validate_json(message.data)
                    given += 1
    except ValidationError as reason:
        problems = "\n".join(describe_problems(reason, f"{file}: line {given + 1}"))
        raise RecordingError(problems) from reason
    except OSError as reason:
        raise RecordingError(f"{file}: cannot be read: {reason.strerror}") from reason
    except Exception as reason:  # damage comes to light anywhere in the format's layers
        told = str(reason) or "it ends in the middle"
        raise RecordingError(f"{file}: breaks off after {given} lines: {told}") from reason
    if not given:
        raise RecordingError(f"{file}: holds no ticks of a policy node")
