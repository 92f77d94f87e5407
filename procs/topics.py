"""Topics: who gets what is published. In memory: a subscription ends with its process."""

import msgspec

from syscalls.errors import ENOENT


class TopicsStatistics(msgspec.Struct, frozen=True):
    """Figures of the subscriptions."""

    topics: int
    subscriptions: int


class Topics:
    """Subscriptions, by topic and by process."""

    def __init__(self) -> None:
        self._by_topic: dict[str, dict[int, None]] = {}
        self._by_process: dict[int, set[str]] = {}

    def subscribe(self, apid: int, topic: str) -> None:
        """From now on; once is enough."""
        self._by_topic.setdefault(topic, {})[apid] = None
        self._by_process.setdefault(apid, set()).add(topic)

    def unsubscribe(self, apid: int, topic: str) -> None:
        """No longer. Raises ENOENT when there was no subscription."""
        if topic not in self._by_process.get(apid, ()):
            raise ENOENT(f"process {apid} has no subscription to {topic!r}", topic=topic)
        self._by_process[apid].remove(topic)
        if not self._by_process[apid]:
            del self._by_process[apid]
        self._drop(apid, topic)

    def leave(self, apid: int) -> None:
        """End all subscriptions of a process."""
        for topic in self._by_process.pop(apid, ()):
            self._drop(apid, topic)

    def subscribers(self, topic: str) -> list[int]:
        """APIDs in the order in which they subscribed."""
        return list(self._by_topic.get(topic, ()))

    def statistics(self) -> TopicsStatistics:
        """Figures for ``/proc`` and metrics."""
        count = sum(len(topics) for topics in self._by_process.values())
        return TopicsStatistics(topics=len(self._by_topic), subscriptions=count)

    def _drop(self, apid: int, topic: str) -> None:
        subscribers = self._by_topic[topic]
        del subscribers[apid]
        if not subscribers:
            del self._by_topic[topic]
