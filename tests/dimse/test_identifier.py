"""The sink that collects an identifier within a cap."""

from __future__ import annotations

from dicomnode.dimse.channel import DataSetSink
from dicomnode.dimse.identifier import Budget, IdentifierSink


class NoLease:
    def retain(self) -> None:
        raise AssertionError("an identifier is copied, so that no buffer is kept")

    def release(self) -> None:
        raise AssertionError("nothing was retained")


class Heard:
    def __init__(self, max_identifier_bytes: int, budget: Budget | None = None) -> None:
        self.calls: list[bytes | str] = []
        self.sink: DataSetSink = IdentifierSink(
            max_identifier_bytes,
            self.calls.append,
            lambda: self.calls.append("overflow"),
            self.calls.append,
            budget,
        )

    def write(self, *fragments: bytes) -> None:
        for fragment in fragments:
            self.sink.write(memoryview(fragment), NoLease())


def test_fragments_are_joined_and_handed_over_at_the_end() -> None:
    heard = Heard(10)
    heard.write(b"12345", b"", b"67890")
    assert heard.calls == []
    heard.sink.finish()
    assert heard.calls == [b"1234567890"]


def test_an_empty_data_set_is_complete() -> None:
    heard = Heard(10)
    heard.write(b"")
    heard.sink.finish()
    assert heard.calls == [b""]


def test_the_identifier_outlives_the_receive_buffer() -> None:
    heard = Heard(10)
    buffer = bytearray(b"12345")
    heard.sink.write(memoryview(buffer), NoLease())
    buffer[:] = b"xxxxx"
    heard.sink.finish()
    assert heard.calls == [b"12345"]


def test_one_byte_too_many_overflows_once_and_the_rest_is_swallowed() -> None:
    heard = Heard(10)
    heard.write(b"1234567890", b"1")
    assert heard.calls == ["overflow"]
    heard.write(b"2", b"3" * 1000)
    heard.sink.finish()
    assert heard.calls == ["overflow"]


def test_an_abandoned_identifier_is_dropped() -> None:
    heard = Heard(10)
    heard.write(b"123")
    heard.sink.abandon("aborted by peer")
    assert heard.calls == ["aborted by peer"]


def test_nobody_need_listen_for_the_abandonment() -> None:
    calls: list[bytes] = []
    IdentifierSink(10, calls.append, calls.clear).abandon("aborted by peer")
    assert calls == []


def test_what_several_collect_together_is_bounded() -> None:
    budget = Budget(10)
    first, second = Heard(10, budget), Heard(10, budget)
    first.write(b"123456")
    second.write(b"1234", b"5", b"6")
    assert second.calls == ["overflow"] and budget.left == 4
    first.write(b"7890")
    first.sink.finish()
    assert first.calls == [b"1234567890"] and budget.left == 0


def test_what_an_association_leaves_unfinished_is_there_for_others() -> None:
    budget = Budget(10)
    heard = Heard(10, budget)
    heard.write(b"123456")
    heard.sink.abandon("connection lost")
    assert budget.left == 10
    heard.write(b"7")
    heard.sink.abandon("connection lost")
    assert budget.left == 10
