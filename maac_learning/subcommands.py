"""Commands that are chosen by their first word, and imported only then."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Subcommand:
    """A function of a list of arguments that returns an exit code.

    Attributes:
        place: ``module:function``. Imported on use: `maac up` must run where PyTorch is not installed, and start at
            once.
        text: one line for the list of commands.
    """

    place: str
    text: str

    def run(self, arguments: Sequence[str]) -> int:
        """Import it and call it."""
        module, function = self.place.split(":")
        code: int = getattr(importlib.import_module(module), function)(arguments)
        return code


def parser(
    program: str, word: str, description: str, commands: Mapping[str, Subcommand]
) -> argparse.ArgumentParser:
    """A parser that takes the name of a command, as ``name``, and leaves the rest to it, as ``arguments``.

    Args:
        program: as typed, for example ``maac bench``.
        word: what a command is called here, for example ``benchmark``.
        description: one sentence.
        commands: by name.
    """
    width = max(map(len, commands))
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    made = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=f"{plural}:\n"
        + "\n".join(f"  {name:<{width}}  {command.text}" for name, command in commands.items())
        + f"\n\n`{program} {word.upper()} --help` explains the options of a {word}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("name", choices=commands, metavar=word.upper(), help="one of those below")
    made.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made
