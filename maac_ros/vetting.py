"""Bundles verified by a process of their own, while this one commands a robot.

To read descriptions and graphs that nobody vouches for takes Python a second, which ticks would have to share. The
other process does that, at the lowest priority, and tells what it found; this one then opens the same files, and takes
them only with the digests that were verified.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maac_ros.bundle import Manifest, load_bundle, manifest_yaml
from maac_ros.errors import BundleError, MaacError

TIMEOUT_S = 60.0
"""No bundle takes as long, however busy the machine."""


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
        BundleError: when the bundle is refused, or not verified within a minute.
    """
    words = [sys.executable, "-m", "maac_ros.vetting", path, *providers]
    try:
        done = subprocess.run(words, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BundleError(
            f"bundle '{path}' was not verified within {TIMEOUT_S:g} s; the machine is too busy"
        ) from None
    except (OSError, ValueError) as reason:  # ValueError: a path with a NUL in it
        raise BundleError(f"bundle '{path}' cannot be verified: {reason}") from reason
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
    os.nice(19)
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
