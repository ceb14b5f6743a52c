"""When the control thread ticks, and what it sends last."""

import dataclasses
import re
import threading

import numpy as np
import pytest
from loop_rig import SECOND, Rig

from maac_ros.controller import Controller, ControllerSettings, Mode
from maac_ros.errors import ObservationError
from maac_ros.nodes import control_loop
from maac_ros.nodes.inbox import Inbox, Wake
from maac_ros.nodes.messages import BaseReading
from maac_ros.observation import JointReading
from maac_ros.task import PlannerSettings, load_task


@pytest.fixture(scope="module")
def bundle(untrained_bundle):
    return untrained_bundle("inverted_pendulum")


@pytest.fixture
def rig(bundle):
    rigs = []

    def make(*args, **kwargs):
        rigs.append(Rig(bundle, *args, **kwargs))
        return rigs[-1]

    yield make
    for made in rigs:
        made.loop.stop()
        assert made.failures == []


def test_each_new_stamp_is_answered_once(rig):
    made = rig("observation")
    made.loop.start()
    for count in (1, 2, 3):
        made.put(made.now_ns + count)
        command, answers = made.until_sent(count)
        assert command.mode is Mode.POLICY
        assert answers == made.now_ns + count


def test_stamp_that_comes_again_gets_the_same_answer_without_a_tick(rig):
    made = rig("observation", use_mpc=True)
    made.loop.start()
    made.put(made.now_ns)
    first = made.until_sent(1)
    made.put(made.now_ns)
    again = made.until_sent(2)
    assert again[0] is first[0]
    assert again[1] == first[1]
    assert made.controller.statistics.ticks == {Mode.MPC: 1}


def test_observation_from_before_the_start_is_answered_at_once(rig):
    made = rig("observation")
    made.put(made.now_ns)
    made.loop.start()
    command, answers = made.until_sent(1)
    assert command.mode is Mode.POLICY
    assert answers == made.now_ns


