"""pynetdicom as SCU of C-GET and C-MOVE, and as the destination."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from tests.interop.holdings import Holdings, identifier
from tests.interop.samples import STORAGE_CLASSES, Sample

GET = StudyRootQueryRetrieveInformationModelGet
MOVE = StudyRootQueryRetrieveInformationModelMove
EXPLICIT_LE = "1.2.840.10008.1.2.1"
IMPLICIT_LE = "1.2.840.10008.1.2"
CANCEL = 0xFE00


@dataclass
class Arrivals:
    """What C-STORE brought: data sets by SOP Instance UID, and what the requests said."""

    status: int = 0x0000
    data_sets: dict[str, bytes] = field(default_factory=dict)
    syntaxes: dict[str, str] = field(default_factory=dict)
    originators: set[tuple[str | None, int | None]] = field(default_factory=set)
    associations: int = 0
    on_store: threading.Event = field(default_factory=threading.Event)

    def store(self, event: evt.Event) -> int:
        request = event.request
        uid = str(request.AffectedSOPInstanceUID)
        self.data_sets[uid] = request.DataSet.getvalue()
        self.syntaxes[uid] = str(event.context.transfer_syntax)
        title = request.MoveOriginatorApplicationEntityTitle
        originator = title.decode() if isinstance(title, bytes) else title
        self.originators.add(
            (originator.strip() if originator else None, request.MoveOriginatorMessageID)
        )
        self.on_store.set()
        return self.status

    def accepted(self, event: evt.Event) -> None:
        self.associations += 1


@contextlib.contextmanager
def requestor(
    holdings: Holdings,
    arrivals: Arrivals,
    pairs: Sequence[tuple[str, Sequence[str]]] = (),
    *,
    roles: bool = True,
    relational: bool = False,
) -> Iterator[Association]:
    """Associate for C-GET and C-MOVE, as SCP of the storage classes of ``pairs``."""
    entity = AE("PYNETDICOM")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    contexts = [build_context(GET), build_context(MOVE)]
    contexts += [build_context(UID(sop), list(map(UID, syntaxes))) for sop, syntaxes in pairs]
    chosen = [build_role(UID(sop), scp_role=True) for sop in sorted({sop for sop, _ in pairs})]
    items: list[Any] = chosen if roles else []
    if relational:
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid = GET
        item.service_class_application_information = b"\1"
        items.append(item)
    host, port = holdings.address
    association = entity.associate(
        host,
        port,
        contexts,
        ae_title="DICOMNODE",
        ext_neg=items or None,
        evt_handlers=[(evt.EVT_C_STORE, arrivals.store)],
    )
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def counters(status: Dataset) -> tuple[int | None, ...]:
    return tuple(
        status.get(f"NumberOf{which}Suboperations")
        for which in ("Remaining", "Completed", "Failed", "Warning")
    )


def pairs_of(samples: Sequence[Sample]) -> list[tuple[str, Sequence[str]]]:
    return [
        (sop, (syntax,))
        for sop, syntax in sorted(
            {(each.sop_class_uid, each.transfer_syntax_uid) for each in samples}
        )
    ]


def large_study(holdings: Holdings) -> list[Sample]:
    """Return the instances of the study that has most."""
    studies: dict[str, list[Sample]] = {}
    for each in holdings.held.values():
        studies.setdefault(each.study_uid, []).append(each)
    return max(studies.values(), key=len)


def test_c_get_counts_down_and_brings_the_stored_bytes(holdings: Holdings) -> None:
    wanted = large_study(holdings)
    arrivals = Arrivals()
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_uid)
    with requestor(holdings, arrivals, pairs_of(wanted)) as association:
        answers = [status for status, _ in association.send_c_get(query, GET)]
    *pending, final = answers
    assert final.Status == 0x0000
    assert counters(final)[1:] == (len(wanted), 0, 0)
    for status in pending:
        remaining, *done = counters(status)
        assert remaining is not None
        assert remaining + sum(filter(None, done)) == len(wanted)
    for each in wanted:
        assert arrivals.data_sets[each.sop_instance_uid] == each.data_set, each.path.name


def test_c_get_brings_every_file_in_its_own_syntax(holdings: Holdings) -> None:
    everything = list(holdings.held.values())
    arrivals = Arrivals()
    query = identifier("STUDY", StudyInstanceUID=sorted({each.study_uid for each in everything}))
    with requestor(holdings, arrivals, pairs_of(everything)) as association:
        *_, (final, _) = association.send_c_get(query, GET)
    assert final.Status == 0x0000
    assert counters(final)[1:] == (len(everything), 0, 0)
    for each in everything:
        # Deflated data sets are sent with the null that makes their length even (PS3.5 §A.5).
        is_deflated = each.transfer_syntax_uid == DeflatedExplicitVRLittleEndian
        padding = bytes(len(each.data_set) & 1) if is_deflated else b""
        arrived = arrivals.data_sets[each.sop_instance_uid]
        assert arrived == each.data_set + padding, each.path.name
        assert arrivals.syntaxes[each.sop_instance_uid] == each.transfer_syntax_uid


def test_c_get_without_the_role_fails_every_sub_operation(holdings: Holdings) -> None:
    sample = holdings.named("CT_small.dcm")
    arrivals = Arrivals()
    query = identifier(
        "IMAGE",
        StudyInstanceUID=sample.study_uid,
        SeriesInstanceUID=sample.series_uid,
        SOPInstanceUID=sample.sop_instance_uid,
    )
    with requestor(holdings, arrivals, pairs_of([sample]), roles=False) as association:
        *_, (final, failed) = association.send_c_get(query, GET)
    assert final.Status == 0xA702
    assert counters(final)[1:] == (0, 1, 0)
    assert failed.FailedSOPInstanceUIDList == sample.sop_instance_uid
    assert not arrivals.data_sets


def test_c_get_sends_what_is_accepted_and_lists_the_rest(holdings: Holdings) -> None:
    ct, mr = holdings.named("CT_small.dcm"), holdings.named("MR_small.dcm")
    assert ct.sop_class_uid != mr.sop_class_uid
    arrivals = Arrivals()
    query = identifier("STUDY", StudyInstanceUID=[ct.study_uid, mr.study_uid])
    everything = [
        each for each in holdings.held.values() if each.study_uid in (ct.study_uid, mr.study_uid)
    ]
    refused = {
        each.sop_instance_uid for each in everything if each.sop_class_uid != ct.sop_class_uid
    }
    with requestor(holdings, arrivals, [(ct.sop_class_uid, (EXPLICIT_LE,))]) as association:
        *_, (final, failed) = association.send_c_get(query, GET)
    assert final.Status == 0xB000
    listed = failed.FailedSOPInstanceUIDList
    assert refused <= ({listed} if isinstance(listed, str) else set(listed))
    assert ct.sop_instance_uid in arrivals.data_sets


@pytest.mark.parametrize(
    ("status", "final_status", "expected"),
    [(0xB000, 0xB000, (0, 0, 1)), (0xA700, 0xA702, (0, 1, 0)), (0xC123, 0xA702, (0, 1, 0))],
)
def test_the_status_of_a_sub_operation_is_counted(
    holdings: Holdings, status: int, final_status: int, expected: tuple[int, int, int]
) -> None:
    sample = holdings.named("CT_small.dcm")
    arrivals = Arrivals(status=status)
    query = identifier(
        "IMAGE",
        StudyInstanceUID=sample.study_uid,
        SeriesInstanceUID=sample.series_uid,
        SOPInstanceUID=sample.sop_instance_uid,
    )
    with requestor(holdings, arrivals, pairs_of([sample])) as association:
        *_, (final, _) = association.send_c_get(query, GET)
    assert final.Status == final_status
    assert counters(final)[1:] == expected


@pytest.mark.parametrize("after", [0, 3])
def test_a_cancel_lands_between_two_objects(holdings: Holdings, after: int) -> None:
    wanted = large_study(holdings)
    arrivals = Arrivals()
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_uid)
    finals = []
    with requestor(holdings, arrivals, pairs_of(wanted)) as association:
        for number, (status, _) in enumerate(association.send_c_get(query, GET, msg_id=5)):
            if number == after:
                association.send_c_cancel(5, query_model=GET)
            if status.Status != 0xFF00:
                finals.append(status)
    (final,) = finals
    assert final.Status in (CANCEL, 0x0000)
    if final.Status == CANCEL:
        remaining, completed, *_ = counters(final)
        assert completed == len(arrivals.data_sets)
        assert remaining == len(wanted) - len(arrivals.data_sets)
    # On the same association, or after it: nothing of the cancelled one is left behind.
    with requestor(holdings, Arrivals(), pairs_of(wanted)) as association:
        *_, (final, _) = association.send_c_get(query, GET)
        assert final.Status == 0x0000


@contextlib.contextmanager
def destination(
    holdings: Holdings, arrivals: Arrivals, title: str, syntaxes: Sequence[str]
) -> Iterator[None]:
    """Listen where the node's registry has ``title``, taking every storage class."""
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    for uid in sorted(STORAGE_CLASSES)[:128]:
        entity.add_supported_context(uid, list(map(UID, syntaxes)))
    for uid in sorted({each.sop_class_uid for each in holdings.held.values()}):
        entity.add_supported_context(uid, list(map(UID, syntaxes)))
    server = entity.start_server(
        holdings.destinations[title],
        block=False,
        evt_handlers=[
            (evt.EVT_C_STORE, arrivals.store),
            (evt.EVT_ESTABLISHED, arrivals.accepted),
        ],
    )
    assert server is not None
    try:
        yield
    finally:
        server.shutdown()


