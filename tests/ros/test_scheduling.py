"""Real-time priority of the policy node, as the system has it for each thread of its process."""

import ctypes
import os
import resource
import subprocess
import sys
from contextlib import suppress

import pytest
from node_bench import parameters
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from maac_ros.nodes.common import profile
from maac_ros.nodes.telemetry import COLUMNS, MODES

PRIORITY = 7
ORDINARY = (os.SCHED_OTHER, 0)

PR_CAPBSET_DROP, CAP_SYS_NICE = 24, 23
"""Of linux/prctl.h and linux/capability.h."""


def permitted():
    code = f"import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param({PRIORITY}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def scheduling(process):
    """Policy and priority of each of its threads."""
    found = []
    for thread in map(int, os.listdir(f"/proc/{process}/task")):
        with suppress(ProcessLookupError):  # it has ended
            found.append((os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority))
    return found


def planned(ticks):
    return [row for row in ticks if row.data[COLUMNS.index("mode")] == MODES.index("mpc")]


@pytest.fixture
def running(bench, joints, start, untrained_bundle):
    """``running(**parameters)``: a policy node that plans with two threads, and the telemetry of its ticks."""

    def run(**given):
        ticks = bench.listen(Float64MultiArray, "/policy_node/telemetry", profile(depth=1000))
        bundle = str(untrained_bundle("inverted_pendulum").path)
        settings = {"mpc.threads": 2, "use_mpc": True, "autostart": True}
        process = start(
            "maac_ros.nodes.policy_node", *parameters(bundle=bundle, **settings, **given)
        )
        joints.until(lambda: planned(ticks), "plans")
        return process, ticks

    return run


def test_every_thread_that_control_waits_for_has_the_priority(bench, joints, running):
    if not permitted():
        pytest.skip("this process may not have a real-time priority")
    statuses = bench.diagnostics()
    process, ticks = running(thread_priority=PRIORITY)
    wanted = (os.SCHED_FIFO, PRIORITY)
    joints.until(lambda: set(scheduling(process.pid)) == {wanted}, "priority of all threads")
    joints.until(
        lambda: statuses and statuses[-1][2].get("thread_priority") == str(PRIORITY), "diagnosis"
    )
    # Another bundle is loaded by a thread that has no priority, and makes a planner that has.
    client = bench.probe.create_client(Trigger, "/policy_node/reload")
    joints.until(client.service_is_ready, "service")
    answer = client.call_async(Trigger.Request())
    joints.until(lambda: ORDINARY in scheduling(process.pid), "thread that loads")
    joints.until(answer.done, "answer")
    assert answer.result().success, answer.result().message
    before = len(planned(ticks))
    joints.until(lambda: len(planned(ticks)) > before + 5, "plans with the new bundle")
    joints.until(lambda: set(scheduling(process.pid)) == {wanted}, "priority of all threads")


def test_without_a_priority_all_threads_are_ordinary(running):
    process, _ = running()
    assert set(scheduling(process.pid)) == {ORDINARY}


def test_a_priority_that_the_system_does_not_give_is_refused():
    def renounce():
        resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_NICE)

    words = parameters(bundle="inverted_pendulum", thread_priority=PRIORITY)
    done = subprocess.run(
        [sys.executable, "-m", "maac_ros.nodes.policy_node", *words],
        preexec_fn=renounce,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"error: thread_priority: got {PRIORITY}; the system does not let" in done.stderr
    assert "Traceback" not in done.stderr
