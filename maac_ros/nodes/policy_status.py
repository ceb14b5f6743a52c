"""What the policy node says about itself on ``/diagnostics``."""

from __future__ import annotations

from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticStatus

from maac_ros.bundle import Bundle
from maac_ros.modes import Mode
from maac_ros.nodes.control_loop import ControlLoop, LoopReport
from maac_ros.recording import FlightRecorder
from maac_ros.scheduling import priority
from maac_ros.timing import Summary


def status(
    bundle: Bundle | None,
    loop: ControlLoop | None,
    failure: str,
    recorder: FlightRecorder | None,
    concerns: Sequence[str],
) -> tuple[str, bytes, str, dict[str, object]]:
    """Hardware id, level, message and values.

    While commanding, the level tells the worst that happened since the last call: ERROR, the safe command; WARN,
    the policy where a plan was asked for, a missed deadline, a recording that has holes, or another concern.

    Args:
        bundle, loop, recorder: what the node has; None where it has none.
        failure: why it could not be configured or activated; empty where it could, or was not asked to.
        concerns: what else is wrong.
    """
    if bundle is None or loop is None:
        if failure:
            return "", DiagnosticStatus.ERROR, f"cannot be configured: {failure}", {}
        return "", DiagnosticStatus.WARN, "not configured", {}
    hardware = bundle.task.name
    if not loop.running:
        stopped = loop.controller.stopped
        values: dict[str, object] = {
            "mode": "inactive",
            "stopped": bool(stopped),
            "bundle": bundle.path,
        }
        level, message = DiagnosticStatus.OK, "inactive: not commanding"
        if stopped:
            level, message = (
                DiagnosticStatus.WARN,
                f"{message}; stopped until ~/clear_stop: {stopped}",
            )
        if failure:
            level, message = DiagnosticStatus.ERROR, f"{message}; cannot be activated: {failure}"
        return hardware, level, message, values
    report = loop.report()
    level, message = _judge(report, loop.controller.settings.tick_limit_s)
    values = _values(bundle, loop, report)
    concerns = list(concerns)
    if recorder is not None:
        values |= {"recording": recorder.folder, "recording_lost": recorder.lost}
        if recorder.failure or recorder.lost:
            lost = f"{recorder.lost} ticks are not recorded"
            concerns.append(f"{lost}: {recorder.failure}" if recorder.failure else lost)
    if rate := _wrong_rate(bundle.manifest.control_period_s * 1e3, loop.trigger, report):
        concerns.append(rate)
    if concerns:
        level = max(level, DiagnosticStatus.WARN)
        message = "; ".join((message, *concerns))
    return hardware, level, message, values


def _judge(report: LoopReport, tick_limit_s: float) -> tuple[bytes, str]:
    command = report.command
    if report.hangs_in_sending_s > tick_limit_s:
        hangs = f"a command has hung in sending for {report.hangs_in_sending_s:.1f} s"
        return DiagnosticStatus.ERROR, f"nothing can be commanded: {hangs}"
    if command is None:
        return DiagnosticStatus.WARN, "no tick yet"
    if command.mode is Mode.STOPPED:
        return DiagnosticStatus.ERROR, f"stopped until ~/clear_stop: {command.reason}"
    if command.mode is Mode.SAFE:
        return DiagnosticStatus.ERROR, f"safe command: {command.reason}"
    if command.reason:
        return DiagnosticStatus.WARN, f"{command.mode.value}: {command.reason}"
    if report.missed_now:
        told = f"{command.mode.value}: {report.missed_now} deadlines missed"
        # What else the cores had to do may have come first.
        return DiagnosticStatus.WARN, told + ("" if priority() else " (thread_priority is 0)")
    return DiagnosticStatus.OK, command.mode.value


_SAME_RATE = 0.2
"""By how much, as a share of the control period, observations may come slower or faster than in training."""

_RATE_SHOWN = 20
"""So many observations tell their rate."""


def _wrong_rate(period_ms: float, trigger: str, report: LoopReport) -> str:
    """That observations do not come as often as the policy learned to act on them; empty where they do.

    A timer does not care how many it skips.
    """
    came = report.observation_period
    slower = came.p50_ms > (1 + _SAME_RATE) * period_ms
    faster = came.p50_ms < (1 - _SAME_RATE) * period_ms and trigger == "observation"
    if came.count < _RATE_SHOWN or not (slower or faster):
        return ""
    return f"observations come every {came.p50_ms:.3g} ms; the policy learned to act every {period_ms:g} ms"


def _values(bundle: Bundle, loop: ControlLoop, report: LoopReport) -> dict[str, object]:
    controller, command = loop.controller, report.command
    statistics, monitor = controller.statistics, controller.monitor
    return {
        "mode": command.mode.value if command else "none",
        "reason": command.reason if command else "",
        "use_mpc": controller.settings.use_mpc,
        "stopped": bool(controller.stopped),
        **{f"ticks.{mode.value}": statistics.ticks[mode] for mode in Mode},
        **{
            f"transitions.{before.value if before else 'none'}_{after.value}": count
            for (before, after), count in controller.ladder.counts.copy().items()
        },
        **{f"fallbacks.{cause}": count for cause, count in sorted(statistics.fallbacks.items())},
        **_summary("period", report.period),
        **_summary("tick", report.tick),
        **_summary("inference", statistics.inference.summary()),
        **_summary("planning", statistics.planning.summary()),
        **_summary("age", report.age),
        "missed_deadlines": report.missed_deadlines,
        "thread_priority": priority(),
        "overtaken_messages": report.overtaken,
        "observation_age_ms": report.observation_age_s * 1e3,
        **{f"age_ms.{source}": age_s * 1e3 for source, age_s in report.ages_s.items()},
        "model_calibrated": monitor.calibrated,
        "model_doubt": monitor.doubt,
        "model_disagreement": monitor.disagreement,
        "model_residual": monitor.residual,
        "model_exceedance": monitor.exceedance,
        "ticks.model_doubted": statistics.doubted,
        "bundle": bundle.path,
    }


def _summary(name: str, summary: Summary) -> dict[str, object]:
    return {
        f"{name}_p50_ms": summary.p50_ms,
        f"{name}_p99_ms": summary.p99_ms,
        f"{name}_max_ms": summary.max_ms,
    }