def test_c_move_names_its_originator(holdings: Holdings) -> None:
    wanted = large_study(holdings)
    arrivals = Arrivals()
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_uid)
    syntaxes = sorted({each.transfer_syntax_uid for each in wanted} | {EXPLICIT_LE, IMPLICIT_LE})
    with (
        destination(holdings, arrivals, "SCU", syntaxes),
        requestor(holdings, arrivals) as association,
    ):
        *pending, (final, _) = association.send_c_move(query, "SCU", MOVE, msg_id=77)
    assert final.Status == 0x0000
    assert counters(final)[1:] == (len(wanted), 0, 0)
    assert pending
    assert arrivals.originators == {("PYNETDICOM", 77)}
    assert arrivals.associations == 1
    for each in wanted:
        assert arrivals.data_sets[each.sop_instance_uid] == each.data_set


def test_an_implicit_destination_gets_every_uncompressed_object(holdings: Holdings) -> None:
    sample = holdings.named("CT_small.dcm")
    arrivals = Arrivals()
    query = identifier("STUDY", StudyInstanceUID=sample.study_uid)
    with (
        destination(holdings, arrivals, "SCU", [IMPLICIT_LE]),
        requestor(holdings, arrivals) as association,
    ):
        *_, (final, _) = association.send_c_move(query, "SCU", MOVE)
    assert final.Status == 0x0000
    assert set(arrivals.syntaxes.values()) == {IMPLICIT_LE}


