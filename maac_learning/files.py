"""Files that are whole at every moment, whenever the process or the machine dies."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write ``path`` anew: whoever reads it finds the old text or the new one, never a part."""
    staging = path.with_name(f".{path.name}.writing")
    staging.write_text(text, encoding="utf-8")
    flush(staging)
    os.replace(staging, path)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
