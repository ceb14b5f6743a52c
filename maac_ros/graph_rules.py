"""The operators that a graph may consist of, and the shape of what each of them gives.

These are the operators that the exporter writes, for all settings of the networks and for what reward terms can
compute, in the form in which it writes them. Others are refused. A loop need not end, and a handful of bytes can ask
for any amount of memory: shapes are worked out here, so that a graph's size is known before a runtime sees it. Runtimes
rely on graphs that make sense; one that does not may end the whole process instead of with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import onnx
from onnx import AttributeProto, TensorProto

from maac_ros.schema import brief

ROWS = "rows"
"""The batch axis, whose size a graph does not say."""

MAX_RANK = 8

Size = int | str
"""Of an axis: a number, or :data:`ROWS`."""
Shape = tuple[Size, ...]


class Value(NamedTuple):
    """What is known of a tensor."""

    shape: Shape
    numbers: tuple[Size, ...] | None = None
    """Its content where that is known and can be the size of something: constants, shapes and pieces of them."""


class Refused(ValueError):
    """Why a node is not what the exporter writes."""


_INTEGERS: Mapping[str, Sequence[int]] = {
    "axis": range(-MAX_RANK, MAX_RANK),
    "batch_dims": (0,),
    "end": range(-MAX_RANK, MAX_RANK + 1),
    "keepdims": (0, 1),
    "noop_with_empty_axes": (0, 1),
    "num_outputs": range(1, 1 << 10),
    "start": range(-MAX_RANK, MAX_RANK + 1),
    "stash_type": (TensorProto.FLOAT,),
    "to": (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL),
    "transA": (0, 1),
    "transB": (0, 1),
}
"""What attributes that are integers may be."""
_FLOATS = frozenset({"alpha", "beta", "epsilon"})
_LISTS = frozenset({"perm"})


class _Node:
    """A node with what is known of its inputs."""

    def __init__(self, node: onnx.NodeProto, rule: _Rule, known: Mapping[str, Value]) -> None:
        least, most = rule.inputs
        if not least <= len(node.input) <= most:
            raise Refused(f"{len(node.input)} inputs; expected {least} to {most}")
        self.names = list(node.input)
        for name in self.names:
            if name not in known:
                raise Refused(f"input {brief(name)} comes from nowhere; expected an earlier output")
        self.inputs = [known[name] for name in self.names]
        self.outputs = len(node.output)
        self.attributes: dict[str, int] = {}
        self.permutation: list[int] = []
        for attribute in node.attribute:
            self._read(attribute, rule.attributes)

    def _read(self, attribute: AttributeProto, expected: tuple[str, ...]) -> None:
        name = attribute.name
        if name not in expected or attribute.ref_attr_name:
            raise Refused(f"attribute {brief(name)}; expected {', '.join(expected) or 'none'}")
        if name in _INTEGERS and attribute.type == AttributeProto.INT:
            if attribute.i not in _INTEGERS[name]:
                allowed = brief(_INTEGERS[name])
                raise Refused(f"{name} {attribute.i}; expected one of {allowed}")
            self.attributes[name] = attribute.i
        elif name in _LISTS and attribute.type == AttributeProto.INTS:
            self.permutation = list(attribute.ints)
        elif name not in _FLOATS or attribute.type != AttributeProto.FLOAT:
            raise Refused(f"attribute {brief(name)}: not of the type that it has")

    def axis(self, rank: int) -> int:
        return _axis(self.attributes.get("axis", 0), rank)

    def constants(self, position: int) -> list[int]:
        """The numbers of an input that must be known."""
        numbers = self.inputs[position].numbers
        if numbers is None or ROWS in numbers:
            raise Refused(f"input {brief(self.names[position])} is computed; expected a constant")
        return [int(number) for number in numbers]


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise Refused(f"axis {axis} of {rank}; expected one that there is")
    return axis % rank


def _axes(node: _Node, rank: int) -> list[int]:
    """The axes that the second input names."""
    axes = [_axis(axis, rank) for axis in node.constants(1)]
    if not axes or len(set(axes)) != len(axes):
        raise Refused(f"axes {brief(axes)}; expected at least one, and each once")
    return axes


def _together(*shapes: Shape) -> Shape:
    """What shapes become where one axis is repeated along that of another."""
    rank = max(len(shape) for shape in shapes)
    result: list[Size] = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        several = {size for size in sizes if size != 1} or {1}
        if len(several) > 1:
            raise Refused(f"shapes {brief(shapes)} do not go together")
        result.append(several.pop())
    return tuple(result)


def _fixed(size: Size) -> int:
    """The size of an axis along which a graph may pick or put together."""
    if not isinstance(size, int):
        raise Refused("along the batch axis; expected rows to be left as they are")
    return size


def _picked(indices: list[int], size: Size) -> None:
    count = _fixed(size)
    wrong = [index for index in indices if not -count <= index < count]
    if wrong:
        raise Refused(f"index {wrong[0]} of {count}; expected one that there is")


def _elementwise(node: _Node) -> list[Value]:
    return [Value(_together(*(value.shape for value in node.inputs)))]


def _clip(node: _Node) -> list[Value]:
    data, *bounds = node.inputs
    if any(bound.shape for bound in bounds):
        raise Refused(
            f"bounds of shape {brief([b.shape for b in bounds])}; expected single numbers"
        )
    return [Value(data.shape)]


def _layer_normalization(node: _Node) -> list[Value]:
    data, gain, offset = (value.shape for value in node.inputs)
    if not data or _axis(node.attributes.get("axis", -1), len(data)) != len(data) - 1:
        raise Refused("expected the last axis to be normalised")
    if gain != (_fixed(data[-1]),) or offset != gain:
        raise Refused(f"gain {gain} and offset {offset} for {data}; expected one for each entry")
    return [Value(data)]


def _product(node: _Node) -> list[Value]:
    shapes = [value.shape for value in node.inputs]
    if any(len(shape) != 2 for shape in shapes[:2]):
        raise Refused(f"shapes {brief(shapes)}; expected matrices")
    left = shapes[0][:: -1 if node.attributes.get("transA") else 1]
    right = shapes[1][:: -1 if node.attributes.get("transB") else 1]
    result = (left[0], right[1])
    if left[1] != right[0] or _together(result, *shapes[2:]) != result:
        raise Refused(f"shapes {brief(shapes)} do not go together")
    return [Value(result)]


def _reduction(node: _Node) -> list[Value]:
    shape = node.inputs[0].shape
    axes = _axes(node, len(shape))
    kept: list[Size] = [1] if node.attributes.get("keepdims", 1) else []
    parts = [kept if axis in axes else [size] for axis, size in enumerate(shape)]
    return [Value(tuple(size for part in parts for size in part))]


def _concatenation(node: _Node) -> list[Value]:
    shapes = [value.shape for value in node.inputs]
    axis = node.axis(len(shapes[0]))
    if len({(*shape[:axis], 0, *shape[axis + 1 :]) for shape in shapes}) > 1:
        raise Refused(f"shapes {brief(shapes)} do not go together")
    size = sum(_fixed(shape[axis]) for shape in shapes)
    numbers: tuple[Size, ...] | None = ()
    for value in node.inputs:
        known = value.numbers if len(value.shape) == 1 else None
        numbers = None if numbers is None or known is None else numbers + known
    return [Value((*shapes[0][:axis], size, *shapes[0][axis + 1 :]), numbers)]


def _expansion(node: _Node) -> list[Value]:
    data, target = node.inputs
    if target.numbers is None or len(target.shape) != 1:
        raise Refused(f"size {brief(node.names[1])} is computed; expected constants and shapes")
    return [Value(_together(data.shape, target.numbers))]


def _gather(node: _Node) -> list[Value]:
    shape, indices = node.inputs[0].shape, node.inputs[1].shape
    axis = node.axis(len(shape))
    _picked(node.constants(1), shape[axis])
    return [Value(shape[:axis] + indices + shape[axis + 1 :])]


def _gather_entries(node: _Node) -> list[Value]:
    shape, indices = node.inputs[0].shape, node.inputs[1].shape
    if not shape or not indices or indices[-1] != 1:
        raise Refused(f"indices of shape {indices} for {shape}; expected those of the first axis")
    _picked(node.constants(1), shape[0])
    return [Value(indices[:-1] + shape[1:])]


def _slice(node: _Node) -> list[Value]:
    shape = list(node.inputs[0].shape)
    starts, ends, axes, steps = (node.constants(position) for position in range(1, 5))
    if not len(starts) == len(ends) == len(axes) == len(steps) or min(steps, default=1) < 1:
        raise Refused(
            f"starts, ends, axes and steps {brief((starts, ends, axes, steps))} do not go together"
        )
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = _axis(axis, len(shape))
        shape[at] = len(range(_fixed(shape[at]))[start:end:step])
    return [Value(tuple(shape))]


def _split(node: _Node) -> list[Value]:
    shape = node.inputs[0].shape
    axis = node.axis(len(shape))
    count = node.attributes.get("num_outputs", 0)
    size, rest = divmod(_fixed(shape[axis]), max(count, 1))
    if count != node.outputs or rest:
        raise Refused(
            f"{shape[axis]} entries to {count} and {node.outputs} outputs; expected even parts"
        )
    return [Value((*shape[:axis], size, *shape[axis + 1 :]))] * count


def _squeeze(node: _Node) -> list[Value]:
    shape = node.inputs[0].shape
    axes = _axes(node, len(shape))
    if any(shape[axis] != 1 for axis in axes):
        raise Refused(f"axes {brief(axes)} of {shape}; expected axes of size 1")
    return [Value(tuple(size for axis, size in enumerate(shape) if axis not in axes))]


def _unsqueeze(node: _Node) -> list[Value]:
    shape = node.inputs[0].shape
    axes = _axes(node, len(shape) + len(node.constants(1)))
    result = list(shape)
    for axis in sorted(axes):
        result.insert(axis, 1)
    return [Value(tuple(result))]


def _transposition(node: _Node) -> list[Value]:
    shape = node.inputs[0].shape
    if sorted(node.permutation) != list(range(len(shape))):
        raise Refused(f"perm {brief(node.permutation)} of {shape}; expected each axis once")
    return [Value(tuple(shape[axis] for axis in node.permutation))]


def _shape(node: _Node) -> list[Value]:
    start, end = node.attributes.get("start", 0), node.attributes.get("end", MAX_RANK)
    sizes = node.inputs[0].shape[start:end]
    return [Value((len(sizes),), sizes)]


class _Rule(NamedTuple):
    values: Callable[[_Node], list[Value]]
    inputs: tuple[int, int]
    """How many at least and at most."""
    attributes: tuple[str, ...] = ()


_ONE = (
    "Abs Exp Floor HardSwish Identity Log Neg Not Reciprocal Relu Round Sigmoid Softplus Sqrt Tanh"
)
_TWO = "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Or Pow Sub Xor"
_MANY_TO_ONE = "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"

RULES: Mapping[str, _Rule] = {
    **{name: _Rule(_elementwise, (1, 1)) for name in _ONE.split()},
    **{name: _Rule(_elementwise, (2, 2)) for name in _TWO.split()},
    **{
        name: _Rule(_reduction, (2, 2), ("keepdims", "noop_with_empty_axes"))
        for name in _MANY_TO_ONE.split()
    },
    "Cast": _Rule(_elementwise, (1, 1), ("to",)),
    "Clip": _Rule(_clip, (3, 3)),
    "Concat": _Rule(_concatenation, (1, 1 << 10), ("axis",)),
    "Expand": _Rule(_expansion, (2, 2)),
    "Gather": _Rule(_gather, (2, 2), ("axis",)),
    "GatherND": _Rule(_gather_entries, (2, 2), ("batch_dims",)),
    "Gemm": _Rule(_product, (2, 3), ("alpha", "beta", "transA", "transB")),
    "LayerNormalization": _Rule(_layer_normalization, (3, 3), ("axis", "epsilon", "stash_type")),
    "Shape": _Rule(_shape, (1, 1), ("end", "start")),
    "Slice": _Rule(_slice, (5, 5)),
    "Split": _Rule(_split, (1, 1), ("axis", "num_outputs")),
    "Squeeze": _Rule(_squeeze, (2, 2)),
    "Transpose": _Rule(_transposition, (1, 1), ("perm",)),
    "Unsqueeze": _Rule(_unsqueeze, (2, 2)),
    "Where": _Rule(_elementwise, (3, 3)),
}


def results(node: onnx.NodeProto, known: Mapping[str, Value]) -> list[Value]:
    """What ``node`` gives, for what is known of the values before it.

    Raises:
        Refused: where it is not a node as the exporter writes them.
    """
    rule = RULES.get(node.op_type)
    if rule is None:
        raise Refused(f"expected one of {', '.join(sorted(RULES))}")
    values = rule.values(_Node(node, rule, known))
    if len(values) != len(node.output):
        raise Refused(f"{len(node.output)} outputs; expected {len(values)}")
    for value in values:
        sizes = [1 if size == ROWS else int(size) for size in value.shape]
        if len(sizes) > MAX_RANK or value.shape.count(ROWS) > 1 or min(sizes, default=1) < 1:
            raise Refused(
                f"gives shape {value.shape}; expected at most {MAX_RANK} axes, all of at least 1, and one of them rows"
            )
    return values
