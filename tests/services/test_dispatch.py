"""From a request to exactly one final response."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dicomnode.dimse.channel import DataSetSink
from dicomnode.dimse.command import (
    CCancelRQ,
    CEchoRQ,
    CEchoRSP,
    CFindRQ,
    CFindRSP,
    Command,
    CStoreRQ,
    CStoreRSP,
    NSetRQ,
    NSetRSP,
    UnrecognizedCommand,
    UnrecognizedRSP,
)
from dicomnode.errors import AssociationAborted, RemoteProtocolError, StatusError
from dicomnode.services.dispatch import AssociationHandler, Dispatcher, Operation, failure
from dicomnode.services.sop_classes import VERIFICATION
from dicomnode.ul.negotiation import AcceptedContext

CT = "1.2.840.10008.5.1.4.1.1.2"
ECHO = CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=1)
STORE = CStoreRQ(
    affected_sop_class_uid=CT, affected_sop_instance_uid="1.2", message_id=2, has_data_set=True
)


class FakeChannel:
    number = 1
    calling_ae_title = "CT_1"
    called_ae_title = "DICOMNODE"
    peer_address = "192.0.2.7"
    secured = None
    is_blocked = False

    def __init__(self) -> None:
        contexts = {
            1: AcceptedContext(1, VERIFICATION, "1.2.840.10008.1.2", True, False),
            3: AcceptedContext(3, CT, "1.2.840.10008.1.2", True, False),
        }
        self.negotiated = SimpleNamespace(contexts=contexts)
        self.sent: list[tuple[int, Any]] = []
        self.data_sets: list[object] = []

    def send(self, context_id: int, command: Command, data_set: object = None) -> None:
        self.sent.append((context_id, command))
        self.data_sets.append(data_set)

    async def drained(self) -> None:
        pass


class Waiting:
    """A service that keeps its operations."""

    def __init__(self, sop_class: str) -> None:
        self.sop_class = sop_class
        self.operations: list[Operation] = []
        self.cancelled: list[int] = []
        self.error: Exception | None = None
        self.answers_first = False

    def serves(self, sop_class_uid: str) -> bool:
        return sop_class_uid == self.sop_class

    def begin(self, operation: Operation) -> DataSetSink | None:
        if self.answers_first:
            operation.respond(0x0000)
        if self.error is not None:
            raise self.error
        operation.on_cancel = lambda: self.cancelled.append(operation.request.message_id)
        self.operations.append(operation)
        return None


class Fixture:
    def __init__(self) -> None:
        self.channel = FakeChannel()
        self.echo, self.store = Waiting(VERIFICATION), Waiting(CT)
        self.ended: list[tuple[str, int]] = []
        self.errors: list[str] = []
        services: dict[type[Command], Any] = {CEchoRQ: (self.echo,), CStoreRQ: (self.store,)}
        handler = Dispatcher(services, self).established(self.channel)  # type: ignore[arg-type]
        assert isinstance(handler, AssociationHandler)
        self.handler = handler

    def operation_ended(self, operation: Operation, status: int, comment: str) -> None:
        self.ended.append((operation.service, status))

    def internal_error(self, what: str, error: BaseException) -> None:
        self.errors.append(what)

    def statuses(self) -> list[int]:
        return [response.status for _, response in self.channel.sent]


@pytest.fixture
def on() -> Fixture:
    return Fixture()


def test_a_request_stays_outstanding_until_its_response(on: Fixture) -> None:
    on.handler.message(1, ECHO)
    assert on.handler.outstanding == 1
    on.echo.operations[0].respond(0x0000)
    assert on.handler.outstanding == 0
    assert on.channel.sent == [
        (
            1,
            CEchoRSP(
                message_id_being_responded_to=1, status=0, affected_sop_class_uid=VERIFICATION
            ),
        )
    ]
    assert on.ended == [("C-ECHO", 0)]


def test_operations_overlap_and_answer_in_any_order(on: Fixture) -> None:
    for message_id in (1, 2, 3):
        on.handler.message(1, replace(ECHO, message_id=message_id))
    for operation in reversed(on.echo.operations):
        operation.respond(0x0000)
    assert [sent.message_id_being_responded_to for _, sent in on.channel.sent] == [3, 2, 1]


def test_a_message_id_in_use_is_refused_and_the_first_operation_goes_on(on: Fixture) -> None:
    on.handler.message(1, ECHO)
    on.handler.message(1, ECHO)
    assert on.statuses() == [0x0210]
    on.echo.operations[0].respond(0x0000)
    assert on.statuses() == [0x0210, 0x0000]


def test_a_sop_class_other_than_the_contexts_is_refused(on: Fixture) -> None:
    on.handler.message(3, ECHO)
    assert on.statuses() == [0x0122]
    assert on.echo.operations == []


@pytest.mark.parametrize(
    "request_",
    [
        replace(STORE, affected_sop_class_uid=VERIFICATION),
        CFindRQ(affected_sop_class_uid=VERIFICATION, message_id=7, has_data_set=True),
    ],
)
def test_an_operation_that_the_sop_class_does_not_have_is_not_recognized(
    on: Fixture, request_: Command
) -> None:
    on.handler.message(1, request_)
    assert on.statuses() == [0x0211]


def test_a_command_that_the_standard_does_not_have_is_not_recognized(on: Fixture) -> None:
    on.handler.message(1, UnrecognizedCommand(command_field=0x0042, message_id=9))
    ((_, response),) = on.channel.sent
    assert isinstance(response, UnrecognizedRSP)
    assert (response.status, response.command_field) == (0x0211, 0x8042)


def test_a_response_to_nothing_aborts(on: Fixture) -> None:
    with pytest.raises(RemoteProtocolError, match="nothing was requested"):
        on.handler.message(1, CEchoRSP(message_id_being_responded_to=1, status=0))


def test_a_status_error_becomes_status_comment_and_offending_element(on: Fixture) -> None:
    on.store.error = StatusError("no UID", status=0xA900, offending=(0x00080018,))
    on.handler.message(3, STORE)
    ((_, response),) = on.channel.sent
    assert (response.status, response.error_comment) == (0xA900, "no UID")
    assert response.offending_element == (0x00080018,)


def test_of_a_normalized_service_a_status_error_has_error_id_and_identifier_list() -> None:
    request = NSetRQ(
        message_id=4,
        requested_sop_class_uid=CT,
        requested_sop_instance_uid="1.2",
        has_data_set=True,
    )
    response = failure(
        request, StatusError("closed", status=0x0110, error_id=0xA710, identifiers=(0x00400252,))
    )
    assert isinstance(response, NSetRSP)
    assert (response.status, response.error_id, response.error_comment) == (
        0x0110,
        0xA710,
        "closed",
    )
    assert response.attribute_identifier_list == (0x00400252,)


def test_a_fault_of_our_own_answers_processing_failure_and_is_told(on: Fixture) -> None:
    on.store.error = ZeroDivisionError()
    on.handler.message(3, STORE)
    assert on.statuses() == [0x0110]
    assert on.errors == ["C-STORE"]
    on.store.error = None
    on.handler.message(3, STORE)
    on.store.operations[0].respond(0x0000)
    assert on.statuses() == [0x0110, 0x0000]


def test_a_cancel_reaches_its_operation_and_one_too_late_is_ignored(on: Fixture) -> None:
    on.handler.message(1, ECHO)
    on.handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert on.echo.cancelled == [1]
    on.echo.operations[0].respond(0xFE00)
    on.handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert (on.echo.cancelled, on.statuses()) == ([1], [0xFE00])


def test_the_end_of_the_association_cancels_what_is_open_and_later_answers_go_nowhere(
    on: Fixture,
) -> None:
    on.handler.message(1, ECHO)
    on.handler.closed("aborted by peer")
    assert on.echo.cancelled == [1]
    on.echo.operations[0].respond(0x0000)
    assert on.channel.sent == []
    assert on.handler.outstanding == 0


def test_one_association_cannot_pile_up_operations_without_end(on: Fixture) -> None:
    for message_id in range(1, 1000):
        on.handler.message(1, replace(ECHO, message_id=message_id))
    assert set(on.statuses()) == {0x0213}
    assert on.handler.outstanding < 100


def test_a_fault_behind_the_final_response_sends_no_second_one(on: Fixture) -> None:
    on.store.error, on.store.answers_first = ZeroDivisionError(), True
    on.handler.message(3, STORE)
    assert (on.statuses(), on.ended, on.errors) == ([0x0000], [("C-STORE", 0)], ["C-STORE"])


def test_an_operation_answered_twice_leaves_a_later_one_with_its_message_id_alone(
    on: Fixture,
) -> None:
    on.handler.message(1, ECHO)
    on.echo.operations[0].respond(0x0000)
    on.handler.message(1, ECHO)
    on.echo.operations[0].respond(0x0000)
    assert on.statuses() == [0x0000] and on.handler.outstanding == 1


def test_one_operation_that_cannot_be_cancelled_does_not_keep_the_others_from_it(
    on: Fixture,
) -> None:
    for message_id in (1, 2, 3):
        on.handler.message(1, replace(ECHO, message_id=message_id))

    def fails() -> None:
        raise ZeroDivisionError

    on.echo.operations[1].on_cancel = fails
    on.handler.closed("aborted by peer")
    assert (sorted(on.echo.cancelled), on.errors) == ([1, 3], ["C-ECHO"])
    assert on.handler.outstanding == 0


def find_response(status: int) -> CFindRSP:
    return CFindRSP(message_id_being_responded_to=1, status=status)


def test_pending_responses_come_before_the_one_final_response(on: Fixture) -> None:
    on.handler.message(1, ECHO)
    (operation,) = on.echo.operations
    operation.pending(find_response(0xFF00), b"identifier")
    operation.pending(find_response(0xFF01))
    assert on.handler.outstanding == 1 and on.ended == []
    operation.conclude(find_response(0xFE00))
    operation.conclude(find_response(0x0000))
    operation.pending(find_response(0xFF00), b"identifier")
    assert on.statuses() == [0xFF00, 0xFF01, 0xFE00]
    assert on.ended == [("C-ECHO", 0xFE00)] and on.handler.outstanding == 0


def test_pending_responses_that_only_count_do_not_pile_up_before_a_peer_that_does_not_read(
    on: Fixture,
) -> None:
    on.handler.message(1, ECHO)
    (operation,) = on.echo.operations
    on.channel.is_blocked = True
    for _ in range(3):
        operation.pending(find_response(0xFF00))
    operation.pending(find_response(0xFF01), b"identifier")
    operation.conclude(find_response(0x0000))
    assert on.statuses() == [0xFF01, 0x0000]


def test_a_response_says_whether_a_data_set_follows_it(on: Fixture) -> None:
    on.handler.message(1, ECHO)
    (operation,) = on.echo.operations
    operation.pending(find_response(0xFF00), b"identifier")
    operation.pending(replace(find_response(0xFF00), has_data_set=True))
    operation.conclude(find_response(0xB000), b"failed list")
    assert [response.has_data_set for _, response in on.channel.sent] == [True, False, True]
    assert on.channel.data_sets == [b"identifier", None, b"failed list"]


def test_a_cancel_by_the_peer_and_the_end_of_the_association_are_told_apart(on: Fixture) -> None:
    for message_id in (1, 2):
        on.handler.message(1, replace(ECHO, message_id=message_id))
    cancelled, ended = on.echo.operations
    on.handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert (cancelled.cancelled_by_peer, cancelled.ended) == (True, False)
    on.handler.closed("aborted by peer")
    assert (ended.cancelled_by_peer, ended.ended) == (False, True)


def test_a_request_on_a_context_where_we_are_scu_alone_is_refused(on: Fixture) -> None:
    contexts = on.channel.negotiated.contexts
    contexts[3] = replace(contexts[3], as_scp=False, as_scu=True)
    on.handler.message(3, STORE)
    assert on.statuses() == [0x0122] and on.store.operations == []


async def test_a_sub_operation_on_the_peers_association_gets_its_response(on: Fixture) -> None:
    on.handler.message(1, ECHO)
    (operation,) = on.echo.operations
    performing = asyncio.ensure_future(operation.requests.perform(3, STORE, b"data", seconds=60))
    await asyncio.sleep(0)
    assert on.channel.sent == [(3, STORE)] and on.handler.outstanding == 1
    response = CStoreRSP(message_id_being_responded_to=STORE.message_id, status=0)
    assert on.handler.message(3, response) is None
    assert await performing == response
    waiting = asyncio.ensure_future(operation.requests.perform(3, STORE, b"data", seconds=60))
    await asyncio.sleep(0)
    on.handler.closed("connection lost")
    with pytest.raises(AssociationAborted, match="connection lost"):
        await waiting
