"""Other libraries, run in environments of their own for comparison."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maac_ros.errors import BenchmarkError, ConfigError

HOW_TO_INSTALL = """\
make an environment for it, since it needs older packages than this project:
  python3 -m venv ~/mbrl && ~/mbrl/bin/pip install --no-deps mbrl==0.2.0
  ~/mbrl/bin/pip install -r requirements/peer-mbrl.txt
and name its Python: --peer-python ~/mbrl/bin/python"""


class Mbrl:
    """mbrl-lib, measured by a script beside this file.

    Args:
        python: of an environment that has the library.
        script: file name of the script. It prints one JSON object as its last line, and with ``--check`` only sees
            whether it could run.
        options: for the script, by name.
        threads: for PyTorch; 0 leaves its own default.

    Raises:
        ConfigError: when that environment cannot run it.
    """

    def __init__(
        self, python: Path | None, script: str, options: Mapping[str, object], threads: int
    ) -> None:
        if python is None:
            raise ConfigError(f"--peer-python: missing; --peer mbrl needs it: {HOW_TO_INSTALL}")
        if not os.access(python.expanduser(), os.X_OK):
            raise ConfigError(
                f"--peer-python: '{python}' is not a program that can be run; {HOW_TO_INSTALL}"
            )
        # Isolated: neither this project's packages nor the script's folder are to be found.
        path = Path(__file__).resolve().with_name(script)
        self._command = [str(python.expanduser().absolute()), "-I", str(path)]
        for name, value in {**options, "threads": threads}.items():
            self._command += [f"--{name}", str(value)]
        self._threads = threads
        done = self._run("--check")
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if ": argument --" in reason:
                raise ConfigError(f"--peer mbrl: {reason.partition(': argument --')[2]}")
            raise ConfigError(
                f"--peer-python: '{python}' cannot run mbrl-lib: {reason}\n{HOW_TO_INSTALL}"
            )

    def measure(self) -> dict[str, Any]:
        """Run the script; what it found.

        Raises:
            BenchmarkError: when it fails.
        """
        done = self._run()
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            raise BenchmarkError(
                f"mbrl-lib failed (exit code {done.returncode}):\n{done.stderr[-2000:]}"
            )
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def _run(self, *more: str) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        if self._threads:
            environment |= {"OMP_NUM_THREADS": str(self._threads)}
        # MuJoCo appends its warnings to a file in the working directory.
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run(
                [*self._command, *more],
                capture_output=True,
                text=True,
                check=False,
                cwd=folder,
                env=environment,
            )


@dataclass(frozen=True)
class PeerReport:
    """What a peer took for ``env_steps`` environment steps.

    Attributes:
        seconds: by phase, with the names of :class:`maac_learning.phases.PhaseClock`.
        elapsed: seconds in all.
        details: versions, settings and so on.
    """

    name: str
    env_steps: int
    elapsed: float
    seconds: dict[str, float]
    updates: int
    update_p50_ms: float
    update_p99_ms: float
    details: dict[str, Any]

    @classmethod
    def of(cls, found: dict[str, Any]) -> PeerReport:
        """From what the script found; what this class does not name goes to the details."""
        names = set(cls.__dataclass_fields__) - {"details"}
        details = {name: value for name, value in found.items() if name not in names}
        return cls(**{name: found[name] for name in names}, details=details)


def portable(arguments: Sequence[str]) -> list[str]:
    """The arguments with this machine's place of the peer left out: every reader has another."""
    kept, value_next = [], False
    for argument in arguments:
        if argument.startswith("--peer-python="):
            argument = "--peer-python=PYTHON"
        kept.append("PYTHON" if value_next else argument)
        value_next = argument == "--peer-python"
    return kept
