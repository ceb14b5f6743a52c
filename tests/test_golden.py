"""Golden archives are read as NumPy writes them, and refused before they take more memory than what is wanted."""

import io
import re
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from maac_ros import golden
from maac_ros.errors import BundleError
from maac_ros.inference import Signature
from maac_ros.plain_graph import MAX_ROWS

SIGNATURES = {
    "policy": Signature({"observation": (None, 3)}, {"action": (None, 2)}),
    "step": Signature({"action": (4, None, 2)}, {"reward": (4, None)}),
}


def arrays(rows=5):
    random = np.random.default_rng(0)
    shapes = {
        "policy.observation": (rows, 3),
        "policy.action": (rows, 2),
        "step.action": (4, rows, 2),
        "step.reward": (4, rows),
    }
    return {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


def saved(data, save=np.savez):
    buffer = io.BytesIO()
    save(buffer, **data)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archived(members, method=zipfile.ZIP_STORED):
    """An archive of ``members`` and of the other arrays that are wanted."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, array in arrays().items():
            archive.writestr(f"{name}.npy", members.get(name, npy(array)))
    return buffer.getvalue()


def read(data):
    return golden.read(data, "golden.npz", SIGNATURES)


def refused(data, message):
    with pytest.raises(BundleError, match=rf"^golden\.npz: {message}"):
        read(data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("rows", [1, MAX_ROWS])
def test_what_numpy_writes_is_read(save, rows):
    given = arrays(rows)
    given["step.reward"] = np.asfortranarray(given["step.reward"])
    found = read(saved({**given, "other": np.zeros(3)}, save))
    assert list(found) == list(given)
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.float32
    assert len(saved(arrays(MAX_ROWS))) <= golden.size_limit(SIGNATURES)


@pytest.mark.parametrize(
    "dtype", ["U8", "S4", "M8[s]", "m8[s]", "f8", ">f4", "i4", "c8", "O", "V4", [("a", "f4")]]
)
def test_other_types_are_refused(dtype):
    wrong = np.zeros((5, 2), dtype)
    refused(archived({"policy.action": npy(wrong)}), "policy.action: got .*; expected a float32")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("policy.observation", (5, 4), "('rows', 3)"),
        ("policy.observation", (15,), "('rows', 3)"),
        ("policy.observation", (), "('rows', 3)"),
        ("policy.observation", (0, 3), "('rows', 3)"),
        ("policy.action", (6, 2), "('rows', 2)"),
        ("step.action", (3, 5, 2), "(4, 'rows', 2)"),
        ("step.reward", (4, 1), "(4, 'rows')"),
    ],
)
def test_other_shapes_are_refused(name, shape, expected):
    message = f"{name}: got shape {shape}; expected {expected}, with the same 1 to 64 rows"
    refused(archived({name: npy(np.zeros(shape, np.float32))}), re.escape(message))


def test_too_many_rows_are_refused():
    refused(saved(arrays(MAX_ROWS + 1)), "policy.observation: got shape .*1 to 64 rows")


def test_missing_arrays_are_named():
    given = arrays()
    del given["policy.action"], given["step.reward"]
    refused(saved(given), "missing arrays: policy.action, step.reward")


HEADERS = {
    "no array": b"not an array",
    "nothing": b"",
    "another version": npy(np.zeros((5, 2), np.float32)).replace(b"Y\x01", b"Y\x02", 1),
    "a header of brackets": b"\x93NUMPY\x01\x00\xe8\x03" + b"(" * 1000,
    "a header of digits": b"\x93NUMPY\x01\x00\xe8\x03"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (".ljust(1000, b"1"),
    "code": npy(np.zeros((5, 2), np.float32)).replace(b"(5, 2)", b"exit()"),
    "more rows than there are": npy(np.zeros((5, 2), np.float32)).replace(b"(5, 2)", b"(6, 2)"),
    "half of it": npy(np.zeros((5, 2), np.float32))[:-20],
    "an axis of billions": npy(np.zeros((5, 2), np.float32)).replace(
        b"(5, 2), }         ", b"(5000000000, 2), }"
    ),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("what", sorted(HEADERS))
def test_what_is_no_array_is_refused(what):
    refused(archived({"policy.action": HEADERS[what]}), "policy.action: ")


def flipped(data, local, central, value):
    """``data`` with a field of every member's headers changed, at these offsets."""
    changed = bytearray(data)
    for signature, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        for match in re.finditer(re.escape(signature), data):
            changed[match.start() + offset : match.start() + offset + 2] = struct.pack("<H", value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda data: flipped(data, 6, 8, 1), "policy.observation.npy: encrypted"),
        (lambda data: flipped(data, 6, 8, 0x20), "policy.observation.npy: cannot be read"),
        (lambda data: flipped(data, 8, 10, 99), "policy.observation.npy: compressed by method 99"),
        (lambda data: flipped(data, 8, 10, 14), "policy.observation.npy: compressed by method 14"),
        (lambda data: data[:-30], "not a readable archive"),
        (lambda data: b"", "not a readable archive"),
        (lambda data: b"PK" * 100, "not a readable archive"),
    ],
)
def test_other_archives_are_refused(data, message):
    refused(data(saved(arrays())), message)


def test_damaged_compression_is_refused():
    data = bytearray(saved(arrays(), np.savez_compressed))
    name, extra = struct.unpack("<HH", data[26:30])
    begin = 30 + name + extra
    data[begin : begin + 12] = b"\xff" * 12
    refused(bytes(data), "policy.observation.npy: cannot be read")


def test_damaged_numbers_are_refused():
    data = bytearray(saved(arrays()))
    data[data.find(arrays()["policy.action"].tobytes())] ^= 1
    refused(bytes(data), "policy.action.npy: cannot be read: Bad CRC")


def test_a_large_array_is_refused_before_it_is_inflated():
    bomb = npy(np.zeros((1 << 22, 2), np.float32))
    data = archived({"policy.action": bomb}, zipfile.ZIP_DEFLATED)
    assert peak(lambda: refused(data, r"policy\.action\.npy: 33554560 bytes; expected")) < 1 << 20


def test_an_array_that_inflates_to_more_than_it_says_is_not_inflated():
    array = npy(arrays()["policy.action"])
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = bomb.compress(array + bytes(32 << 20)) + bomb.flush()
    data = archived({"policy.action": content})
    entry = data.find(b"PK\x01\x02", data.find(b"policy.action.npy", data.find(b"PK\x01\x02")) - 50)
    local = data.find(b"policy.action.npy") - 30
    changed = bytearray(data)
    for at, method, sizes in ((local, 8, 14), (entry, 10, 16)):
        changed[at + method : at + method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        changed[at + sizes : at + sizes + 12] = struct.pack(
            "<III", zlib.crc32(array), len(content), len(array)
        )
    found = {}
    assert peak(lambda: found.update(read(bytes(changed)))) < 1 << 20
    np.testing.assert_array_equal(found["policy.action"], arrays()["policy.action"])


def test_arrays_that_are_not_wanted_are_not_read():
    data = saved({**arrays(), "unused": np.zeros(1 << 25, np.uint8)}, np.savez_compressed)
    assert peak(lambda: read(data)) < 1 << 20


def peak(call):
    """Bytes that Python takes at most for a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
