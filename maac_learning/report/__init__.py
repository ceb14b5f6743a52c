"""``maac report``: committed learning curves and measurements as pictures, tables and one page."""

from __future__ import annotations

from collections.abc import Sequence

from maac_ros.errors import ConfigError


def report(arguments: Sequence[str]) -> int:
    """``maac report``.

    Raises:
        ConfigError: when a package is missing that only the report needs.
    """
    try:
        from maac_learning.report import command
    except ImportError as reason:
        raise ConfigError(f"{reason}: pip install 'maac_ros[report]'") from reason
    return command.report(arguments)