def test_timer_ticks_on_the_newest_observation(rig):
    made = rig("timer")
    made.put(made.now_ns - SECOND // 10)
    made.loop.start()
    command, answers = made.until_sent(3)
    assert (command.mode, answers) == (Mode.POLICY, made.now_ns - SECOND // 10)
    assert made.ticks[0].observation_age_s == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("offset_s", "reason"),
    [
        (-0.3, "joint_states is 300 ms old; limit 200 ms"),
        (0.3, "joint_states is stamped 300 ms in the future"),
    ],
)
def test_stamps_far_from_now_are_unsafe(rig, offset_s, reason):
    made = rig("timer")
    made.put(made.now_ns + round(offset_s * SECOND))
    made.loop.start()
    command, _ = made.until_sent(1)
    assert command.mode is Mode.SAFE
    assert reason in command.reason


def test_simulated_time_may_lag_or_stand_still(rig):
    made = rig("observation", simulated=True)
    made.loop.start()
    for count, stamp in enumerate((5, 200 * SECOND, 3), start=1):  # before, after, and a restart
        made.put(stamp)
        command, _ = made.until_sent(count)
        assert command.mode is Mode.POLICY


def test_silence_is_unsafe(rig):
    made = rig("observation", max_observation_age_s=0.01)
    made.loop.start()
    command, answers = made.until_sent(1)
    assert command.mode is Mode.SAFE
    assert command.reason == "no observation yet: nothing heard on joint_states"
    assert answers == 0
    before = len(made.sent)
    made.put(made.now_ns)
    made.until_sent(before + 1)
    made.now_ns += SECOND
    assert made.until_sent(len(made.sent) + 1)[0].reason.startswith(
        "no new observation for 1000 ms"
    )


def test_bad_reading_is_unsafe_and_named(rig):
    made = rig("observation")
    made.loop.start()
    made.put(made.now_ns, ObservationError("joint_states: joint 'hinge' is missing"))
    command, _ = made.until_sent(1)
    assert (command.mode, command.reason) == (Mode.SAFE, "joint_states: joint 'hinge' is missing")


def test_stamp_of_zero_is_unsafe_and_named(rig):
    made = rig("timer")
    made.put(0)
    made.loop.start()
    assert "joint_states: header.stamp is 0" in made.until_sent(1)[0].reason


def test_stop_is_sent_at_once_and_replaces_the_answer(rig):
    made = rig("observation")
    made.loop.start()
    made.put(made.now_ns)
    assert made.until_sent(1)[0].mode is Mode.POLICY
    made.loop.latch_stop("stopped by hand")
    command, answers = made.until_sent(2)
    assert (command.mode, command.reason) == (Mode.STOPPED, "stopped by hand")
    assert answers == made.now_ns
    made.put(made.now_ns)  # a repetition must not bring the old answer back
    assert made.until_sent(3)[0].mode is Mode.STOPPED
    made.loop.clear_stop()
    made.put(made.now_ns + 1)
    assert made.until_sent(4)[0].mode is Mode.POLICY


def test_swapped_controller_inherits_the_stop(rig, bundle):
    made = rig("observation")
    made.loop.start()
    made.loop.latch_stop("stopped by hand")
    made.loop.swap(Controller(bundle, made.controller.settings), made.controller.settings)
    made.put(made.now_ns)
    assert made.until_sent(2)[0].reason == "stopped by hand"


@pytest.mark.parametrize("trigger", ["timer", "observation"])
def test_safe_command_is_the_last_one_sent(rig, trigger):
    made = rig(trigger)
    made.put(made.now_ns)
    made.loop.start()
    made.until_sent(1)
    made.loop.stop()
    assert not made.loop.running
    command, _ = made.sent[-1]
    assert command.mode is Mode.SAFE
    np.testing.assert_array_equal(command.values, [0.0])


def hang(made, method):
    """Let ``method`` of the controller wait for the event that is returned, once."""
    go_on = threading.Event()
    original = getattr(made.controller, method)

    def slow(*arguments, **named):
        setattr(made.controller, method, original)
        assert go_on.wait(10)
        return original(*arguments, **named)

    setattr(made.controller, method, slow)
    return go_on


@pytest.mark.parametrize("method", ["tick", "assess"])
def test_tick_that_hangs_is_overruled_by_the_safe_command(rig, method):
    made = rig("observation", tick_limit_s=0.05)
    go_on = hang(made, method)
    made.loop.start()
    made.put(made.now_ns)
    before = 0 if method == "tick" else 1
    for count in (1, 2):
        command, answers = made.until_sent(before + count)
        assert command.mode is Mode.SAFE
        assert re.fullmatch(r"a tick has taken \d+ ms; limit 50 ms", command.reason)
        assert np.array_equal(command.values, made.controller.safe.blind)
        assert answers == made.now_ns
    with made.changed:  # what comes from now on is sent after the hang
        overruled = len(made.sent)
        go_on.set()
    made.put(made.now_ns + 1)
    while made.until_sent(overruled + 1)[1] == made.now_ns:  # still the watchdog
        assert made.sent[overruled][0].mode is Mode.SAFE
        overruled += 1
    assert made.sent[overruled][0].mode is Mode.POLICY
    made.loop.stop()
    statistics = made.controller.statistics
    assert statistics.fallbacks["hang"] == 1
    assert statistics.ticks == {Mode.SAFE: 1, Mode.POLICY: 1}
    assert [tick.mode for tick in made.ticks] == [Mode.SAFE, Mode.POLICY]
    assert made.loop.report().command.reason.startswith("a tick has taken")


def test_watchdog_that_cannot_send_is_reported(bundle):
    made = Rig(bundle, "observation", tick_limit_s=0.02)
    reported = threading.Event()
    made.loop._failed = lambda reason: (made.failures.append(reason), reported.set())
    made.loop._send = lambda command, answers: 1 / 0
    go_on = hang(made, "tick")
    made.loop.start()
    made.put(made.now_ns)
    assert reported.wait(10)
    assert isinstance(made.failures[0], ZeroDivisionError)
    go_on.set()
    made.loop._watchdog.stop()
    made.loop._thread.join(10)


def test_safe_command_ends_a_hung_loop_too(rig):
    made = rig("observation", tick_limit_s=10.0)
    go_on = hang(made, "tick")
    made.loop.start()
    made.put(made.now_ns)
    stopping = threading.Thread(target=made.loop.stop)
    stopping.start()
    assert made.until_sent(1)[0].reason == "the controller stops"
    go_on.set()
    stopping.join(10)
    assert [command.reason for command, _ in made.sent] == ["the controller stops"]


def test_thread_that_fails_is_reported(bundle):
    made = Rig(bundle, "observation")
    made.loop._send = lambda command, answers: 1 / 0
    made.put(made.now_ns)
    made.loop.start()
    made.loop._thread.join(10)
    assert isinstance(made.failures[0], ZeroDivisionError)


def test_missed_deadlines_are_counted(rig, monkeypatch):
    made = rig("observation")
    slow = threading.Event()
    ask = made.controller._ask_policy

    def late():
        slow.wait(0.05)  # longer than the period of 0.04 s
        ask()

    monkeypatch.setattr(made.controller, "_ask_policy", late)
    made.loop.start()
    made.put(made.now_ns)
    made.until_sent(1)
    made.loop.stop()
    assert made.loop.report().missed_deadlines == 1
    assert made.ticks[0].missed == 1


def test_report_tells_the_worst_since_the_previous_one(rig):
    made = rig("observation")
    made.loop.start()
    made.put(made.now_ns, ObservationError("broken"))
    made.until_sent(1)
    made.put(made.now_ns + 1)
    made.until_sent(2)
    made.loop.stop()
    assert made.loop.report().command.reason == "broken"
    assert made.loop.report().command.mode is Mode.POLICY


def test_report_in_the_middle_of_a_tick_stops_nothing(rig, monkeypatch):
    made = rig("observation")
    reports = []
    severity = control_loop._severity

    def meanwhile(command):
        reports.append(made.loop.report())
        return severity(command)

    monkeypatch.setattr(control_loop, "_severity", meanwhile)
    made.loop.start()
    made.put(made.now_ns, ObservationError("broken"))
    made.until_sent(1)
    made.put(made.now_ns + 1)
    made.until_sent(2)
    made.put(made.now_ns + 2, ObservationError("broken again"))
    made.until_sent(3)
    made.loop.stop()
    assert made.failures == []
    assert reports
    assert made.loop.report().command.reason == "broken again"


def test_sources_match_only_with_one_stamp():
    inbox = Inbox(load_task("ant"), wake_on_match=True)
    joints = JointReading(np.zeros(8), np.zeros(8))
    base = BaseReading(np.zeros(3), np.array([1.0, 0, 0, 0]), np.zeros(3), np.zeros(3))
    assert inbox.newest().stamp_ns is None
    inbox.put("joint_states", 1, joints)
    assert "nothing heard on odom" in str(inbox.newest().observation)
    inbox.put("odom", 2, base)
    assert inbox.wait(0.0) is Wake.DEADLINE
    assert inbox.newest().stamp_ns == 1
    inbox.put("joint_states", 2, joints)
    assert inbox.wait(0.0) is Wake.MATCH
    assert inbox.wait(0.0) is Wake.DEADLINE
    assert inbox.newest().observation.shape == (27,)


def test_the_source_that_reaches_its_own_limit_first_is_named():
    inbox = Inbox(load_task("ant"), wake_on_match=False)
    inbox.put("joint_states", 10 * SECOND, JointReading(np.zeros(8), np.zeros(8)))
    base = BaseReading(np.zeros(3), np.array([1.0, 0, 0, 0]), np.zeros(3), np.zeros(3))
    inbox.put("odom", 11 * SECOND, base)
    assert inbox.newest().oldest == "joint_states"
    assert inbox.newest(lambda _: np.inf).oldest == "joint_states"
    sample = inbox.newest({"joint_states": 2.0, "odom": 0.5}.__getitem__)
    assert (sample.oldest, sample.stamp_ns) == ("odom", 11 * SECOND)
    settings = ControllerSettings(PlannerSettings(), 1.0, max_observation_age_s=2.0)
    assert settings.age_limit_s("odom") == 2.0
    settings = dataclasses.replace(settings, max_odom_age_s=0.5)
    assert (settings.age_limit_s("odom"), settings.age_limit_s("joint_states")) == (0.5, 2.0)


def test_overtaken_message_is_dropped_and_counted(rig):
    made = rig("timer")
    made.put(made.now_ns, JointReading(np.array([0.5, 0.0]), np.zeros(2)))
    made.put(made.now_ns - 1_000_000)
    sample = made.inbox.newest()
    assert sample.stamp_ns == made.now_ns
    assert sample.observation[0] == 0.5
    assert made.loop.report().overtaken == 1
    assert made.inbox.overtaken == {"joint_states": 1}


def test_clock_that_goes_back_costs_one_message(rig):
    made = rig("observation")
    made.loop.start()
    made.put(made.now_ns)
    assert made.until_sent(1)[0].mode is Mode.POLICY
    made.now_ns -= 60 * SECOND
    made.put(made.now_ns)
    command, _ = made.until_sent(2)
    assert command.mode is Mode.SAFE
    assert command.reason == "joint_states: header.stamp went back by 60 s"
    made.put(made.now_ns + 1)
    assert made.until_sent(3)[0].mode is Mode.POLICY


def test_no_target_is_sent_before_the_joints_are_known(untrained_bundle):
    made = Rig(untrained_bundle("servo_robot"), "timer", action_rate_limit=1.0)
    made.loop.start()
    try:
        made.until(lambda: len(made.ticks) > 5)
        assert not made.sent
        position = np.array([-0.4, 0.02, 0.0])
        made.put(made.now_ns, JointReading(position, np.zeros(3)))
        command, _ = made.until_sent(1)
        assert command.mode is Mode.POLICY
        # From where the robot is, by no more than the limit allows in a period.
        assert np.abs(command.values[1:] - position[:2]).max() <= 0.02 + 1e-12
        made.loop.latch_stop("by hand")
        made.until(lambda: made.sent[-1][0].mode is Mode.STOPPED)
        np.testing.assert_array_equal(made.sent[-1][0].values, [-1.0, -0.4, 0.02])
    finally:
        made.loop.stop()
    np.testing.assert_array_equal(made.sent[-1][0].values, [-1.0, -0.4, 0.02])


def test_nothing_is_sent_by_a_loop_that_never_knew_the_joints(untrained_bundle):
    made = Rig(untrained_bundle("servo_robot"), "timer")
    made.loop.start()
    made.until(lambda: len(made.ticks) > 2)
    made.loop.stop()
    assert not made.sent
    assert not made.failures


def test_stamp_that_never_advances_is_stale_in_the_end(rig):
    """Its publisher lives, and what it publishes has stopped: messages alone are no sign of life."""
    made = rig("observation")
    made.loop.start()
    made.put(made.now_ns)
    made.until_sent(1)
    stamp_ns, made.now_ns = made.now_ns, made.now_ns + SECOND // 2
    made.put(stamp_ns)
    command, _ = made.until_sent(2)
    assert command.mode is Mode.SAFE
    assert command.reason == "no new observation for 500 ms; limit 200 ms"


@pytest.mark.parametrize("trigger", ["timer", "observation"])
def test_simulated_time_that_was_never_heard_hides_no_silence(rig, trigger):
    made = rig(trigger, simulated=True)
    made.now_ns = 0
    made.loop.start()
    made.put(5)
    command, _ = made.until_sent(1)
    assert command.mode is Mode.POLICY
    made.until(lambda: made.sent[-1][0].mode is Mode.SAFE)
    assert made.sent[-1][0].reason == "use_sim_time is set, and nothing has been heard on /clock"


def test_simulated_time_that_stands_still_hides_no_long_silence(rig, monkeypatch):
    monkeypatch.setattr(control_loop, "_SILENCE_S", 0.2)
    made = rig("timer", simulated=True)
    made.loop.start()
    made.put(made.now_ns)
    assert made.until_sent(1)[0].mode is Mode.POLICY
    made.until(lambda: made.sent[-1][0].mode is Mode.SAFE)
    assert "whatever simulated time it is" in made.sent[-1][0].reason


def test_wall_time_is_no_simulated_time(rig):
    made = rig("timer", simulated=True)
    made.loop.start()
    made.put(made.now_ns + 1000 * SECOND)
    command, _ = made.until_sent(1)
    assert command.mode is Mode.SAFE
    assert "joint_states is stamped 1000000 ms in the future; limit 200 ms" in command.reason


@pytest.mark.parametrize("where", ["_measured", "_adopt"])
def test_whatever_hangs_around_a_tick_is_overruled_too(rig, where):
    made = rig("observation", tick_limit_s=0.05)
    go_on, original = threading.Event(), getattr(made.loop, where)

    def slow(*arguments):
        setattr(made.loop, where, original)
        assert go_on.wait(10)
        return original(*arguments)

    made.loop.start()
    setattr(made.loop, where, slow)
    made.put(made.now_ns)
    made.until(lambda: made.sent and made.sent[-1][0].mode is Mode.SAFE)
    assert re.fullmatch(r"a tick has taken \d+ ms; limit 50 ms", made.sent[-1][0].reason)
    go_on.set()
    made.put(made.now_ns + 1)
    made.until(lambda: made.sent[-1][0].mode is Mode.POLICY)
    assert made.controller.statistics.fallbacks["hang"] == 1


def test_command_that_hangs_in_sending_is_reported_and_does_not_hang_the_end(bundle, monkeypatch):
    monkeypatch.setattr(control_loop, "_JOIN_SECONDS", 0.2)
    made = Rig(bundle, "observation", tick_limit_s=0.05)
    go_on = threading.Event()
    made.loop._send = lambda command, answers: go_on.wait(10)
    made.loop.start()
    made.put(made.now_ns)
    made.until(lambda: made.loop.report().hangs_in_sending_s > 0.05)
    made.loop.stop()
    told = [str(failure) for failure in made.failures]
    assert told[0] == "the safe command cannot be sent: another one hangs in sending"
    go_on.set()


def test_report_has_the_age_of_each_source_and_the_rate_of_the_observations(rig):
    made = rig("observation")
    made.loop.start()
    assert np.isnan(made.loop.report().ages_s["joint_states"])
    for count in range(1, 5):
        made.put(made.now_ns + count * SECOND // 20)
        made.until_sent(count)
    made.now_ns += SECOND
    report = made.loop.report()
    assert report.ages_s == {"joint_states": pytest.approx(0.8)}
    assert (report.observation_period.count, report.observation_period.p50_ms) == (3, 50.0)
