"""Asking a peer for storage commitment, from the request to the end of its association."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dicomnode.dimse.channel import Handler, Proposal, Provider
from dicomnode.dimse.command import Command, NActionRQ, NActionRSP, NEventReportRQ, NEventReportRSP
from dicomnode.errors import CannotAsk, CatalogError, ConnectionFailed
from dicomnode.index.catalog import Catalog
from dicomnode.index.commitment_requests import CommitmentRequest, State
from dicomnode.registry import AE, Registry
from dicomnode.services.commitment_messages import (
    Reference,
    Report,
    decode_request,
    encode_report,
)
from dicomnode.services.commitment_request import CommitmentRequester, RequestRules
from dicomnode.services.outcomes import Finding
from dicomnode.services.sop_classes import (
    STORAGE_COMMITMENT_PUSH_MODEL,
    STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
)
from dicomnode.ul.negotiation import AcceptedContext

IMPLICIT = "1.2.840.10008.1.2"
CT = "1.2.840.10008.5.1.4.1.1.2"
INSTANCES = [(CT, "1.2.1"), (CT, "1.2.2")]
CONTEXT = AcceptedContext(1, STORAGE_COMMITMENT_PUSH_MODEL, IMPLICIT, as_scp=False, as_scu=True)
REGISTRY = Registry(
    [
        AE(title="KEEPER", host="10.0.0.9", port=104),
        AE(title="NOWHERE"),
        AE(title="MUTE", host="10.0.0.8", services=frozenset({"store"})),
    ]
)


class Peer:
    """The requestor, and the channel of the one association that it makes."""

    def __init__(self) -> None:
        self.number = 1
        self.calling_ae_title, self.called_ae_title = "DICOMNODE", "KEEPER"
        self.peer_ae_title, self.peer_address = "KEEPER", "10.0.0.9"
        self.secured = None
        self.negotiated = SimpleNamespace(contexts={1: CONTEXT})
        self.error: Exception | None = None
        self.proposals: list[Proposal] = []
        self.sent: asyncio.Queue[tuple[Command, Any]] = asyncio.Queue()
        self.endings: list[str] = []
        self.handler: Handler

    async def associate(self, proposal: Proposal, provider: Provider) -> Any:
        self.proposals.append(proposal)
        if self.error is not None:
            raise self.error
        self.handler = provider.established(self)  # type: ignore[arg-type]
        return self

    def send(self, context_id: int, command: Command, data_set: object = None) -> None:
        assert context_id == CONTEXT.context_id
        self.sent.put_nowait((command, data_set))

    async def drained(self) -> None:
        pass

    async def release(self) -> None:
        self.endings.append("released")
        self.handler.closed("released")

    def abort(self, rule: str, *, source: int = 0, reason: int = 0) -> None:
        self.endings.append("aborted")
        self.handler.closed(rule)

    # -- what a test has it do -------------------------------------------------------------------

    async def asked(self) -> Any:
        """Return the N-ACTION request that comes, and what it says."""
        command, data_set = await asyncio.wait_for(self.sent.get(), 10)
        assert isinstance(command, NActionRQ)
        return command, decode_request(data_set, IMPLICIT)

    def answer(self, request: NActionRQ, status: int = 0x0000, comment: str | None = None) -> None:
        self.handler.message(
            1,
            NActionRSP(
                message_id_being_responded_to=request.message_id,
                status=status,
                error_comment=comment,
            ),
        )

    async def report(self, transaction_uid: str) -> int:
        """Report that all is committed; return the status of the answer."""
        event = NEventReportRQ(
            message_id=1,
            affected_sop_class_uid=STORAGE_COMMITMENT_PUSH_MODEL,
            affected_sop_instance_uid=STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
            event_type_id=1,
            has_data_set=True,
        )
        report = Report(transaction_uid, tuple(Reference(*each) for each in INSTANCES), ())
        sink = self.handler.message(1, event)
        assert sink is not None
        sink.write(memoryview(encode_report(report, IMPLICIT)), SimpleNamespace())  # type: ignore[arg-type]
        sink.finish()
        response, _ = await asyncio.wait_for(self.sent.get(), 10)
        assert isinstance(response, NEventReportRSP)
        return response.status


class Fixture:
    """A requester with its peer; it is the journal and the log as well."""

    def __init__(self, catalog: Catalog) -> None:
        self.peer = Peer()
        self.told: list[str] = []
        self.explained: list[Finding] = []
        self.changed = asyncio.Event()
        log: Any = SimpleNamespace(info=self._tell, warning=self._tell)
        self.requester = self._requester(catalog, log, seconds=30.0)
        self.hasty = self._requester(catalog, log, seconds=0.01)

    def _requester(self, catalog: Catalog, log: Any, seconds: float) -> CommitmentRequester:
        rules = RequestRules(ae_title="DICOMNODE", strict_ae_titles=False, response_seconds=seconds)
        return CommitmentRequester(
            catalog,
            self.peer,  # type: ignore[arg-type]
            lambda: REGISTRY,
            self,
            self,
            log,
            rules,
        )

    def _tell(self, line: str, **fields: str) -> None:
        self.told.append(line)

    def operation_ended(self, operation: object, status: int, comment: str) -> None:
        pass

    def internal_error(self, what: str, error: BaseException) -> None:
        self.told.append(f"{what}: {error}")

    def not_committed(
        self, title: str, address: str, answer: str, findings: Sequence[Finding]
    ) -> None:
        self.explained += findings

    def advice_on(self, called_ae_title: str) -> str:
        return f"See whether {called_ae_title} runs."

    def kept(self, transaction_uid: str) -> CommitmentRequest:
        found = self.requester.requests.get(transaction_uid)
        assert found is not None
        return found

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def on(tmp_path: Path) -> AsyncIterator[Fixture]:
    with Catalog(f"sqlite:///{tmp_path}/index.sqlite", synchronous="OFF") as catalog:
        fixture = Fixture(catalog)
        yield fixture
        await fixture.requester.close()
        await fixture.hasty.close()


# -- the course of a request -------------------------------------------------------------------


async def test_a_request_is_durable_before_the_peer_is_called(on: Fixture) -> None:
    uid = await on.requester.ask("KEEPER", INSTANCES)
    assert on.peer.proposals == []
    assert (on.kept(uid).state, on.kept(uid).total) == (State.ASKING, 2)


async def test_the_peer_is_asked_at_the_address_of_the_registry(on: Fixture) -> None:
    uid = await on.requester.ask("keeper", INSTANCES)
    request, said = await on.peer.asked()
    (proposal,) = on.peer.proposals
    assert (proposal.host, proposal.port, proposal.called_ae_title) == ("10.0.0.9", 104, "KEEPER")
    # The default roles are those of an SCU that asks (PS3.7 §D.3.3.4).
    assert proposal.roles == () and proposal.calling_ae_title == "DICOMNODE"
    assert request.requested_sop_instance_uid == STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE
    assert request.action_type_id == 1
    assert (said.transaction_uid, len(said.references)) == (uid, 2)


async def test_the_association_is_kept_for_the_report_and_released_after_it(on: Fixture) -> None:
    uid = await on.requester.ask("KEEPER", INSTANCES)
    request, _ = await on.peer.asked()
    on.peer.answer(request)
    await on.until(lambda: on.kept(uid).state is State.WAITING)
    assert on.peer.endings == []
    assert await on.peer.report(uid) == 0x0000
    await on.until(lambda: on.peer.endings)
    assert on.peer.endings == ["released"]
    assert on.kept(uid).state is State.COMMITTED
    assert on.told == [
        f"asked KEEPER to commit 2 objects, transaction {uid}",
        f"KEEPER committed 2 of 2 objects, transaction {uid}",
    ]


async def test_a_report_before_the_answer_is_taken(on: Fixture) -> None:
    uid = await on.requester.ask("KEEPER", INSTANCES)
    request, _ = await on.peer.asked()
    assert await on.peer.report(uid) == 0x0000
    on.peer.answer(request)
    await on.until(lambda: on.peer.endings)
    assert on.kept(uid).state is State.COMMITTED


async def test_without_a_report_the_association_is_released_and_the_request_stands(
    on: Fixture,
) -> None:
    uid = await on.hasty.ask("KEEPER", INSTANCES)
    request, _ = await on.peer.asked()
    on.peer.answer(request)
    await on.until(lambda: on.peer.endings)
    assert on.peer.endings == ["released"] and on.kept(uid).state is State.WAITING


async def test_a_stop_of_the_node_releases_associations_that_only_wait(on: Fixture) -> None:
    uid = await on.requester.ask("KEEPER", INSTANCES)
    request, _ = await on.peer.asked()
    on.peer.answer(request)
    await on.until(lambda: on.kept(uid).state is State.WAITING)
    await on.requester.close()
    assert on.peer.endings == ["released"] and on.kept(uid).state is State.WAITING
    with pytest.raises(CannotAsk, match="shutting down"):
        await on.requester.ask("KEEPER", INSTANCES)


# -- what fails ----------------------------------------------------------------------------------


async def test_a_refusal_is_kept_and_told_with_what_to_do(on: Fixture) -> None:
    uid = await on.requester.ask("KEEPER", INSTANCES)
    request, _ = await on.peer.asked()
    on.peer.answer(request, 0x0213, "full")
    await on.until(lambda: on.kept(uid).state is State.REFUSED)
    assert on.kept(uid).why == (
        "KEEPER answered 0213H Resource limitation: full. See what the log of KEEPER says of the"
        " request."
    )
    assert [each.words for each in on.explained] == [
        "KEEPER answered 0213H Resource limitation: full"
    ]
    assert on.peer.endings == ["released"]


async def test_a_peer_that_cannot_be_called_is_told_at_once(on: Fixture) -> None:
    on.peer.error = ConnectionFailed("cannot connect to KEEPER")
    uid = await on.requester.ask("KEEPER", INSTANCES)
    await on.until(lambda: on.kept(uid).state is State.REFUSED)
    assert on.kept(uid).why == "cannot connect to KEEPER. See whether KEEPER runs."


async def test_a_peer_that_does_not_serve_storage_commitment_is_told(on: Fixture) -> None:
    on.peer.negotiated.contexts.clear()
    uid = await on.requester.ask("KEEPER", INSTANCES)
    await on.until(lambda: on.kept(uid).state is State.REFUSED)
    assert "accepted no presentation context" in on.kept(uid).why
    assert on.peer.endings == ["released"]


async def test_a_peer_that_does_not_answer_is_aborted_and_may_report_all_the_same(
    on: Fixture,
) -> None:
    uid = await on.hasty.ask("KEEPER", INSTANCES)
    await on.peer.asked()
    await on.until(lambda: on.kept(uid).state is State.REFUSED)
    assert on.peer.endings == ["aborted"] and "no answer to N-ACTION" in on.kept(uid).why
    on.peer.handler = on.hasty._provider.established(on.peer)  # type: ignore[arg-type]
    assert await on.peer.report(uid) == 0x0000
    assert on.kept(uid).state is State.COMMITTED


async def test_a_request_that_a_crash_cut_short_is_known_as_that(on: Fixture) -> None:
    on.requester.requests.enter("1.9", "KEEPER", INSTANCES)
    on.requester.recover()
    assert on.kept("1.9").state is State.REFUSED
    assert on.kept("1.9").why == "the node stopped before the request was answered: ask again"


async def test_a_request_that_cannot_be_kept_is_not_made(
    on: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise CatalogError("disk full")

    monkeypatch.setattr(on.requester.requests, "enter", fail)
    with pytest.raises(CatalogError):
        await on.requester.ask("KEEPER", INSTANCES)
    assert on.peer.proposals == []


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("NOBODY", "'NOBODY' is not in ae.toml: add an"),
        ("NOWHERE", "NOWHERE has no address: give it host and port"),
        ("MUTE", 'MUTE may not report: add "commitment" to its services'),
    ],
)
async def test_only_nodes_of_the_registry_are_asked(on: Fixture, title: str, words: str) -> None:
    with pytest.raises(CannotAsk, match=words):
        await on.requester.ask(title, INSTANCES)
    with pytest.raises(CannotAsk, match=words):
        await on.requester.ask_for(title, "1.2.3")


@pytest.mark.parametrize("error", [CatalogError("disk full"), ValueError("a fault")])
async def test_a_fault_of_the_node_ends_the_request_and_is_told(
    on: Fixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    on.peer.error = error
    uid = await on.requester.ask("KEEPER", INSTANCES)
    await asyncio.gather(*on.requester._tasks)
    found = on.requester.requests.get(uid)
    assert found is not None and found.state is State.REFUSED
    assert found.why == "the node itself failed. See its log, then ask again."


async def test_there_is_a_limit_to_what_is_under_way(on: Fixture) -> None:
    for _ in range(32):
        await on.requester.ask("KEEPER", INSTANCES)
    with pytest.raises(CannotAsk, match="32 requests are under way"):
        await on.requester.ask("KEEPER", INSTANCES)
