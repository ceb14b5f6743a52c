"""``maac up``: start the processes of a node graph where the ``launch`` package is not installed."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from maac_ros.errors import ConfigError, MaacError
from maac_ros.graph import GRAPHS, Graph, ResolvedNode, resolve

PATIENCE_SECONDS = 5.0
"""Time a process has to end after SIGINT, and again after SIGTERM."""

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class _Process:
    name: str
    popen: subprocess.Popen[str]
    output: threading.Thread
    ends_graph: bool


def run(graph: Graph, given: Mapping[str, str]) -> int:
    """Run a graph until a process that ends it has ended, one has failed, or a signal asks to end.

    Returns:
        0, or the exit code of the first process that failed.

    Raises:
        ConfigError: when an argument cannot be used.
    """
    nodes = resolve(graph, given)
    with tempfile.TemporaryDirectory(prefix="maac_up_") as folder, _signals() as signalled:
        processes: list[_Process] = []
        try:
            processes.extend(_start(node, Path(folder)) for node in nodes)
            missed: set[str] = set()
            while not signalled.is_set() and not _ended(processes):
                _tell_of_the_missing(processes, missed)
                signalled.wait(_POLL_SECONDS)
            failed = _first_failure(processes)
            _tell_of_the_end(processes)
        finally:
            _stop(processes)
    return failed or _first_failure(processes)


def _start(node: ResolvedNode, folder: Path) -> _Process:
    parameters = folder / f"{node.executable}.yaml"
    # A file keeps types: on a command line, a string that looks like a number becomes one.
    parameters.write_text(
        yaml.safe_dump({"/**": {"ros__parameters": dict(node.parameters)}}), encoding="utf-8"
    )
    command = [sys.executable, "-m", f"maac_ros.nodes.{node.executable}", "--ros-args"]
    command += ["-r", f"__node:={node.executable}", "--params-file", str(parameters)]
    if node.namespace:
        command += ["-r", f"__ns:=/{node.namespace.strip('/')}"]
    command += ["--params-file", node.params_file] if node.params_file else []
    command += ["--enclave", node.enclave] if node.enclave else []
    command += ["--log-level", node.log_level]
    for old, new in node.remappings.items():
        command += ["-r", f"{old}:={new}"] if old != new else []
    popen = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A group of its own: a Ctrl-C in the terminal reaches it once, through us.
        start_new_session=True,
    )
    output = threading.Thread(target=_relay, args=(node.executable, popen), daemon=True)
    output.start()
    return _Process(node.executable, popen, output, node.ends_graph)


def _relay(name: str, popen: subprocess.Popen[str]) -> None:
    assert popen.stdout is not None
    for line in popen.stdout:
        print(f"[{name}] {line.rstrip()}", flush=True)


def _ended(processes: Sequence[_Process]) -> bool:
    """Whether the graph is over: a process failed, or one that ends it has ended."""
    codes = [(process, process.popen.poll()) for process in processes]
    return any(code or (code == 0 and process.ends_graph) for process, code in codes)


def _first_failure(processes: Sequence[_Process]) -> int:
    """Exit code of the first process that failed, as a shell gives it; 0 when none did.

    A process that dies of SIGINT was interrupted before it could handle one, while it was still starting.
    """
    codes = [process.popen.poll() or 0 for process in processes]
    failures = [code for code in codes if code not in (0, -signal.SIGINT)]
    return next((128 - code if code < 0 else code for code in failures), 0)


def _tell_of_the_missing(processes: Sequence[_Process], missed: set[str]) -> None:
    """Say which processes have ended without the graph: nobody starts them again, and the others may wait for them.

    Args:
        processes: of the graph, none of which has ended it.
        missed: names of those of which this has been said; extended.
    """
    for process in processes:
        if process.popen.poll() == 0 and process.name not in missed:
            missed.add(process.name)
            told = f"[maac up] {process.name} has ended; the others go on without it"
            print(told, file=sys.stderr, flush=True)


def _tell_of_the_end(processes: Sequence[_Process]) -> None:
    """Say which processes have ended by themselves, and that the others end for it."""
    for process in processes:
        code = process.popen.poll()
        if code is not None:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
            told = f"[maac up] {process.name} has ended {how}; ending the others"
            print(told, file=sys.stderr, flush=True)


def _stop(processes: Sequence[_Process]) -> None:
    """Ask, insist, and in the end force every process and its children to end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        running = [process for process in processes if process.popen.poll() is None]
        if not running:
            break
        if number is not signal.SIGINT:
            names = ", ".join(process.name for process in running)
            print(f"[maac up] {names} still running: {number.name}", file=sys.stderr, flush=True)
        for process in running:
            os.killpg(process.popen.pid, number)
        deadline = time.monotonic() + PATIENCE_SECONDS
        for process in running:
            try:
                process.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
    for process in processes:
        process.output.join(PATIENCE_SECONDS)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that a request to end, also the terminal's end, sets while the context lasts."""
    came = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: came.set()) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_arguments(graph: Graph) -> str:
    """The arguments of ``graph`` for a reader."""
    lines = [f"{graph.name}: {graph.description}", "", "arguments (key:=value):"]
    for argument in graph.arguments:
        default = "required" if argument.required else f"default: '{argument.default_text}'"
        choices = f"one of: {', '.join(argument.choices)}; " if argument.choices else ""
        lines += [f"  {argument.name}", f"      {argument.description} ({choices}{default})"]
    return "\n".join(lines)


def parse_assignments(words: Sequence[str]) -> dict[str, str]:
    """``key:=value`` words as a mapping.

    Raises:
        ConfigError: for a word of another form, or a key given twice.
    """
    given: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition(":=")
        if not separator or not key:
            raise ConfigError(f"got '{word}'; expected key:=value")
        if key in given:
            raise ConfigError(f"{key}: given twice, '{given[key]}' and '{value}'")
        given[key] = value
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """``maac up``. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="maac up",
        description="Start the nodes of a launch file where the launch package is not installed. "
        "Ctrl-C stops them cleanly.",
        epilog="graphs:\n"
        + "\n".join(f"  {name:<12}{graph.description}" for name, graph in GRAPHS.items())
        + "\n\nexample: maac up sim_deploy bundle:=runs/inverted_pendulum/first/bundle use_mpc:=true",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("graph", choices=GRAPHS, metavar="GRAPH", help="one of those below")
    parser.add_argument(
        "assignments", nargs="*", metavar="key:=value", help="arguments of the graph"
    )
    parser.add_argument(
        "--show-args", "-s", action="store_true", help="show the arguments of GRAPH and end"
    )
    chosen = parser.parse_args(argv)
    graph = GRAPHS[chosen.graph]
    if chosen.show_args:
        print(show_arguments(graph))
        return 0
    try:
        return run(graph, parse_assignments(chosen.assignments))
    except MaacError as reason:
        print(f"maac up: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
