"""What a graph may be: the exporter's operators on weights in its own file, of a size that is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnx.external_data_helper import uses_external_data

from maac_ros.errors import BundleError
from maac_ros.graph_rules import MAX_RANK, ROWS, Refused, Size, Value, results
from maac_ros.schema import brief

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
OLDEST_OPSET = 18
"""Operators of earlier ones take some of their inputs as attributes."""

MAX_ROWS = 64
"""Of the golden vectors, on which a graph is first run: its size is counted for as many."""

MAX_NODES = 10_000
MAX_ELEMENTS = 1 << 27
"""Of all inputs and outputs of all nodes: 512 MiB of float32, if all of them were kept."""
MAX_MULTIPLICATIONS = 1 << 33
"""Of all matrix products: a second or so."""

MAX_FIELDS = 100_000
MAX_STRUCTURE = 2 << 20
"""Bytes of a graph without its weights, which take a hundred times that once parsed."""
MAX_POSITIONS = 1 << 16
"""Integers of a constant: positions and sizes of what observations and layers hold."""

_WIDTHS: dict[int, int] = {TensorProto.FLOAT: 4, TensorProto.INT64: 8}


def require_plain(graph: bytes, origin: str) -> None:
    """Refuse a serialised model that the exporter cannot have written, before any runtime sees it.

    External data would be read from other files of this machine, a custom operator would run whatever library
    registered it, and a loop or a large result would take all of the time or memory that there is.

    Args:
        graph: the serialised model.
        origin: its file name, for messages.

    Raises:
        BundleError: naming the tensor, or the node and its operator.
    """
    try:
        _check_structure(graph, origin)
        model = onnx.load_model_from_string(graph)
    except (DecodeError, ValueError) as reason:
        raise BundleError(f"{origin}: not an ONNX model: {reason}") from reason
    if model.functions:
        names = brief([function.name for function in model.functions])
        raise BundleError(f"{origin}: defines functions of its own: {names}; expected none")
    if model.graph.sparse_initializer or model.training_info:
        raise BundleError(
            f"{origin}: has sparse weights or training graphs; expected neither of them"
        )
    known: dict[str, Value] = {}
    for tensor in model.graph.initializer:
        _define(known, tensor.name, _constant(tensor, origin), f"{origin}: tensor")
    for given in model.graph.input:
        _define(known, given.name, _input(given, origin), f"{origin}: input")
    _check_nodes(model.graph, known, origin)
    opsets = [each.version for each in model.opset_import if each.domain in STANDARD_DOMAINS]
    if min(opsets, default=0) < OLDEST_OPSET:
        raise BundleError(f"{origin}: opset {opsets}; expected {OLDEST_OPSET} or later")


def _check_nodes(graph: onnx.GraphProto, known: dict[str, Value], origin: str) -> None:
    if len(graph.node) > MAX_NODES:
        raise BundleError(f"{origin}: {len(graph.node)} nodes; expected at most {MAX_NODES}")
    counts = {name: _elements(value) for name, value in known.items()}
    elements = multiplications = 0
    for node in graph.node:
        if node.domain not in STANDARD_DOMAINS:
            raise BundleError(
                f"{_named(node, origin)} of domain {brief(node.domain)}; expected standard ONNX operators"
            )
        try:
            values = results(node, known)
        except Refused as reason:
            raise BundleError(f"{_named(node, origin)}: {reason}") from reason
        for name, value in zip(node.output, values, strict=True):
            _define(known, name, value, f"{_named(node, origin)}: output")
            counts[name] = _elements(value)
        own = [counts[name] for name in (*node.input, *node.output)]
        elements += sum(own)
        if node.op_type == "Gemm":
            # (M, K), (K, N) and (M, N), but for the offset.
            multiplications += math.isqrt(own[0] * own[1] * own[-1])
        if elements > MAX_ELEMENTS or multiplications > MAX_MULTIPLICATIONS:
            raise BundleError(
                f"{_named(node, origin)}: with it the graph has {elements} numbers and {multiplications} "
                f"multiplications for {MAX_ROWS} rows; expected at most {MAX_ELEMENTS} and {MAX_MULTIPLICATIONS}"
            )


def _define(known: dict[str, Value], name: str, value: Value, where: str) -> None:
    if not name or name in known:
        raise BundleError(f"{where} {brief(name)}: expected a name of its own")
    known[name] = value


def _named(node: onnx.NodeProto, origin: str) -> str:
    return f"{origin}: node {brief(node.name)}: operator {brief(node.op_type)}"


def _elements(value: Value) -> int:
    return math.prod([MAX_ROWS if size == ROWS else int(size) for size in value.shape])


def _constant(tensor: onnx.TensorProto, origin: str) -> Value:
    where = f"{origin}: tensor {brief(tensor.name)}"
    if uses_external_data(tensor):
        raise BundleError(f"{where}: its data lies outside the file; expected it inside")
    width = _WIDTHS.get(tensor.data_type)
    if width is None:
        raise BundleError(f"{where}: data type {tensor.data_type}; expected float32 or int64")
    shape = tuple(tensor.dims)
    if len(shape) > MAX_RANK or any(size < 1 for size in shape):
        raise BundleError(
            f"{where}: shape {brief(list(shape))}; expected at most {MAX_RANK} axes, all of at least 1"
        )
    if len(tensor.raw_data) != width * math.prod(shape):
        raise BundleError(
            f"{where}: {len(tensor.raw_data)} bytes of raw data; "
            f"expected {width * math.prod(shape)} for shape {shape}"
        )
    if tensor.data_type == TensorProto.FLOAT:
        return Value(shape)
    if math.prod(shape) > MAX_POSITIONS:
        raise BundleError(f"{where}: shape {shape}; expected at most {MAX_POSITIONS} integers")
    return Value(shape, tuple(np.frombuffer(tensor.raw_data, "<i8").tolist()))


def _input(given: onnx.ValueInfoProto, origin: str) -> Value:
    shape: list[Size] = [
        ROWS if size.dim_param else size.dim_value for size in given.type.tensor_type.shape.dim
    ]
    if len(shape) > MAX_RANK or shape.count(ROWS) > 1 or any(size == 0 for size in shape):
        raise BundleError(
            f"{origin}: input {brief(given.name)}: shape {brief(shape)}; expected sizes, and at most one axis "
            "with a name"
        )
    return Value(tuple(shape))


def _check_structure(graph: bytes, origin: str) -> None:
    """Refuse what would take many times the file's own size to parse: a node of two bytes becomes an object."""
    structure = len(graph)
    for count, (path, content) in enumerate(_fields(memoryview(graph)), 1):
        if path == (*_INITIALIZER, TensorProto.RAW_DATA_FIELD_NUMBER):
            structure -= len(content)
        if count > MAX_FIELDS:
            raise BundleError(f"{origin}: more than {MAX_FIELDS} parts; expected at most that")
    if structure > MAX_STRUCTURE:
        raise BundleError(
            f"{origin}: {structure} bytes beside its weights; expected at most {MAX_STRUCTURE}"
        )


_WIRE_WIDTHS = {0: 0, 1: 8, 5: 4}
_GRAPH = (onnx.ModelProto.GRAPH_FIELD_NUMBER,)
_INITIALIZER = (*_GRAPH, onnx.GraphProto.INITIALIZER_FIELD_NUMBER)


def _fields(
    message: memoryview, path: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], memoryview]]:
    """The fields of a serialised model, of its graph and of its constants: their numbers, and what bytes they hold.

    Raises:
        ValueError: where it is none.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        here = (*path, key >> 3)
        size = _WIRE_WIDTHS.get(key & 7, -1)
        if key & 7 == 2:
            size, at = _varint(message, at)
        elif key & 7 == 0:
            _, at = _varint(message, at)
        content = message[at : at + size]
        if size < 0 or len(content) != size:
            raise ValueError(f"wrong wire format in field {here}")
        at += size
        yield here, content
        if here in (_GRAPH, _INITIALIZER):
            yield from _fields(content, here)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where what follows begins."""
    if at < len(message) and message[at] < 0x80:
        return message[at], at + 1
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number without an end")
