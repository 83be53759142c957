"""The requests for storage commitment that the index keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.index.catalog import Catalog
from dicomnode.index.commitment_requests import CommitmentRequests, Outcome, State

CT = "1.2.840.10008.5.1.4.1.1.2"
INSTANCES = [(CT, "1.2.1"), (CT, "1.2.2"), (CT, "1.2.3")]
ALL = Outcome(3, (), (), "", "first")
SOME = Outcome(1, ((CT, "1.2.2", 0x0112),), ((CT, "1.2.3"),), "ORTHANC", "second")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(f"sqlite:///{tmp_path}/index.sqlite", synchronous="OFF") as catalog:
        yield catalog


@pytest.fixture
def requests(catalog: Catalog) -> CommitmentRequests:
    requests = CommitmentRequests(catalog)
    requests.enter("1.9", "ORTHANC", INSTANCES)
    return requests


def state(requests: CommitmentRequests) -> tuple[State, str]:
    found = requests.get("1.9")
    assert found is not None
    return found.state, found.why


def test_a_request_is_there_before_it_is_answered(requests: CommitmentRequests) -> None:
    found = requests.get("1.9")
    assert found is not None and found.asked_at == found.changed_at > 0
    assert (found.peer_ae_title, found.state, found.total) == ("ORTHANC", State.ASKING, 3)
    assert requests.instances("1.9") == INSTANCES
    assert requests.get("1.8") is None and requests.instances("1.8") == []


def test_a_request_waits_for_its_report_once_it_is_answered(requests: CommitmentRequests) -> None:
    requests.answered("1.9", State.WAITING)
    assert state(requests) == (State.WAITING, "")
    requests.answered("1.9", State.REFUSED, "too late")
    assert state(requests) == (State.WAITING, "")


def test_a_report_that_is_quicker_than_the_answer_stands(requests: CommitmentRequests) -> None:
    assert requests.conclude("1.9", ALL)
    requests.answered("1.9", State.WAITING)
    assert state(requests) == (State.COMMITTED, "")


def test_the_first_report_is_kept(requests: CommitmentRequests) -> None:
    assert requests.conclude("1.9", SOME)
    assert not requests.conclude("1.9", ALL)
    found = requests.get("1.9")
    assert found is not None
    assert (found.state, found.committed, found.failed, found.not_mentioned, found.report) == (
        *(State.PARTLY, 1, 1, 1),
        "second",
    )
    assert found.retrieve_ae_title == "ORTHANC"
    assert requests.failed("1.9") == [(CT, "1.2.2", 0x0112)]
    assert requests.not_mentioned("1.9") == [(CT, "1.2.3")]


def test_a_report_on_nothing_that_was_asked_is_not_kept(requests: CommitmentRequests) -> None:
    assert not requests.conclude("1.8", ALL)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (ALL, State.COMMITTED),
        (SOME, State.PARTLY),
        (Outcome(0, ((CT, "1.2.1", 0x0112),), (), "", "x"), State.FAILED),
        (Outcome(0, (), ((CT, "1.2.1"),), "", "x"), State.FAILED),
    ],
)
def test_only_what_is_committed_as_a_whole_counts_as_that(
    outcome: Outcome, expected: State
) -> None:
    assert outcome.state is expected


def test_requests_are_counted_and_listed_by_state(requests: CommitmentRequests) -> None:
    requests.enter("1.10", "ORTHANC", INSTANCES[:1])
    requests.answered("1.10", State.REFUSED, "no association")
    assert requests.counts() == dict.fromkeys(State, 0) | {State.ASKING: 1, State.REFUSED: 1}
    assert [found.transaction_uid for found in requests.in_state(State.ASKING)] == ["1.9"]


def test_old_requests_are_removed(requests: CommitmentRequests) -> None:
    found = requests.get("1.9")
    assert found is not None
    requests.prune(found.asked_at)
    assert requests.get("1.9") is not None
    requests.prune(found.asked_at + 1)
    assert requests.get("1.9") is None


def test_requests_outlive_the_node(requests: CommitmentRequests, catalog: Catalog) -> None:
    requests.answered("1.9", State.WAITING)
    catalog.close()
    catalog.open()
    assert [found.transaction_uid for found in requests.in_state(State.WAITING)] == ["1.9"]
