"""Subscriptions that are read in a thread of their own."""

import threading

from std_msgs.msg import String

from maac_ros.nodes.common import BEST_EFFORT, RELIABLE
from maac_ros.nodes.reader import Reader


class Heard:
    """Takes messages from the reader's thread."""

    def __init__(self):
        self.words = []
        self.thread = ""

    def __call__(self, message):
        self.words.append(message.data)
        self.thread = threading.current_thread().name


def talk(bench, topic, words, heard):
    """Say each word until it is heard, without anything spinning."""
    publisher = bench.probe.create_publisher(String, topic, RELIABLE)
    for word in words:
        for _ in range(600):
            publisher.publish(String(data=word))
            if heard.wait(0.1):
                break
        assert heard.is_set(), word
        heard.clear()


def test_messages_of_all_topics_come_in_while_nothing_spins(bench):
    failures, heard, heards = [], threading.Event(), {"one": Heard(), "two": Heard()}
    reader = Reader(bench.probe, failures.append)
    for topic, take in heards.items():

        def callback(message, take=take):
            take(message)
            heard.set()

        reader.subscribe(String, topic, callback, BEST_EFFORT)
    reader.start()
    for topic, take in heards.items():
        talk(bench, topic, ["first", "second"], heard)
        assert {"first", "second"} == set(take.words)
        assert take.thread == "reader"
    reader.close()
    assert not failures
    assert not [each for each in threading.enumerate() if each.name == "reader"]


def test_exception_of_a_callback_ends_the_reader_and_is_told(bench):
    failures, told = [], threading.Event()

    def failed(reason):
        failures.append(reason)
        told.set()

    def callback(message):
        raise ValueError(message.data)

    reader = Reader(bench.probe, failed)
    reader.subscribe(String, "one", callback, RELIABLE)
    reader.start()
    talk(bench, "one", ["what"], told)
    reader.close()
    assert [str(reason) for reason in failures] == ["what"]


def test_reader_that_never_began_can_be_closed(bench):
    reader = Reader(bench.probe, lambda _: None)
    reader.subscribe(String, "one", lambda _: None, RELIABLE)
    assert bench.probe.count_subscribers("one") == 1
    reader.close()
    bench.until(lambda: bench.probe.count_subscribers("one") == 0, "end of the subscription")


def test_publisher_of_lower_quality_is_named(bench):
    reader = Reader(bench.probe, lambda _: None)
    reader.subscribe(String, "one", lambda _: None, RELIABLE)
    good = bench.probe.create_publisher(String, "one", RELIABLE)
    bench.until(lambda: bench.probe.count_publishers("one") == 1, "publisher")
    assert reader.refused() == []
    bench.probe.destroy_publisher(good)
    bench.probe.create_publisher(String, "one", BEST_EFFORT)
    bench.until(reader.refused, "refusal")
    (told,) = reader.refused()
    assert told.startswith("/one of /probe is not heard: ")
    assert "reliable" in told.lower()
    reader.close()
