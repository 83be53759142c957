"""Orders of deletion: what was shown goes, whatever comes between, and nothing that is pending."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.forward_settings import ForwardRule
from dicomnode.index.commitment_requests import CommitmentRequests, Outcome
from dicomnode.index.commitment_requests import State as AskedState
from dicomnode.index.commitments import Commitments
from dicomnode.index.deletions import Order
from dicomnode.outbox.items import Settlement
from dicomnode.outbox.queue import Queue
from dicomnode.outbox.rules import Order as Forward
from dicomnode.outbox.rules import Priority, Rules
from dicomnode.registry import Registry
from dicomnode.services import deletion
from dicomnode.services.deletion import Deleting, NotDeleted, Plan
from tests.index.entries import add, entry, waited
from tests.services.departing import Archive
from tests.storage.objects import CT_STORAGE

UIDS = [f"1.2.3.4.{number}" for number in range(1, 8)]


class Ward(Archive):
    """An archive, and somebody who orders."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.renew()

    def renew(self) -> None:
        self.deleting = Deleting(self.catalog, self.remover, self)

    def order(self, level: str = "study", *values: str) -> Order:
        given = values or ("1.2.3",)
        mark = self.deleting.plan(level, given).mark
        return self.deleting.order(level, given, "sent twice", "jane", mark)

    def ended(self, order: Order) -> Order:
        self.deleting.carry_out()
        found = self.deleting.get(order.id)
        assert found is not None
        return found

    def forward(self, uid: str, **table: object) -> Queue:
        """Have an object wait in the outbox."""
        settings = ForwardRule.model_validate({"name": "all", "to": ["PACS"]} | table)
        (rule,) = Rules([settings], Registry(), strict=False).all
        queue = Queue(self.catalog)
        held = self.catalog.get(uid)
        assert held is not None
        one = entry(int(uid.rsplit(".", 1)[1]))
        self.catalog.transact(lambda cursor: queue.insert(cursor, one, [Forward("PACS", rule)]))
        return queue


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    monkeypatch.setattr(deletion, "BATCH", 2)
    monkeypatch.setattr(deletion, "_MOST_REST_SECONDS", 0.0)
    ward = Ward(tmp_path)
    ward.enter(*range(1, 8))
    yield ward
    ward.close()


@pytest.mark.parametrize(
    ("level", "value", "number"),
    [
        ("patient", "4711", 7),
        ("study", "1.2.3", 7),
        ("series", "1.2.3.4", 7),
        ("instance", UIDS[0], 1),
    ],
)
def test_a_plan_shows_all_that_goes_and_no_more(
    ward: Ward, level: str, value: str, number: int
) -> None:
    ward.enter(1, study="1.2.9", PatientID="other")
    plan = ward.deleting.plan(level, [value])
    shown = ward.deleting.shown(plan)
    assert (shown["objects"], shown["studies"], shown["series"]) == (number, 1, 1)
    assert shown["bytes"] == sum(
        row.size_bytes for uid in UIDS[:number] if (row := ward.catalog.get(uid))
    )
    (study,) = shown["study_list"]
    assert (study["patient_id"], study["going"], study["objects"]) == ("4711", number, 7)
    done = ward.ended(ward.order(level, value))
    assert (done.deleted, done.deleted_bytes, done.kept) == (number, shown["bytes"], 0)
    assert ward.held(*UIDS, "1.2.9.4.1") == [False] * number + [True] * (8 - number)


def test_patients_that_share_an_id_are_not_deleted_together(ward: Ward) -> None:
    ward.enter(1, study="1.2.9", PatientName="Roe^Richard", PatientBirthDate="20010101")
    with pytest.raises(NotDeleted, match="2 patients have the ID '4711'"):
        ward.deleting.plan("patient", ["4711"])


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_id_names_nobody(ward: Ward, value: str) -> None:
    ward.enter(1, study="1.2.9", PatientID="")
    for level in ("patient", "study"):
        with pytest.raises(NotDeleted, match="an empty"):
            ward.deleting.plan(level, ["4711", value])


@pytest.mark.parametrize("reason", ["", " ", "a\nb", 501 * "x"])
def test_an_order_without_a_reason_that_can_be_recorded_is_refused(ward: Ward, reason: str) -> None:
    mark = ward.deleting.plan("study", ["1.2.3"]).mark
    with pytest.raises(NotDeleted, match="1 to 500 characters"):
        ward.deleting.order("study", ["1.2.3"], reason, "jane", mark)


def test_an_order_is_refused_when_something_else_was_shown(ward: Ward) -> None:
    mark = ward.deleting.plan("study", ["1.2.3"]).mark
    ward.enter(8)
    with pytest.raises(NotDeleted, match="has changed: now it is 8 objects"):
        ward.deleting.order("study", ["1.2.3"], "sent twice", "jane", mark)
    with pytest.raises(NotDeleted, match="nothing is held"):
        ward.deleting.order("study", ["1.2.99"], "sent twice", "jane", mark)


def sent(ward: Ward) -> None:
    queue = ward.forward(UIDS[2], commit=True)
    queue.settle(Settlement(done=queue.take("PACS", 10)))


def set_aside(ward: Ward) -> None:
    queue = ward.forward(UIDS[2])
    (item,) = queue.take("PACS", 10)
    from dicomnode.outbox.items import Failure

    queue.settle(Settlement(failed=[Failure(item, "refused", None)]))


def asked_of_us(ward: Ward) -> None:
    Commitments(ward.catalog).add("CT_1", "DICOMNODE", "2.25.1", [(CT_STORAGE, UIDS[2])])