def test_a_cancelled_move_tells_how_much_is_left(holdings: Holdings) -> None:
    wanted = large_study(holdings)
    arrivals = Arrivals()
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_uid)
    syntaxes = sorted({each.transfer_syntax_uid for each in wanted} | {EXPLICIT_LE})
    finals = []
    with (
        destination(holdings, arrivals, "SCU", syntaxes),
        requestor(holdings, arrivals) as association,
    ):
        for number, (status, _) in enumerate(association.send_c_move(query, "SCU", MOVE, msg_id=9)):
            if number == 0:
                association.send_c_cancel(9, query_model=MOVE)
            if status.Status != 0xFF00:
                finals.append(status)
    (final,) = finals
    assert final.Status in (CANCEL, 0x0000)
    remaining, completed, failed, warning = counters(final)
    assert (remaining or 0) + (completed or 0) + (failed or 0) + (warning or 0) == len(wanted)
    assert completed == len(arrivals.data_sets)


def test_nothing_found_is_success_with_nothing_done(holdings: Holdings) -> None:
    query = identifier("STUDY", StudyInstanceUID="1.2.3.4.5.6")
    with requestor(holdings, Arrivals(), [(UID("1.2.840.10008.5.1.4.1.1.2"), (EXPLICIT_LE,))]) as a:
        ((final, _),) = a.send_c_get(query, GET)
        assert final.Status == 0x0000
        ((final, _),) = a.send_c_move(query, "SCU", MOVE)
        assert final.Status == 0x0000


def test_instances_of_any_study_are_got_when_relational_retrieval_is_negotiated(
    holdings: Holdings,
) -> None:
    wanted = [holdings.named(name) for name in ("CT_small.dcm", "MR_small.dcm")]
    query = identifier("IMAGE", SOPInstanceUID=[each.sop_instance_uid for each in wanted])
    arrivals = Arrivals()
    with requestor(holdings, arrivals, pairs_of(wanted)) as association:
        *_, (final, _) = association.send_c_get(query, GET)
    assert final.Status == 0xA900
    with requestor(holdings, arrivals, pairs_of(wanted), relational=True) as association:
        *_, (final, _) = association.send_c_get(query, GET)
    assert final.Status == 0x0000
    assert set(arrivals.data_sets) == {each.sop_instance_uid for each in wanted}
