"""Subscriptions."""

import pytest

from procs.topics import Topics
from syscalls.errors import ENOENT


def test_subscribers_in_order_and_once() -> None:
    topics = Topics()
    for apid in (5, 3, 5, 9):
        topics.subscribe(apid, "news")
    topics.subscribe(3, "weather")
    assert topics.subscribers("news") == [5, 3, 9]
    assert topics.subscribers("nothing") == []
    assert (topics.statistics().topics, topics.statistics().subscriptions) == (2, 4)


def test_unsubscribing_ends_one_subscription() -> None:
    topics = Topics()
    topics.subscribe(5, "news")
    topics.subscribe(5, "weather")
    topics.unsubscribe(5, "news")
    assert topics.subscribers("news") == []
    assert topics.subscribers("weather") == [5]
    for topic in ("news", "unheard of"):
        with pytest.raises(ENOENT):
            topics.unsubscribe(5, topic)
    with pytest.raises(ENOENT):
        topics.unsubscribe(6, "weather")


def test_a_process_that_leaves_keeps_nothing() -> None:
    topics = Topics()
    for topic in ("a", "b"):
        topics.subscribe(5, topic)
        topics.subscribe(6, topic)
    topics.leave(5)
    topics.leave(5)
    assert topics.subscribers("a") == [6]
    topics.leave(6)
    assert (topics.statistics().topics, topics.statistics().subscriptions) == (0, 0)
