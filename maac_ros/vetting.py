"""Bundles verified by a process of their own, while this one commands a robot.

To read descriptions and graphs that nobody vouches for takes Python a second, which ticks would have to share. The
other process does that while nobody else wants the core, and tells what it found; this one then opens the same files,
and takes them only with the digests that were verified.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maac_ros.bundle import Manifest, load_bundle, manifest_yaml
from maac_ros.errors import BundleError, MaacError
from maac_ros.resources import bundle_folder

TRIES: tuple[tuple[tuple[str, ...], float], ...] = (("maac_ros.idle",), 20.0), ((), 60.0)
"""What the program runs in, and for how many seconds at most: at first while nobody else wants the core, which on some
machines is never."""


@dataclass(frozen=True)
class Vetted:
    """What is known of a bundle that was verified.

    Attributes:
        folder: where it is.
        manifest: its description; :func:`maac_ros.bundle.load_verified` takes both.
        metadata: ``manifest`` as YAML.
    """

    folder: Path
    manifest: Manifest
    metadata: str


def vet(path: str, providers: Sequence[str]) -> Vetted:
    """Have another process verify a bundle as :func:`maac_ros.bundle.load_bundle` does, and wait for it.

    Raises:
        BundleError: when the bundle is refused, or verifying it takes for ever.
    """
    bundle_folder(path)  # a misspelled name needs no process to be told
    done = None
    try:
        for runner, seconds in TRIES:
            words = [sys.executable, "-m", *runner, "maac_ros.vetting", path, *providers]
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = subprocess.run(words, capture_output=True, timeout=seconds, check=False)
                break
    except (OSError, ValueError) as reason:  # ValueError: a path with a NUL in it
        raise BundleError(f"bundle '{path}' cannot be verified: {reason}") from reason
    if done is None:
        spent_s = sum(seconds for _, seconds in TRIES)
        raise BundleError(
            f"bundle '{path}' was not verified within {spent_s:g} s; the machine is too busy"
        )
    if done.returncode != 0:
        told = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise BundleError(
            f"bundle '{path}' was not verified: the process that did it ended with {done.returncode}: {told:.500}"
        )
    found = json.loads(done.stdout)
    if "refusal" in found:
        raise BundleError(found["refusal"])
    # Its own process's words, of what it has checked: not to be doubted again.
    manifest = Manifest.model_validate_json(found["manifest"])
    return Vetted(Path(found["folder"]), manifest, found["metadata"])


def main(arguments: Sequence[str]) -> int:
    """Verify the bundle ``arguments[0]`` for the providers that follow, and tell in JSON what it is, or why not."""
    try:
        bundle = load_bundle(arguments[0], arguments[1:])
    except MaacError as reason:
        found = {"refusal": str(reason)}
    else:
        found = {
            "folder": str(bundle.path),
            "manifest": bundle.manifest.model_dump_json(),
            "metadata": manifest_yaml(bundle.manifest),
        }
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
