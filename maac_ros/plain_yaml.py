"""YAML as descriptions need it: mappings, lists, text, numbers and truth values, of a size that can be said beforehand.

Anchors, aliases and merges are welcome, within what a description can mean: nine lines of ten aliases each can stand
for a billion values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml
from yaml.composer import Composer

MAX_NODES = 100_000
"""Values with all aliases written out; a robot of a hundred joints with their history has less than half of them."""

MAX_DEPTH = 50
"""Levels of lists and mappings."""

MAX_NUMBER = 50
"""Characters of a number. Python takes the square of their count to read them, or refuses."""


def load(text: str) -> Any:
    """The one document in ``text``.

    Raises:
        yaml.YAMLError: when it is not YAML, or more than plain YAML.
    """
    try:
        return yaml.load(text, _Loader)  # a safe loader
    except (ValueError, OverflowError) as reason:  # an escape such as "\UFFFFFFFF"
        raise yaml.YAMLError(str(reason)) from reason


class _Extent(NamedTuple):
    """How much a value stands for, with its aliases written out."""

    nodes: int
    depth: int


# Where there is libyaml it takes a tenth of the time.
_SafeLoader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Counting(Composer):
    """Composes without tags, and counts."""

    peek_event: Any  # the parser's

    def __init__(self) -> None:
        Composer.__init__(self)
        self._total = 0
        self._open: list[_Extent] = []
        """What has been composed so far of each list or mapping that is not complete."""
        self._anchored: dict[str, _Extent] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            if name in self.anchors and name not in self._anchored:
                raise _refused(f"*{name:.60} lies within what it stands for", event)
            extent = self._anchored.get(name, _Extent(1, 1))
            self._count(extent, event)
            node: yaml.Node | None = super().compose_node(parent, index)
        else:
            if event.tag is not None:
                raise _refused(f"tag {event.tag[:60]!r}; expected plain YAML without tags", event)
            self._count(_Extent(1, 1), event)
            self._open.append(_Extent(1, 1))
            node = super().compose_node(parent, index)
            extent = self._open.pop()
            if event.anchor is not None:
                self._anchored[event.anchor] = extent
        if self._open:
            around = self._open[-1]
            self._open[-1] = _Extent(
                around.nodes + extent.nodes, max(around.depth, extent.depth + 1)
            )
        return node

    def _count(self, extent: _Extent, event: yaml.Event) -> None:
        self._total += extent.nodes
        if self._total > MAX_NODES:
            raise _refused(
                f"more than {MAX_NODES} values, aliases written out; expected at most that", event
            )
        if len(self._open) + extent.depth > MAX_DEPTH:
            raise _refused(
                f"more than {MAX_DEPTH} levels, aliases written out; expected at most that", event
            )


class _Loader(_Counting, _SafeLoader):
    """The safe loader, of what :class:`_Counting` composes."""

    def __init__(self, stream: str) -> None:
        _SafeLoader.__init__(self, stream)
        _Counting.__init__(self)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        numeric = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if numeric and len(node.value) > MAX_NUMBER:
            raise _refused(
                f"number of {len(node.value)} characters; expected at most {MAX_NUMBER}", node
            )
        try:
            return super().construct_object(node, deep)
        except ValueError as reason:  # a date such as 2020-13-45
            raise _refused(f"{str(node.value)[:60]!r}: {reason}", node) from reason


def _refused(problem: str, where: yaml.Event | yaml.Node) -> yaml.YAMLError:
    error = yaml.MarkedYAMLError(problem=problem)
    mark: Any = where.start_mark
    error.problem_mark = mark
    return error
