"""What several tests of learning share."""

import pytest


@pytest.fixture
def tiny_run(tmp_path):
    """Options of a command that trains: one task, one seed, the given settings, everything in ``tmp_path``."""

    def options(settings):
        (tmp_path / "tiny.yaml").write_text(settings)
        chosen = {
            "--tasks": "inverted_pendulum",
            "--seeds": "3",
            "--config": tmp_path / "tiny.yaml",
            "--results": tmp_path / "results",
            "--runs": tmp_path / "runs",
        }
        return [str(part) for pair in chosen.items() for part in pair]

    return options
