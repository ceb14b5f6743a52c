"""Golden vectors: inputs and outputs of a bundle's graphs, which every runtime must reproduce before it may act.

The archive is read as NumPy writes it, and no further than the graphs' signatures say: what is in a file may claim any
size and any type.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
from typing import Literal

import numpy as np

from maac_ros import schema
from maac_ros.errors import BundleError
from maac_ros.inference import Array, OnnxFunction, Signature
from maac_ros.plain_graph import MAX_ROWS

TOLERANCE = 1e-4
"""Largest error of a replayed golden output, relative to the output's magnitude (at least 1)."""

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '<f4', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[\d, ]{0,100})\), \} *\n"
)
_ENCRYPTED = 0x1
_OVERHEAD = 1 << 10
"""Bytes of an array's header, and of what the archive says of it twice, with room for its name."""


def size_limit(signatures: Mapping[str, Signature]) -> int:
    """Bytes that an archive of the vectors of these graphs may have."""
    shapes = _shapes(signatures).values()
    return sum(_OVERHEAD + _payload(shape) for shape in shapes) + _OVERHEAD


def read(data: bytes, origin: str, signatures: Mapping[str, Signature]) -> dict[str, Array]:
    """The golden vectors in ``data``, an npz archive, named ``<graph>.<input or output>``.

    Arrays of other names are not looked at.

    Raises:
        BundleError: naming ``origin``, the archive's file name, the array and what is wrong with it.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as reason:  # zipfile raises a different type for each fault
        raise BundleError(f"{origin}: not a readable archive of arrays: {reason}") from reason
    shapes = _shapes(signatures)
    present = set(archive.namelist())
    missing = [name for name in shapes if f"{name}.npy" not in present]
    if missing:
        raise BundleError(f"{origin}: missing arrays: {', '.join(missing)}")
    golden: dict[str, Array] = {}
    rows = 0
    for name, shape in shapes.items():
        limit = _OVERHEAD + _payload(shape)
        array = _array(_member(archive, f"{name}.npy", origin, limit), f"{origin}: {name}")
        # The first array says how many rows there are.
        rows = rows or (array.shape[shape.index(None)] if array.ndim == len(shape) else 0)
        expected = tuple(rows if size is None else size for size in shape)
        if array.shape != expected or not 1 <= rows <= MAX_ROWS:
            readable = tuple("rows" if size is None else size for size in shape)
            raise BundleError(
                f"{origin}: {name}: got shape {array.shape}; expected {readable}, with the same 1 to {MAX_ROWS} rows "
                "everywhere"
            )
        golden[name] = array
    return golden


def replay(golden: Mapping[str, Array], origin: str, functions: Mapping[str, OnnxFunction]) -> None:
    """Run the graphs on their golden inputs.

    Raises:
        BundleError: naming the graph and the output that is not what it was.
    """
    for name, function in functions.items():
        inputs = {key: golden[f"{name}.{key}"] for key in function.signature.inputs}
        try:
            outputs = function(**inputs)
        except Exception as reason:  # ONNX Runtime raises a different type for each fault
            raise BundleError(f"{origin}: {name}.onnx does not run on it: {reason}") from reason
        for key, got in zip(function.signature.outputs, outputs, strict=True):
            expected = golden[f"{name}.{key}"]
            if got.shape != expected.shape:
                raise BundleError(
                    f"{origin}: {name}.{key}: shape {expected.shape}, but the graph gives {got.shape}"
                )
            if not np.isfinite(got).all():
                raise BundleError(
                    f"{function.origin}: output '{key}' is not finite on the golden inputs"
                )
            error = _error(got, expected)
            if not error <= TOLERANCE:
                raise BundleError(
                    f"{function.origin}: output '{key}' is off its golden vector by {error:.3g}; "
                    f"expected at most {TOLERANCE:g}"
                )


def _error(got: Array, expected: Array) -> float:
    with np.errstate(all="ignore"):  # golden numbers may be infinite, or not numbers at all
        return float(np.max(np.abs(got - expected) / np.maximum(1.0, np.abs(expected))))


def _shapes(signatures: Mapping[str, Signature]) -> dict[str, tuple[int | None, ...]]:
    """Shape of each array that is wanted, by its name."""
    return {
        f"{graph}.{key}": shape
        for graph, signature in signatures.items()
        for key, shape in {**signature.inputs, **signature.outputs}.items()
    }


def _payload(shape: tuple[int | None, ...]) -> int:
    """Bytes of as many rows as there may be."""
    return 4 * math.prod(MAX_ROWS if size is None else size for size in shape)


def _member(archive: zipfile.ZipFile, name: str, origin: str, limit: int) -> bytes:
    """One file of the archive; what it says of itself is checked before any of it is read."""
    info = archive.getinfo(name)
    if info.flag_bits & _ENCRYPTED:
        raise BundleError(f"{origin}: {name}: encrypted; expected it as NumPy writes it")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(
            f"{origin}: {name}: compressed by method {info.compress_type}; expected it as NumPy writes it"
        )
    if info.file_size > limit:
        raise BundleError(f"{origin}: {name}: {info.file_size} bytes; expected at most {limit}")
    try:
        with archive.open(info) as file:
            # With a size it inflates no further than that.
            return file.read(info.file_size)
    except Exception as reason:  # zipfile and zlib raise a different type for each fault
        raise BundleError(f"{origin}: {name}: cannot be read: {reason}") from reason


def _array(data: bytes, origin: str) -> Array:
    """The array of a npy file of float32, the only type that graphs take and give."""
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    header = data[start:end]
    found = _HEADER.fullmatch(header) if data.startswith(_MAGIC) else None
    if found is None:
        raise BundleError(
            f"{origin}: got {schema.brief(header.strip() or data[:start], 120)}; "
            "expected a float32 array as NumPy writes it"
        )
    shape = tuple(int(size) for size in re.findall(rb"\d+", found["shape"]))
    if len(data) - end != 4 * math.prod(shape):
        raise BundleError(
            f"{origin}: {len(data) - end} bytes; expected {4 * math.prod(shape)} for shape {shape}"
        )
    order: Literal["F", "C"] = "F" if found["fortran"] == b"True" else "C"
    return np.frombuffer(data, "<f4", offset=end).reshape(shape, order=order).astype(np.float32)
