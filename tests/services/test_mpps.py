"""N-CREATE, N-SET and N-GET of performed procedure steps, from request to response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio
from pydicom.dataset import Dataset

from dicomnode.dimse.command import (
    Command,
    NCreateRQ,
    NCreateRSP,
    NGetRQ,
    NGetRSP,
    NormalizedResponse,
    NSetRQ,
    NSetRSP,
    Request,
)
from dicomnode.index.catalog import Catalog
from dicomnode.index.steps import Steps
from dicomnode.index.worklist import NewItem, State, WorklistItems
from dicomnode.registry import AE, Registry
from dicomnode.services.dispatch import AssociationHandler, Dispatcher, Operation
from dicomnode.services.mpps import PerformedSteps
from dicomnode.services.outcomes import StepOutcome
from dicomnode.services.sop_classes import (
    MODALITY_PERFORMED_PROCEDURE_STEP,
    MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
)
from dicomnode.storage.json_model import Attributes, decode_attributes
from dicomnode.ul.negotiation import AcceptedContext
from tests.index.entries import sqlite_url
from tests.services.performing import STEP_ID, STUDY, completion, creation, scheduled
from tests.services.querying import Lease, read, written
from tests.storage.objects import BIG, DEFLATED, EXPLICIT, IMPLICIT

UID = "1.2.826.0.1.3680043.9.7"
MPPS, RETRIEVE = 1, 3
LIMIT = 100_000


class FakeChannel:
    number = 1
    calling_ae_title = peer_ae_title = "CT_1"
    called_ae_title = "DICOMNODE"
    peer_address = "192.0.2.7"
    is_blocked = False

    def __init__(self, syntax: str) -> None:
        classes = {
            MPPS: MODALITY_PERFORMED_PROCEDURE_STEP,
            RETRIEVE: MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
        }
        self.negotiated = SimpleNamespace(
            contexts={
                number: AcceptedContext(number, uid, syntax, True, False)
                for number, uid in classes.items()
            }
        )
        self.sent: asyncio.Queue[tuple[NormalizedResponse, bytes | None]] = asyncio.Queue()

    def send(self, context_id: int, command: Command, data_set: bytes | None = None) -> None:
        assert isinstance(command, NormalizedResponse)
        assert command.has_data_set is (data_set is not None)
        self.sent.put_nowait((command, data_set))


class Unforwarded:
    """Tells nobody of steps."""

    def step_created(self, sop_instance_uid: str, attributes: Attributes, source: str) -> None: ...

    def step_changed(
        self, sop_instance_uid: str, changes: Attributes, *, is_over: bool
    ) -> None: ...


class Fixture:
    def __init__(self, directory: Path) -> None:
        self.catalog = Catalog(sqlite_url(directory), synchronous="OFF")
        self.catalog.open()
        self.items = WorklistItems(self.catalog)
        self.steps = Steps(self.catalog, self.items)
        self.registry = Registry()
        self.outcomes: list[tuple[str, StepOutcome]] = []
        self.told = asyncio.Event()
        self.errors: list[BaseException] = []
        self.service = PerformedSteps(
            self.steps, self, LIMIT, lambda: self.registry, lambda: 1000.0, Unforwarded()
        )
        self.associate()

    # -- the journal -----------------------------------------------------------------------------

    def operation_ended(self, operation: Operation, status: int, comment: str) -> None: ...

    def step_ended(self, operation: Operation, outcome: StepOutcome) -> None:
        self.outcomes.append((operation.service, outcome))
        self.told.set()

    def internal_error(self, what: str, error: BaseException) -> None:
        self.errors.append(error)

    # -- asking ----------------------------------------------------------------------------------

    def associate(self, syntax: str = EXPLICIT) -> AssociationHandler:
        self.syntax, self.channel = syntax, FakeChannel(syntax)
        services = {
            NCreateRQ: (self.service,),
            NSetRQ: (self.service,),
            NGetRQ: (self.service.retrieval,),
        }
        self.handler = AssociationHandler(self.channel, Dispatcher(services, self))  # type: ignore[arg-type]
        return self.handler

    def request(self, request: Request, data: bytes | None, context_id: int = MPPS) -> None:
        sink = self.handler.message(context_id, request)
        if sink is not None and data is not None:
            sink.write(memoryview(data), Lease())
            sink.finish()

    async def answer(self) -> tuple[NormalizedResponse, bytes | None]:
        return await asyncio.wait_for(self.channel.sent.get(), 20)

    async def create(
        self, attributes: Dataset | bytes | None = None, uid: str | None = UID
    ) -> NCreateRSP:
        request, data = self.creating(attributes, uid)
        self.request(request, data)
        response, self.data_set = await self.answer()
        assert isinstance(response, NCreateRSP)
        return response

    def creating(
        self, attributes: Dataset | bytes | None = None, uid: str | None = UID
    ) -> tuple[NCreateRQ, bytes]:
        made = creation() if attributes is None else attributes
        data = made if isinstance(made, bytes) else written(made, self.syntax)
        return NCreateRQ(
            affected_sop_class_uid=MODALITY_PERFORMED_PROCEDURE_STEP,
            affected_sop_instance_uid=uid,
            message_id=1,
            has_data_set=True,
        ), data

    def setting(self, changes: Dataset, uid: str = UID) -> tuple[NSetRQ, bytes]:
        return NSetRQ(
            requested_sop_class_uid=MODALITY_PERFORMED_PROCEDURE_STEP,
            requested_sop_instance_uid=uid,
            message_id=2,
            has_data_set=True,
        ), written(changes, self.syntax)

    async def set(self, changes: Dataset | None = None, uid: str = UID) -> NSetRSP:
        self.request(*self.setting(changes or completion(), uid))
        response, self.data_set = await self.answer()
        assert isinstance(response, NSetRSP)
        return response

    async def get(
        self, *tags: int, uid: str = UID, context_id: int = RETRIEVE
    ) -> tuple[NGetRSP, Dataset | None]:
        request = NGetRQ(
            requested_sop_class_uid=self.channel.negotiated.contexts[context_id].abstract_syntax,
            requested_sop_instance_uid=uid,
            attribute_identifier_list=tags,
            message_id=3,
        )
        self.request(request, None, context_id)
        response, data = await self.answer()
        assert isinstance(response, NGetRSP)
        return response, read(data, self.syntax) if data is not None else None

    def state(self, key: str) -> State:
        found = self.items.get(key)
        assert found is not None
        return found.state


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Fixture]:
    made = Fixture(tmp_path)
    yield made
    made.service.close()
    made.catalog.close()
    assert made.errors == []


def item(key: str, study: str = STUDY, step_id: str = STEP_ID) -> NewItem:
    inner = {
        "00400009": {"vr": "SH", "Value": [step_id]},
        "00400001": {"vr": "AE", "Value": ["CT_1"]},
    }
    attributes = {
        "0020000D": {"vr": "UI", "Value": [study]},
        "00400100": {"vr": "SQ", "Value": [inner]},
    }
    return NewItem(key, "command", "", "", attributes)


# -- N-CREATE --------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
async def test_a_step_is_created_and_read_back_in_any_transfer_syntax(
    node: Fixture, syntax: str
) -> None:
    node.associate(syntax)
    response = await node.create(
        creation(PatientName="Müller^Jürgen", SpecificCharacterSet="ISO_IR 100")
    )
    assert (response.status, response.affected_sop_instance_uid) == (0x0000, UID)
    assert node.data_set is None
    got, answer = await node.get()
    assert got.status == 0x0000
    assert answer is not None
    assert (answer.SpecificCharacterSet, answer.PatientName) == ("ISO_IR 192", "Müller^Jürgen")
    assert answer.ScheduledStepAttributesSequence[0].StudyInstanceUID == STUDY
    assert answer.PerformedProcedureStepStatus == "IN PROGRESS"


async def test_without_a_uid_the_node_makes_one(node: Fixture) -> None:
    response = await node.create(uid=None)
    uid = response.affected_sop_instance_uid
    assert response.status == 0x0000
    assert uid is not None
    assert uid.startswith("2.25.")
    assert node.steps.get(uid) is not None


async def test_a_second_step_with_the_same_uid_is_refused(node: Fixture) -> None:
    await node.create()
    assert (await node.create()).status == 0x0111


async def test_what_is_no_uid_is_refused(node: Fixture) -> None:
    assert (await node.create(uid="1.2/../3")).status == 0x0117


async def test_a_missing_attribute_is_named_in_the_response(node: Fixture) -> None:
    response = await node.create(creation(PerformedProcedureStepID=None))
    assert response.status == 0x0120
    assert response.attribute_identifier_list == (0x00400253,)
    assert response.error_comment == "Performed Procedure Step ID is missing"
    assert node.steps.get(UID) is None


async def test_an_invalid_status_comes_back_in_the_attribute_list(node: Fixture) -> None:
    response = await node.create(creation(PerformedProcedureStepStatus="COMPLETED"))
    assert response.status == 0x0106
    assert node.data_set is not None
    assert decode_attributes(node.data_set, EXPLICIT) == {
        "00400252": {"vr": "CS", "Value": ["COMPLETED"]}
    }


@pytest.mark.parametrize("data", [b"\x08\x00", b"no data set at all", b"\xff" * 500])
async def test_what_is_no_data_set_is_refused(node: Fixture, data: bytes) -> None:
    assert (await node.create(data)).status in (0x0106, 0x0120)


async def test_an_unknown_character_set_is_refused(node: Fixture) -> None:
    data = written(creation(), EXPLICIT)
    named = b"\x08\x00\x05\x00CS\x06\x00ISO_99" + data
    response = await node.create(named)
    assert response.status == 0x0106
    assert response.error_comment == "Specific Character Set is not known"


async def test_a_request_without_a_data_set_is_refused(node: Fixture) -> None:
    request = NCreateRQ(affected_sop_class_uid=MODALITY_PERFORMED_PROCEDURE_STEP, message_id=1)
    node.request(request, None)
    assert (await node.answer())[0].status == 0x0120


async def test_a_data_set_over_the_limit_is_refused_and_the_association_goes_on(
    node: Fixture,
) -> None:
    response = await node.create(b"\0" * (LIMIT + 1))
    assert response.status == 0x0213
    assert (await node.create()).status == 0x0000


# -- N-SET -----------------------------------------------------------------------------------------


async def test_the_worklist_item_follows_the_step(node: Fixture) -> None:
    node.items.put([item("one")])
    await node.create()
    assert node.state("one") is State.IN_PROGRESS
    assert (await node.set()).status == 0x0000
    assert node.state("one") is State.COMPLETED
    (_, created), (_, completed) = node.outcomes
    assert (created.step_status, created.followed) == (State.IN_PROGRESS, ("one",))
    assert (completed.step_status, completed.followed) == (State.COMPLETED, ("one",))
    assert completed.findings == ()


async def test_a_discontinued_step_gives_its_item_back(node: Fixture) -> None:
    node.items.put([item("one")])
    await node.create()
    ending = Dataset()
    ending.PerformedProcedureStepStatus = "DISCONTINUED"
    assert (await node.set(ending)).status == 0x0000
    assert node.state("one") is State.DISCONTINUED


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
async def test_what_has_ended_may_no_longer_be_updated(node: Fixture, status: str) -> None:
    await node.create()
    await node.set(completion(PerformedProcedureStepStatus=status))
    for changes in (completion(), completion(PerformedProcedureStepStatus="IN PROGRESS")):
        response = await node.set(changes)
        assert (response.status, response.error_id) == (0x0110, 0xA710)
        assert response.error_comment == "Performed Procedure Step Object may no longer be updated"
    held = node.steps.get(UID)
    assert held is not None
    assert held.status == status


async def test_a_step_does_not_grow_without_end(
    node: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.create()
    monkeypatch.setattr("dicomnode.index.steps._MAX_CHARACTERS", 30_000)
    statuses = []
    for number in range(4):
        more = Dataset()
        more.add_new(0x00091001 + number, "UT", "x" * 8_000)
        statuses.append((await node.set(more)).status)
    assert statuses == [0x0000, 0x0000, 0x0000, 0x0213]
    assert (await node.set()).status == 0x0000
    assert (await node.create(uid="1.2.3")).status == 0x0000


async def test_a_step_that_was_never_created_cannot_be_set(node: Fixture) -> None:
    assert (await node.set()).status == 0x0112


async def test_what_may_not_be_set_is_named_and_the_rest_is_taken(node: Fixture) -> None:
    await node.create()
    response = await node.set(completion(PatientID="P2"))
    assert (response.status, response.attribute_identifier_list) == (0x0107, (0x00100020,))
    held = node.steps.get(UID)
    assert held is not None
    assert held.status is State.COMPLETED
    assert held.attributes["00100020"] == {"vr": "LO", "Value": ["P1"]}
    assert "not changed, as N-SET may not: Patient ID" in node.outcomes[-1][1].findings[0].words


async def test_an_n_set_follows_the_n_create_that_was_sent_before_it(node: Fixture) -> None:
    node.request(*node.creating())
    node.request(*node.setting(completion()))
    assert [(await node.answer())[0].status for _ in range(2)] == [0x0000, 0x0000]


async def test_of_two_associations_that_end_a_step_one_does(node: Fixture) -> None:
    await node.create()
    channels = []
    for number in range(8):
        node.associate()
        node.channel.number = number  # type: ignore[misc]
        channels.append(node.channel)
        node.request(*node.setting(completion()))
    statuses = [(await asyncio.wait_for(channel.sent.get(), 20))[0].status for channel in channels]
    assert sorted(statuses) == [0x0000] + [0x0110] * 7


async def test_intermediate_changes_of_two_associations_are_both_kept(node: Fixture) -> None:
    await node.create()
    first, second = Dataset(), Dataset()
    first.CommentsOnThePerformedProcedureStep = "first"
    second.PerformedProcedureStepDescription = "second"
    channels = []
    for number, changes in enumerate((first, second) * 4):
        node.associate()
        node.channel.number = number  # type: ignore[misc]
        channels.append(node.channel)
        node.request(*node.setting(changes))
    for channel in channels:
        assert (await asyncio.wait_for(channel.sent.get(), 20))[0].status == 0x0000
    held = node.steps.get(UID)
    assert held is not None
    assert held.attributes["00400280"]["Value"] == ["first"]
    assert held.attributes["00400254"]["Value"] == ["second"]


async def test_a_step_is_kept_when_its_association_ends_before_the_response(
    node: Fixture,
) -> None:
    node.request(*node.creating())
    # The request is being performed: its task has begun when the loop comes round.
    await asyncio.sleep(0)
    node.handler.closed("the connection was lost")
    await asyncio.wait_for(node.told.wait(), 20)
    assert node.steps.get(UID) is not None


# -- N-GET -----------------------------------------------------------------------------------------


async def test_only_what_is_asked_for_is_returned(node: Fixture) -> None:
    await node.create()
    response, answer = await node.get(0x00400252, 0x00080018, 0x00100020)
    assert response.status == 0x0000
    assert answer is not None
    assert {element.keyword: element.value for element in answer} == {
        "SOPInstanceUID": UID,
        "PatientID": "P1",
        "PerformedProcedureStepStatus": "IN PROGRESS",
    }


async def test_attributes_that_the_step_does_not_have_are_listed(node: Fixture) -> None:
    await node.create()
    response, answer = await node.get(0x00400252, 0x00181030, 0x00080005)
    assert (response.status, response.attribute_identifier_list) == (0x0001, (0x00181030,))
    assert answer is not None
    assert len(answer) == 1


async def test_a_step_is_given_out_on_the_context_that_created_it_as_well(node: Fixture) -> None:
    await node.create()
    response, answer = await node.get(context_id=MPPS)
    assert response.status == 0x0000
    assert answer is not None
    assert answer.PatientID == "P1"


async def test_an_unknown_step_is_not_given_out(node: Fixture) -> None:
    response, answer = await node.get()
    assert (response.status, answer) == (0x0112, None)


async def test_the_registry_says_in_which_character_set(node: Fixture) -> None:
    node.registry = Registry([AE(title="CT_1", character_set="ISO_IR 100")])
    await node.create(creation(PatientName="Müller^Jürgen", SpecificCharacterSet="ISO_IR 192"))
    _, answer = await node.get()
    assert answer is not None
    assert (answer.SpecificCharacterSet, answer.PatientName) == ("ISO_IR 100", "Müller^Jürgen")


async def test_ascii_needs_no_character_set(node: Fixture) -> None:
    await node.create()
    _, answer = await node.get()
    assert answer is not None
    assert "SpecificCharacterSet" not in answer


async def test_steps_are_not_created_by_the_retrieve_class(node: Fixture) -> None:
    request = NCreateRQ(
        affected_sop_class_uid=MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE, message_id=1
    )
    node.request(request, None, RETRIEVE)
    assert (await node.answer())[0].status == 0x0211


# -- what the log says -----------------------------------------------------------------------------


async def test_an_unscheduled_step_says_so(node: Fixture) -> None:
    await node.create(creation(scheduled(step_id="")))
    ((_, outcome),) = node.outcomes
    assert (outcome.followed, outcome.findings[0].words) == ((), "it was not scheduled")


async def test_a_step_without_an_item_says_what_was_looked_for(node: Fixture) -> None:
    await node.create(creation(PerformedLocation=None))
    ((_, outcome),) = node.outcomes
    assert outcome.findings[0].words == (
        "taken without Performed Location;"
        f" no worklist item has Scheduled Procedure Step ID {STEP_ID} in study {STUDY}"
    )


async def test_the_index_failing_is_a_failure_of_the_node(node: Fixture) -> None:
    node.catalog.close()
    assert (await node.create()).status == 0x0110
    assert len(node.errors) == 1
    node.errors.clear()