def checked(ward: Ward) -> None:
    asked_of_us(ward)
    commitments = Commitments(ward.catalog)
    pending = commitments.next_pending((), smallest=False)
    assert pending is not None
    commitments.checked(pending.standing.id, {})


def given_up(ward: Ward) -> None:
    checked(ward)
    commitments = Commitments(ward.catalog)
    (standing,) = commitments.due("CT_1", 2e9, 3e9, 1)
    commitments.give_up(standing.id, "nobody is there")


def asked_by_us(ward: Ward) -> None:
    requests = CommitmentRequests(ward.catalog)
    requests.enter("2.25.1", "PACS", [(CT_STORAGE, UIDS[2])])
    requests.answered("2.25.1", AskedState.WAITING)


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (lambda ward: ward.forward(UIDS[2]), "is still to be sent to PACS"),
        (
            lambda ward: ward.forward(UIDS[2], when="study_stable"),
            "is to be sent to PACS when its study is complete",
        ),
        (sent, "was sent to PACS, which has not committed to keep it yet"),
        (set_aside, "is set aside in the outbox for PACS"),
        (asked_of_us, "CT_1 asked this node to commit to it and has no report yet"),
        (checked, "CT_1 asked this node to commit to it and has no report yet"),
        (given_up, "CT_1 asked this node to commit to it and has no report yet"),
        (asked_by_us, "PACS was asked to commit to it and has not reported yet"),
    ],
)
def test_an_order_is_refused_while_something_is_pending_for_one_object(
    ward: Ward, happens: Callable[[Ward], object], words: str
) -> None:
    happens(ward)
    plan = ward.deleting.plan("study", ["1.2.3"])
    assert list(plan.pending) == [UIDS[2]] and words in plan.pending[UIDS[2]]
    with pytest.raises(NotDeleted, match=f"1 of 7 objects may not go: {UIDS[2]}"):
        ward.order()
    assert ward.held(*UIDS) == [True] * 7 and len(ward.told) == 1
    assert ward.ended(ward.order("instance", UIDS[0])).deleted == 1


@pytest.mark.parametrize(
    "happens", [lambda ward: ward.forward(UIDS[2]), asked_of_us, checked, asked_by_us]
)
def test_what_becomes_pending_after_the_order_stays(
    ward: Ward, happens: Callable[[Ward], object]
) -> None:
    order = ward.order()
    # Between the look and the transaction.
    ward.deleting.carry_out(lambda done: happens(ward) and None if done.position == 2 else None)
    done = ward.ended(order)
    assert (done.deleted, done.kept) == (6, 1) and UIDS[2] in done.last_error
    assert ward.held(*UIDS) == [uid == UIDS[2] for uid in UIDS]


def test_what_has_been_answered_for_may_go(ward: Ward) -> None:
    checked(ward)
    commitments = Commitments(ward.catalog)
    (standing,) = commitments.due("CT_1", 2e9, 3e9, 1)
    commitments.deliver(standing.id)
    asked_by_us(ward)
    CommitmentRequests(ward.catalog).conclude("2.25.1", Outcome(1, (), (), "PACS", "digest"))
    assert ward.ended(ward.order()).deleted == 7


def test_an_order_that_was_broken_off_is_gone_on_with(ward: Ward) -> None:
    class Kill(BaseException):
        pass

    def kill(done: Order) -> None:
        if done.position >= 4:
            raise Kill

    order = ward.order()
    with pytest.raises(Kill):
        ward.deleting.carry_out(kill)
    ward.reopen()
    ward.renew()
    # Stored anew after it was deleted: that is not what was ordered to go.
    ward.enter(1)
    assert ward.deleting.figures()[0]["position"] == 4
    done = ward.ended(order)
    assert (done.deleted, done.kept, done.position) == (7, 0, 7)
    assert ward.held(*UIDS) == [True] + [False] * 6
    assert "ordered study 1.2.3 from 4" in ward.told
    assert ward.deleting.figures() == []


def test_an_object_that_took_anothers_place_after_the_order_stays(ward: Ward) -> None:
    order = ward.order()
    other = entry(2, "1.2.3", "1.2.3.4", PatientName="Doe^Joe")
    waited(lambda done: ward.catalog.replace(other, done))
    done = ward.ended(order)
    assert (done.deleted, done.kept) == (6, 1)
    assert "has been replaced" in done.last_error
    assert ward.catalog.get(UIDS[1]) is not None


def test_an_object_that_comes_for_the_study_after_the_order_stays(ward: Ward) -> None:
    order = ward.order()
    (late,) = ward.enter(99)
    assert ward.ended(order).deleted == 7
    assert ward.held(late) == [True]


def test_objects_queued_by_hand_after_the_look_stay(ward: Ward) -> None:
    queue = Queue(ward.catalog)
    look = ward.deleting._pending.look(UIDS)
    queue.enqueue("PACS", "fetch", Priority.LOW, {UIDS[3]: "1.2.3"})
    found = ward.catalog.transact(lambda cursor: ward.deleting._pending.since(cursor, look))
    assert found == {UIDS[3]}


def test_nothing_of_a_plan_depends_on_the_order_of_its_objects(ward: Ward) -> None:
    plan = ward.deleting.plan("study", ["1.2.3"])
    other = Plan(plan.what, plan.objects[::-1], 0, 0, {}, {})
    assert other.mark == plan.mark
    add(ward.catalog, entry(50))
    assert ward.deleting.plan("study", ["1.2.3"]).mark != plan.mark
