"""The ladder of modes: faults lead down at once, and up again only by rule."""

import itertools

from maac_ros.modes import Ladder, Mode, Rules, Transition

RULES = Rules(recovery_ticks=3, stop_after_s=1.0)


class Play:
    """A ladder whose ticks are a tenth of a second apart."""

    def __init__(self, rules=RULES):
        self.ladder, self.rules = Ladder(), rules
        self._now = itertools.count()

    def __call__(self, *wanted):
        return [self.ladder.settle(*self._given(each))[0] for each in wanted]

    def _given(self, wanted):
        reason = "joint_states is late" if wanted is Mode.SAFE else ""
        return wanted, reason, next(self._now) * 0.1, self.rules


def test_nothing_is_in_the_way_of_what_is_asked_for():
    asked = [Mode.POLICY, Mode.MPC, Mode.MPC, Mode.POLICY]
    assert Play()(*asked) == asked


def test_wait_for_the_first_observation_is_no_fault():
    play = Play()
    assert play(*[Mode.SAFE] * 30, Mode.POLICY)[-2:] == [Mode.SAFE, Mode.POLICY]
    assert not play.ladder.stopped


def test_fault_leads_to_the_safe_command_at_once_and_recovery_takes_its_time():
    play = Play()
    modes = play(Mode.POLICY, Mode.SAFE, Mode.MPC, Mode.MPC, Mode.MPC, Mode.MPC)
    assert modes == [Mode.POLICY, *[Mode.SAFE] * 3, *[Mode.MPC] * 2]


def test_recovery_says_what_it_waits_for():
    play = Play()
    play(Mode.POLICY, Mode.SAFE)
    _, reason = play.ladder.settle(Mode.POLICY, "", 0.2, RULES)
    assert reason == "1 of 3 ticks without a fault after: joint_states is late"


def test_another_fault_begins_the_recovery_anew():
    play = Play()
    modes = play(Mode.POLICY, Mode.SAFE, Mode.POLICY, Mode.SAFE, *[Mode.POLICY] * 3)
    assert modes == [Mode.POLICY, *[Mode.SAFE] * 5, Mode.POLICY]


def test_lasting_fault_latches_the_stop_until_it_is_cleared():
    play = Play()
    modes = play(Mode.POLICY, *[Mode.SAFE] * 12, *[Mode.POLICY] * 10)
    assert modes == [Mode.POLICY, *[Mode.SAFE] * 11, *[Mode.STOPPED] * 11]
    assert play.ladder.stopped == "the safe command has lasted 1.1 s: joint_states is late"
    play.ladder.clear_stop()
    assert play(Mode.POLICY) == [Mode.POLICY]


def test_fault_that_comes_and_goes_lasts():
    play = Play()
    modes = play(Mode.POLICY, *[Mode.SAFE, Mode.POLICY] * 7)
    assert modes[-1] is Mode.STOPPED


def test_stop_by_hand_holds_whatever_comes():
    play = Play()
    play(Mode.POLICY)
    play.ladder.stop("stopped by hand")
    assert play(Mode.POLICY, Mode.SAFE, Mode.MPC) == [Mode.STOPPED] * 3
    play.ladder.clear_stop()
    assert play(Mode.SAFE, Mode.MPC) == [Mode.SAFE, Mode.MPC]


def test_without_a_limit_no_fault_latches_the_stop():
    play = Play(Rules(recovery_ticks=1))
    assert play(Mode.POLICY, *[Mode.SAFE] * 100, Mode.POLICY)[-2:] == [Mode.SAFE, Mode.POLICY]


def test_transitions_are_counted_and_told():
    play = Play(Rules())
    play(Mode.POLICY, Mode.POLICY, Mode.SAFE, Mode.POLICY)
    assert play.ladder.counts == {
        (None, Mode.POLICY): 1,
        (Mode.POLICY, Mode.SAFE): 1,
        (Mode.SAFE, Mode.POLICY): 1,
    }
    assert list(play.ladder.news) == [
        Transition(None, Mode.POLICY, ""),
        Transition(Mode.POLICY, Mode.SAFE, "joint_states is late"),
        Transition(Mode.SAFE, Mode.POLICY, ""),
    ]


def test_fault_that_comes_and_goes_latches_the_stop_too():
    """One bad tick of ten: three tenths of the time are the safe command's, and seven make up for a fraction."""
    play = Play()
    modes = play(*([Mode.POLICY] * 9 + [Mode.SAFE]) * 8)
    assert modes[-1] is Mode.STOPPED
    assert Mode.STOPPED not in modes[:35]
    assert "joint_states is late" in play.ladder.stopped
    play.ladder.clear_stop()
    assert play(Mode.POLICY, Mode.SAFE, *[Mode.POLICY] * 5)[-1] is Mode.POLICY


def test_faults_that_are_rare_are_forgiven():
    play = Play()
    modes = play(*([Mode.POLICY] * 39 + [Mode.SAFE]) * 50)
    assert Mode.STOPPED not in modes
