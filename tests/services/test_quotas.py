"""Quotas: how much an AE may store, and what refuses it."""

from __future__ import annotations

import pytest

from dicomnode.errors import OutOfResources, StatusError
from dicomnode.registry import AE, Registry
from dicomnode.services.quotas import Allowance, Metered, Quotas


class Bench:
    """Quotas over a registry, a clock and an index that the test sets."""

    def __init__(self, *entries: AE) -> None:
        self.registry = Registry(entries)
        self.now = 1000.0
        self.in_index: dict[str, int] = {}
        self.quotas = Quotas(
            lambda: self.registry, self, strict_ae_titles=False, now=lambda: self.now
        )

    def held(self, title: str) -> int | None:
        return self.in_index.get(title)

    def begin(self, title: str = "CT_1") -> Allowance:
        allowance = self.quotas.begin(title)
        assert allowance is not None
        return allowance

    def store(self, size: int, title: str = "CT_1") -> StatusError | None:
        """Store an object of ``size`` bytes, in lots of 100."""
        try:
            allowance = self.begin(title)
        except OutOfResources as error:
            return error
        for _ in range(0, size, 100):
            if (error := allowance.take(100)) is not None:
                allowance.end()
                return error
        allowance.end()
        self.in_index[title.upper()] = self.in_index.get(title.upper(), 0) + size
        return None


def test_an_ae_without_quotas_is_not_metered() -> None:
    bench = Bench(AE(title="CT_1", max_associations=1))
    assert bench.quotas.begin("CT_1") is None
    assert bench.quotas.begin("STRANGER") is None


def test_only_so_many_objects_are_taken_in_an_hour() -> None:
    bench = Bench(AE(title="CT_1", max_objects_per_hour=2), AE(title="MR_1"))
    assert bench.store(100) is bench.store(100, "ct_1 ") is None
    refused = bench.store(100)
    assert isinstance(refused, OutOfResources) and refused.status == 0xA700
    assert refused.comment == "quota of CT_1: max_objects_per_hour is 2"
    assert len(refused.comment) <= 64
    assert refused.rule == "max_objects_per_hour"
    assert "Raise max_objects_per_hour of CT_1 in ae.toml" in refused.advice
    assert "again in 60 min" in refused.advice
    bench.now += 3599
    assert bench.store(100) is not None
    bench.now += 1
    assert bench.store(100) is None


def test_only_so_many_bytes_are_taken_in_an_hour() -> None:
    bench = Bench(AE(title="CT_1", max_bytes_per_hour=1000))
    assert bench.store(600) is None
    refused = bench.store(600)
    assert refused is not None and refused.rule == "max_bytes_per_hour"
    assert bench.store(100) is not None, "what was refused half way has been received all the same"
    bench.now += 3600
    assert bench.store(600) is None


def test_only_so_much_is_held_of_an_ae_whatever_the_hour() -> None:
    bench = Bench(AE(title="CT_1", max_stored_bytes=1000))
    bench.in_index["CT_1"] = 500
    assert bench.store(400) is None
    refused = bench.store(400)
    assert refused is not None and refused.rule == "max_stored_bytes"
    bench.now += 7200
    assert bench.store(400) is not None
    bench.in_index["CT_1"] = 0
    assert bench.store(900) is None


def test_objects_that_arrive_at_once_share_what_is_left() -> None:
    bench = Bench(AE(title="CT_1", max_stored_bytes=1000))
    one, other = bench.begin(), bench.begin()
    for _ in range(5):
        assert one.take(100) is other.take(100) is None
    assert one.take(100) is not None
    other.end()
    other.end()
    assert one.take(100) is None, "what has gone leaves its room"


def test_a_new_registry_has_new_quotas() -> None:
    bench = Bench(AE(title="CT_1", max_objects_per_hour=1))
    assert bench.store(100) is None and bench.store(100) is not None
    bench.registry = Registry([AE(title="CT_1", max_objects_per_hour=2)])
    assert bench.store(100) is None and bench.store(100) is not None
    bench.registry = Registry([AE(title="CT_1")])
    assert bench.quotas.begin("CT_1") is None


class Sink:
    def __init__(self) -> None:
        self.told: list[str] = []

    def write(self, fragment: memoryview, lease: object) -> None:
        self.told.append(f"{len(fragment)}")

    def finish(self) -> None:
        self.told.append("finish")

    def abandon(self, why: str) -> None:
        self.told.append(why)


@pytest.fixture
def bench() -> Bench:
    return Bench(AE(title="CT_1", max_stored_bytes=1000))


def test_an_object_that_exceeds_a_quota_is_given_up_once(bench: Bench) -> None:
    sink, failed = Sink(), list[StatusError]()
    metered = Metered(sink, bench.begin(), failed.append)
    for _ in range(4):
        metered.write(memoryview(bytes(500)), None)  # type: ignore[arg-type]
    metered.finish()
    metered.abandon("released")
    assert sink.told == ["500", "500", "quota of CT_1: max_stored_bytes is 1000"]
    assert [error.rule for error in failed] == ["max_stored_bytes"]
    assert bench.store(900) is None


def test_an_object_whose_association_ends_leaves_its_room(bench: Bench) -> None:
    sink = Sink()
    metered = Metered(sink, bench.begin(), pytest.fail)
    metered.write(memoryview(bytes(900)), None)  # type: ignore[arg-type]
    metered.abandon("aborted")
    assert sink.told == ["900", "aborted"]
    assert bench.store(900) is None
