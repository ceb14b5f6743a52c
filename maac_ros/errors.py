"""Errors a user can act on. Each message names the file or source, the field, the value and what was expected."""


class MaacError(Exception):
    """Base of every error this project raises on bad input."""


class ConfigError(MaacError):
    """A learning configuration, launch argument or command-line value is not usable."""


class TaskError(MaacError):
    """A task description is malformed, or does not fit the simulated robot."""


class BundleError(MaacError):
    """A bundle is missing, damaged, of another schema, or does not fit the task it is used for."""


class ObservationError(MaacError):
    """An observation cannot be built, or holds values that must not reach the policy."""


class RecordingError(MaacError):
    """A recording cannot be made, cannot be read, or is not one of this project."""


class CheckpointError(MaacError):
    """A training checkpoint is missing, damaged or belongs to another configuration."""


class ResultError(MaacError):
    """A file of results (a learning curve, a measurement) is missing, malformed or not what its place says."""


class BenchmarkError(MaacError):
    """A benchmark failed, or what it would report means nothing."""


class TrainingError(MaacError):
    """Training cannot go on: something in it is no longer a finite number."""
