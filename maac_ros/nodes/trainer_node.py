"""``trainer_node``: learns a task, and leaves a bundle.

Out: ``~/progress/env_steps`` (std_msgs/Int64), ``~/progress/evaluation_return``, ``~/progress/episode_return``,
``~/progress/model_loss`` and ``~/progress/critic_loss`` (std_msgs/Float64), ``/diagnostics`` at 1 Hz. Services:
``~/checkpoint`` and ``~/export``, which take effect at the next safe point of training. At the end of training the
node exports a bundle and ends; on SIGINT or SIGTERM it leaves a checkpoint to go on from.
"""

from __future__ import annotations

import math
import sys
import threading
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import Float64, Int64
from std_srvs.srv import Trigger

from maac_ros.errors import MaacError
from maac_ros.nodes.common import (
    RELIABLE,
    Exit,
    ParameterSpec,
    declare,
    diagnostics,
    run_node,
    steady_clock,
)

if TYPE_CHECKING:
    from maac_learning.progress import Progress

PARAMETERS = (
    ParameterSpec(
        "task",
        "inverted_pendulum",
        "Task to learn: a shipped name, or a path to a YAML file.",
        fixed=True,
    ),
    ParameterSpec(
        "preset",
        "default",
        "Learning settings: a shipped name, or a path to a YAML file.",
        fixed=True,
    ),
    ParameterSpec("seed", 0, "Seed of every random stream.", low=0, high=2**31 - 1, fixed=True),
    ParameterSpec(
        "env_steps",
        0,
        "Environment steps in all; 0 for the preset's number.",
        low=0,
        high=2**40,
        fixed=True,
    ),
    ParameterSpec(
        "run_dir",
        "",
        "Folder for the run, a new one; empty for runs/<task>/<preset>-seed<seed>-<time>.",
        fixed=True,
    ),
)

NUMBERS = ("evaluation_return", "episode_return", "model_loss", "critic_loss")


class TrainerNode(Node):
    """See the module's docstring.

    Args:
        leave: ends the process.
        arguments: of :class:`rclpy.node.Node`.
    """

    def __init__(self, leave: Exit, **arguments: Any) -> None:
        super().__init__("trainer_node", **arguments)
        # The only place where maac_ros knows of the learner, and with it of PyTorch.
        from maac_learning.config import load_train_config
        from maac_learning.trainer import Trainer

        self._leave = leave
        values = declare(self, PARAMETERS)
        overrides = {"seed": values["seed"]}
        if values["env_steps"]:
            overrides["env_steps"] = values["env_steps"]
        config = load_train_config(values["task"], values["preset"], overrides)
        self._run_dir = Path(values["run_dir"] or _new_run_dir(values)).expanduser()
        self._trainer = Trainer(config, self._run_dir)
        self._progress: Progress | None = None
        self._stopping = threading.Event()
        self._steps = self.create_publisher(Int64, "~/progress/env_steps", RELIABLE)
        self._numbers = {
            name: self.create_publisher(Float64, f"~/progress/{name}", RELIABLE) for name in NUMBERS
        }
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self.create_service(Trigger, "~/checkpoint", self._on_checkpoint)
        self.create_service(Trigger, "~/export", self._on_export)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady_clock())
        self._thread = threading.Thread(target=self._train, name="training", daemon=True)
        self.get_logger().info(f"learning '{config.task}' in {self._run_dir}")
        self._thread.start()

    def close(self) -> None:
        """Stop training, where it still goes on, with a checkpoint."""
        self._stopping.set()
        self._trainer.request_stop()
        self._thread.join()

    def _train(self) -> None:
        try:
            self._trainer.train(self._on_progress)
            if self._stopping.is_set():
                self.get_logger().info(f"stopped; a checkpoint is in {self._run_dir}")
            else:
                bundle = self._trainer.export_bundle()
                self.get_logger().info(f"finished; the bundle is '{bundle.path}'")
            self._leave.request()
        except MaacError as reason:
            self.get_logger().fatal(str(reason))
            self._leave.request(1)
        except Exception:
            self.get_logger().fatal(f"training failed\n{traceback.format_exc()}")
            self._leave.request(1)

    def _on_progress(self, progress: Progress) -> None:
        """Called by the training thread."""
        self._progress = progress
        for warning in progress.warnings:
            self.get_logger().warning(warning)
        self._steps.publish(Int64(data=progress.env_steps))
        for name, publisher in self._numbers.items():
            value = getattr(progress, name)
            if value is not None and not math.isnan(value):
                publisher.publish(Float64(data=float(value)))

    def _publish_diagnostics(self) -> None:
        progress = self._progress
        values: dict[str, object] = {"run_dir": self._run_dir}
        if progress is None:
            level, message = DiagnosticStatus.OK, "starting"
        else:
            level = DiagnosticStatus.OK
            message = f"step {progress.env_steps} of {progress.total_env_steps}"
            values |= {name: getattr(progress, name) for name in NUMBERS}
            values |= {
                "phase": progress.phase,
                "seconds": progress.seconds,
                "seconds_left": progress.seconds_left,
            }
        self._diagnostics.publish(
            diagnostics(self, self._trainer.task.name, level, message, values)
        )

    def _on_checkpoint(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._trainer.request_checkpoint()
        response.success = True
        response.message = f"a checkpoint will be written into {self._run_dir / 'checkpoints'}"
        return response

    def _on_export(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._trainer.request_export()
        response.success = True
        response.message = f"a bundle will be written to {self._run_dir / 'bundle'}"
        return response


def _new_run_dir(values: dict[str, Any]) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    task, preset = Path(values["task"]).stem, Path(values["preset"]).stem
    return Path("runs") / task / f"{preset}-seed{values['seed']}-{stamp}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until training is finished, or SIGINT or SIGTERM comes."""
    return run_node(TrainerNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
