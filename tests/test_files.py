"""Only regular files are read, and no more of them than was asked for."""

import os
from pathlib import Path

import pytest

from maac_ros.errors import ConfigError
from maac_ros.files import read_regular

pytestmark = pytest.mark.timeout(10)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f"


def test_what_is_in_a_file_is_read(path):
    path.write_bytes(b"abc")
    assert read_regular(path, 3, ConfigError) == b"abc"


def test_a_link_is_what_it_points_to(path, tmp_path):
    (tmp_path / "g").write_bytes(b"abc")
    path.symlink_to(tmp_path / "g")
    assert read_regular(path, 3, ConfigError) == b"abc"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "it is a folder; expected a regular file"),
        (lambda path: os.mkfifo(path), "it is a FIFO; expected a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device; expected a regular file"),
        (lambda path: path.symlink_to(path), "cannot be read: "),
        (lambda path: path.write_bytes(b"abcd"), "4 bytes; expected at most 3"),
    ],
)
def test_what_cannot_be_read_is_named(path, make, message):
    make(path)
    with pytest.raises(ConfigError, match=f"^{path}: .*{message}"):
        read_regular(path, 3, ConfigError)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_name_that_no_file_can_have(name):
    with pytest.raises(ConfigError, match="cannot be read: "):
        read_regular(Path(name), 3, ConfigError)


def test_a_fifo_that_took_the_place_of_a_file_is_not_waited_for(path, monkeypatch):
    os.mkfifo(path)
    ordinary = os.stat(__file__)
    monkeypatch.setattr(Path, "stat", lambda self: ordinary)
    with pytest.raises(ConfigError, match="it is a FIFO"):
        read_regular(path, 1 << 20, ConfigError)


def test_a_file_that_says_less_than_it_has_is_refused(path, monkeypatch):
    path.write_bytes(b"abc")
    empty = os.stat("/dev/null")
    short = os.stat_result((0o100644, *empty[1:6], 2, *empty[7:10]))
    monkeypatch.setattr(os, "fstat", lambda descriptor: short)
    with pytest.raises(ConfigError, match="changed while it was read; it had 2 bytes"):
        read_regular(path, 3, ConfigError)
