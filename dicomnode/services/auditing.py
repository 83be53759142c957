"""Tells the audit trail what happens on associations; stands beside the journal.

Called on the event loop and, where said, from worker threads. Nothing here waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dicomnode.audit.codes import Alert
from dicomnode.audit.codes import Outcome as AlertOutcome
from dicomnode.audit.events import Peer, Study
from dicomnode.audit.trail import Audit
from dicomnode.dimse.channel import Channel, Refused
from dicomnode.dimse.status import Category, category, describe
from dicomnode.errors import TLSFailed
from dicomnode.index.catalog import Catalog
from dicomnode.index.entry import InstanceRow
from dicomnode.observe.trace import Trace
from dicomnode.observe.words import counted
from dicomnode.services.admission import NOT_BOUND
from dicomnode.services.crowds import Crowds
from dicomnode.services.dispatch import Operation
from dicomnode.services.identities import NOT_ACCEPTED
from dicomnode.services.placing import Arrival, Outcome, Settled
from dicomnode.storage.header import Header
from dicomnode.tls.faults import UNAUTHENTICATED
from dicomnode.ul.items import UserIdentityKind, UserIdentityRQ
from dicomnode.ul.pdu import AAssociateRQ, Rejection

# Associations, and studies of each, for which it is known that sending has begun.
_MAX_BEGUN: Final = 1000
_TAKEN: Final = (Category.SUCCESS, Category.WARNING)
# Rejections that say that a node is not who it should be; the others are for want of room.
_NOT_AUTHENTICATED: Final = frozenset(
    {
        Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED,
        Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED,
    }
)


_BY_NAME: Final = (UserIdentityKind.USERNAME, UserIdentityKind.USERNAME_AND_PASSCODE)


class Auditing:
    """Observes associations for ``audit``."""

    def __init__(self, audit: Audit, crowds: Crowds | None = None) -> None:
        self.audit = audit
        self._crowds = crowds or Crowds()
        self._begun: dict[int, set[str]] = {}

    # -- associations ----------------------------------------------------------------------------

    def accepted(self, channel: Channel) -> None:
        """An association was accepted; if a user was named, it is who it says to be."""
        self._tell_of_crowds()
        if user := channel.negotiated.user:
            self.audit.user_authenticated(user, _peer(channel))

    def rejected(self, peer_address: str, request: AAssociateRQ, refused: Refused) -> None:
        """An association request was answered with A-ASSOCIATE-RJ."""
        if refused.reason == NOT_ACCEPTED:
            user, peer = _named_user(request), Peer(request.calling_ae_title, peer_address)
            if self._is_told(peer_address):
                self.audit.user_authenticated(user, peer, failure=refused.why)
            return
        if refused.rejection in _NOT_AUTHENTICATED or refused.reason == NOT_BOUND:
            words = f"association rejected: {refused.words}: {refused.why}"
            peer = Peer(request.calling_ae_title, peer_address)
            if self._is_told(peer_address):
                self.audit.security_alert(Alert.NODE_AUTHENTICATION, words, peer)

    def tls_refused(self, peer_address: str, words: str) -> None:
        """A TLS connection was refused."""
        words = f"TLS connection refused: {words}"
        if self._is_told(peer_address):
            self.audit.security_alert(Alert.NODE_AUTHENTICATION, words, Peer("", peer_address))

    def _is_told(self, address: str) -> bool:
        self._tell_of_crowds()
        return self._crowds.passes(address)

    def _tell_of_crowds(self) -> None:
        for address, count in self._crowds.passed_over():
            more = counted(count, "more attempt", "more attempts")
            words = f"{more} of this address within a minute refused, and not told one by one"
            self.audit.security_alert(Alert.NODE_AUTHENTICATION, words, Peer("", address))

    def tls_failed(self, ae_title: str, host: str, error: TLSFailed) -> None:
        """A peer that we called is not who it should be, or cannot prove it."""
        if error.cause in UNAUTHENTICATED:
            peer = Peer(ae_title, host)
            self.audit.security_alert(Alert.NODE_AUTHENTICATION, str(error), peer)

    def traced(self, trace: Trace) -> None:
        """A recording of associations has begun, or is over."""
        wanted = trace.wanted
        state = f"is over: {trace.why}" if trace.why else "begins"
        words = f"trace {trace.number} of associations with {wanted.ae_title} {state}"
        asked = f", asked by {wanted.asked_by}" if wanted.asked_by else ""
        self.audit.security_alert(
            Alert.USE_OF_RESTRICTED_FUNCTION, words + asked, outcome=AlertOutcome.SUCCESS
        )

    def custody_noted(self, words: str) -> None:
        """The head of the chain of custody was noted."""
        kind = Alert.OBJECT_SECURITY_ATTRIBUTES_CHANGED
        self.audit.security_alert(kind, words, outcome=AlertOutcome.SUCCESS)

    def ended(self, channel: Channel) -> None:
        """An association has ended, whoever had asked for it."""
        self._tell_of_crowds()
        self._begun.pop(channel.number, None)
        self.audit.ended(channel.number)

    # -- queries ---------------------------------------------------------------------------------

    def query_asked(self, operation: Operation, identifier: bytes) -> None:
        """A C-FIND-RQ has arrived whole."""
        context = operation.context
        self.audit.query(
            _peer(operation.channel), context.abstract_syntax, context.transfer_syntax, identifier
        )

    # -- objects that come in --------------------------------------------------------------------

    def object_settled(self, arrival: Arrival, header: Header | None, outcome: Outcome) -> None:
        """An object was stored, or refused after its header had been read."""
        if header is None or not self.audit.enabled:
            return
        # With a warning it is not in the archive, but in quarantine.
        failure = _failure(outcome.status, (Category.SUCCESS,))
        channel = arrival.channel
        source = Peer(arrival.source_ae_title) if channel is None else _peer(channel)
        self.audit.received(
            ("fetched", source.ae_title) if channel is None else channel.number,
            header.study_instance_uid,
            arrival.sop_class_uid,
            source,
            created=isinstance(outcome, Settled) and outcome.is_new and not failure,
            failure=failure,
            requested=channel is None,
        )

    # -- objects that go out ---------------------------------------------------------------------

    def instance_sending(
        self, channel: Channel, row: InstanceRow, originator: Channel | None = None
    ) -> None:
        """An object is about to be sent, for ``originator`` or else of our own accord."""
        if not self.audit.enabled:
            return
        begun = self._begun.setdefault(channel.number, set())
        while len(self._begun) > _MAX_BEGUN:
            del self._begun[next(iter(self._begun))]
        if len(begun) >= _MAX_BEGUN:
            begun.clear()
        if row.study_instance_uid not in begun:
            begun.add(row.study_instance_uid)
            destination, asking = _ends(channel, originator)
            self.audit.sending(row.study_instance_uid, destination, originator=asking)

    def instance_sent(
        self,
        channel: Channel,
        row: InstanceRow,
        how: int | str,
        originator: Channel | None = None,
    ) -> None:
        """An object was answered with the status ``how``, or could not be sent for that reason."""
        if not self.audit.enabled:
            return
        destination, asking = _ends(channel, originator)
        self.audit.sent(
            channel.number,
            row.study_instance_uid,
            row.sop_class_uid,
            destination,
            originator=asking,
            failure=how if isinstance(how, str) else _failure(how, _TAKEN),
        )

    def exported(self, rows: Iterable[InstanceRow], media: str) -> None:
        """Objects were written to ``media`` by a command."""
        for study_instance_uid, sop_classes in by_study(rows).items():
            self.audit.exported(study_instance_uid, sop_classes, media)

    # -- objects that are deleted ------------------------------------------------------------------

    def whose(self, catalog: Catalog, sop_instance_uids: Iterable[str]) -> dict[str, Study]:
        """Return what is known of the studies of objects, by UID of the study.

        For what may be deleted: the study may go with it. Blocks; raises CatalogError.
        """
        found: dict[str, Study] = {}
        for uid in sop_instance_uids if self.audit.enabled else ():
            row = catalog.get(uid)
            if row is not None and row.study_instance_uid not in found:
                found[row.study_instance_uid] = self.audit.study(row.study_instance_uid)
        return found

    def deleted(
        self, rows: Sequence[InstanceRow], studies: Mapping[str, Study], by: str, reason: str
    ) -> None:
        """Objects were deleted here; ``studies`` is from ``whose``."""
        for row in rows:
            study = studies.get(row.study_instance_uid)
            self.audit.deleted(row.study_instance_uid, row.sop_class_uid, study, by, reason)


def by_study(rows: Iterable[InstanceRow]) -> dict[str, Counter[str]]:
    """Return how many objects of each SOP class each study has among ``rows``."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row.study_instance_uid, Counter())[row.sop_class_uid] += 1
    return found


def _failure(status: int, successes: tuple[Category, ...]) -> str:
    kind = category(status)
    return "" if kind in successes else f"{status:04X}H {describe(status, 'C-STORE')}"


def _peer(channel: Channel) -> Peer:
    return Peer(channel.peer_ae_title, channel.peer_address)


def _ends(channel: Channel, originator: Channel | None) -> tuple[Peer, Peer | None]:
    """Return where objects go, and who asked for that; the same one for a C-GET."""
    destination = _peer(channel)
    if originator is None:
        return destination, None
    return destination, destination if originator is channel else _peer(originator)


def _named_user(request: AAssociateRQ) -> str:
    """Return the user that a request names; "" for tickets and tokens, which are secrets."""
    identity = request.find(UserIdentityRQ)
    if identity is None or identity.kind not in _BY_NAME:
        return ""
    return identity.primary.decode("utf-8", "replace")
