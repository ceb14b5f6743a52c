"""``maac replay``: give a controller what a recorded one was given, and compare what it commands, tick by tick."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maac_ros.bundle import Bundle, load_bundle
from maac_ros.controller import Command, Controller, ControllerSettings
from maac_ros.errors import ObservationError, RecordingError
from maac_ros.modes import Mode
from maac_ros.observation import JointReading
from maac_ros.recording import Heading, Line, RecordedTick, Settings, read_recording


@dataclass
class Difference:
    """The first tick that a replay commanded otherwise."""

    tick: RecordedTick
    mode: Mode
    reason: str
    entry: str
    """The entry of the command that differs most."""
    recorded: float
    replayed: float

    def __str__(self) -> str:
        at = f"tick {self.tick.number} (observation stamped {self.tick.stamp_s:.6f} s)"
        told = f"{at}: {self.entry}: recorded {self.recorded!r}, replayed {self.replayed!r}"
        if self.mode is not self.tick.mode:
            told += f"; mode: recorded {self.tick.mode.value}, replayed {self.mode.value}"
            if reason := self.reason or self.tick.reason:
                told += f" ({reason})"
        return told


@dataclass
class Outcome:
    """What a replay came to.

    Attributes:
        ticks: repeated, by recorded mode.
        differing: how many of them were commanded otherwise.
        first: of those.
        largest: difference of a command entry, in command units.
        other_files: files of the bundle that are not those of the recording's.
        problem: why the recording could not be repeated to its end; empty where it was.
    """

    ticks: Counter[Mode] = field(default_factory=Counter)
    differing: int = 0
    first: Difference | None = None
    largest: float = 0.0
    other_files: set[str] = field(default_factory=set)
    problem: str = ""

    @property
    def identical(self) -> bool:
        return self.first is None and not self.problem


class Replayer:
    """Repeats the ticks of a recording.

    The planner is told how many iterations it did, and the ladder of modes what time it was: nothing else of the
    machine's pace enters a command.

    Args:
        load: gives the bundle that a heading names.
        tolerance: differences of a command entry up to this one do not count, in command units.
    """

    def __init__(self, load: Callable[[Heading], Bundle], tolerance: float = 0.0) -> None:
        self._load, self._tolerance = load, tolerance
        self._heading: Heading | None = None
        self._settings: ControllerSettings | None = None
        self._controller: Controller | None = None
        self._now_s = 0.0
        self._next = 0
        self._clears = 0
        self.outcome = Outcome()

    def run(self, lines: Iterable[Line]) -> Outcome:
        """Repeat all ticks of ``lines``, as far as they go."""
        try:
            for line in lines:
                if isinstance(line, Heading):
                    self._heading = line
                elif isinstance(line, Settings):
                    self._settings = line.settings
                else:
                    self._repeat(line)
        except RecordingError as reason:
            if not self.outcome.ticks:
                raise
            self.outcome.problem = str(reason)
        return self.outcome

    def _repeat(self, tick: RecordedTick) -> None:
        controller = self._prepared(tick)
        if tick.number != self._next:
            raise RecordingError(
                f"tick {self._next} is missing, and {tick.number} depends on it: the recorder could not keep up"
            )
        self._next += 1
        manifest = controller.bundle.manifest
        for what, values, size in (
            ("observation", tick.observation, len(manifest.observation)),
            ("command", tick.values, len(manifest.action)),
            ("joints", tick.joints, 2 * len(manifest.task.robot.joints)),
        ):
            if isinstance(values, tuple) and len(values) != size:
                raise RecordingError(
                    f"tick {tick.number}: {what}: {len(values)} entries; expected {size}"
                )
        joints = None if tick.joints is None else JointReading(*np.split(np.array(tick.joints), 2))
        if tick.clears != self._clears:
            controller.clear_stop()
            self._clears = tick.clears
        if tick.stopped:
            controller.stop(tick.stopped)
        elif controller.stopped:  # cleared just then, and counted only afterwards
            controller.clear_stop()
            self._clears += 1
        self._now_s = tick.settled_s
        command = controller.tick(
            ObservationError(tick.observation)
            if isinstance(tick.observation, str)
            else np.array(tick.observation),
            tick.age_s,
            tick.stamp_s,
            tick.source,
            tick.plan_iterations,
            joints,
        )
        if not tick.overruled and tick.mode is Mode.STOPPED and command.mode is not Mode.STOPPED:
            controller.stop(tick.reason)  # it came in the midst of the tick
            command = controller.overrule(command, tick.reason, joints)
        controller.assess()
        if tick.overruled:
            self._now_s = tick.overruled_s
            command = controller.overrule(command, tick.overruled)
        self._compare(tick, command)

    def _prepared(self, tick: RecordedTick) -> Controller:
        """The controller of ``tick``: a new one where commanding begins, or another bundle takes over."""
        if self._settings is None:
            raise RecordingError(f"tick {tick.number} comes before any settings")
        controller = self._controller
        if self._heading is not None:
            bundle = self._load(self._heading)
            _require_same_entries(bundle, self._heading)
            theirs, ours = self._heading.sha256, bundle.manifest.sha256
            self.outcome.other_files |= {
                name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)
            }
            successor = Controller(bundle, self._settings, self._heading.seed, lambda: self._now_s)
            if tick.number == 0:
                self._next, self._clears = 0, tick.clears
            elif controller is not None:
                successor.take_over(controller)
            self._controller = controller = successor
            self._heading = None
        if controller is None:
            raise RecordingError(f"tick {tick.number} comes before any heading")
        if self._settings is not controller.settings:
            controller.configure(self._settings)
        return controller

    def _compare(self, tick: RecordedTick, command: Command) -> None:
        outcome = self.outcome
        outcome.ticks[tick.mode] += 1
        recorded = np.array(tick.values)
        # There may be no safe command yet: not a number is then repeated by not a number.
        neither = np.isnan(command.values) & np.isnan(recorded)
        error = np.nan_to_num(np.abs(command.values - recorded), nan=np.inf)
        error[neither] = 0.0
        worst = int(error.argmax())
        outcome.largest = max(outcome.largest, float(error[worst]))
        if error[worst] <= self._tolerance and command.mode is tick.mode:
            return
        outcome.differing += 1
        if outcome.first is None:
            assert self._controller is not None
            outcome.first = Difference(
                tick,
                command.mode,
                command.reason,
                self._controller.bundle.manifest.action[worst].name,
                float(recorded[worst]),
                float(command.values[worst]),
            )


def _require_same_entries(bundle: Bundle, heading: Heading) -> None:
    manifest = bundle.manifest
    for what, recorded, own in (
        ("observation", heading.observation, tuple(o.name for o in manifest.observation)),
        ("action", heading.action, tuple(a.name for a in manifest.action)),
    ):
        if recorded != own:
            raise RecordingError(
                f"bundle '{bundle.path}' for task '{bundle.task.name}' cannot repeat a recording of task "
                f"'{heading.task}': {what}: the bundle has {', '.join(own)}; recorded were {', '.join(recorded)}"
            )


def replay(arguments: Sequence[str]) -> int:
    """``maac replay``. Returns 0 when every command is repeated, 1 when not."""
    parser = argparse.ArgumentParser(prog="maac replay", description=__doc__.partition(": ")[2])
    parser.add_argument("recording", type=Path, help="folder of a recording, or its MCAP file")
    parser.add_argument(
        "--bundle", help="folder or name of a bundle to ask instead of the recorded ones"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="largest difference of a command entry that does not count, in command units (default: 0)",
    )
    chosen = parser.parse_args(arguments)
    if not chosen.tolerance >= 0:
        parser.error(f"--tolerance: got {chosen.tolerance}; expected at least 0")

    def load(heading: Heading) -> Bundle:
        return load_bundle(chosen.bundle or heading.bundle)

    outcome = Replayer(load, chosen.tolerance).run(read_recording(chosen.recording))
    total = outcome.ticks.total()
    modes = ", ".join(f"{count} {mode.value}" for mode, count in outcome.ticks.items())
    print(f"{total} ticks: {modes}")
    if outcome.other_files:
        print(
            f"the bundle is not the recorded one: {', '.join(sorted(outcome.other_files))} differ"
        )
    if outcome.first is None:
        print(f"every command is repeated; largest difference {outcome.largest:.3g}")
    else:
        print(f"first difference: {outcome.first}")
        print(f"{outcome.differing} ticks differ; largest difference {outcome.largest:.3g}")
    if outcome.problem:
        print(f"maac replay: {outcome.problem}", file=sys.stderr)
    return 0 if outcome.identical else 1
