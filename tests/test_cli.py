"""The command line as a process."""

import subprocess
import sys


def test_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "maac_learning.cli", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # long before anything is written
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
