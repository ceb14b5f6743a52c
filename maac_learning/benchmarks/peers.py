"""Other libraries, run in environments of their own for comparison."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maac_ros.errors import BenchmarkError, ConfigError

_SCRIPT = Path(__file__).resolve().with_name("peer_mbrl.py")

HOW_TO_INSTALL = """\
make an environment for it, since it needs older packages than this project:
  python3 -m venv ~/mbrl && ~/mbrl/bin/pip install --no-deps mbrl==0.2.0
  ~/mbrl/bin/pip install -r requirements/peer-mbrl.txt
and name its Python: --peer-python ~/mbrl/bin/python"""


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


class Mbrl:
    """MBPO (Janner et al., 2019) as mbrl-lib trains it, with the settings that the library ships.

    Args:
        python: of an environment that has the library.
        task: one that the library has settings for.
        threads: for PyTorch; 0 leaves its own default.
        replay: real transitions there are at its first model fit.

    Raises:
        ConfigError: when that environment cannot run it.
    """

    def __init__(self, python: Path | None, task: str, threads: int, replay: int) -> None:
        if python is None:
            raise ConfigError(f"--peer-python: missing; --peer mbrl needs it: {HOW_TO_INSTALL}")
        if not os.access(python.expanduser(), os.X_OK):
            raise ConfigError(
                f"--peer-python: '{python}' is not a program that can be run; {HOW_TO_INSTALL}"
            )
        options = {"--task": task, "--threads": threads, "--replay": replay}
        # Isolated: neither this project's packages nor the script's folder are to be found.
        self._command = [str(python.expanduser().absolute()), "-I", str(_SCRIPT)]
        self._command += [str(part) for pair in options.items() for part in pair]
        self._threads = threads
        done = self._run("--check")
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if ": argument --" in reason:
                raise ConfigError(f"--peer mbrl: {reason.partition(': argument --')[2]}")
            raise ConfigError(
                f"--peer-python: '{python}' cannot run mbrl-lib: {reason}\n{HOW_TO_INSTALL}"
            )

    def measure(self) -> PeerReport:
        """Run it: minutes, since its first model fit comes before what is measured.

        Raises:
            BenchmarkError: when it fails.
        """
        done = self._run()
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            raise BenchmarkError(
                f"mbrl-lib failed (exit code {done.returncode}):\n{done.stderr[-2000:]}"
            )
        report = json.loads(lines[-1])
        names = set(PeerReport.__dataclass_fields__) - {"details"}
        known = {name: report.pop(name) for name in names}
        return PeerReport(**known, details=report)

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
