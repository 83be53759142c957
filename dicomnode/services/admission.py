"""Decides who may associate, for what, and how many at once.

The registry says who is known and what each may do; negotiation itself is ``ul.negotiation``.
Slots are counted here and given back by the connection, whatever way it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dicomnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.certificates import Secured
from dicomnode.dimse.channel import Admitted, Refused
from dicomnode.registry import AE, Registry, Service
from dicomnode.scu.contexts import SENT_WITHOUT_LOSS
from dicomnode.services.sop_classes import (
    ANY_TRANSFER_SYNTAX,
    TRANSFER_SYNTAXES,
    UNCOMPRESSED,
    extended_answer,
    service_of,
)
from dicomnode.ul.negotiation import AcceptorPolicy, SupportedContext, negotiate
from dicomnode.ul.pdu import AAssociateRQ, Rejection

NOT_BOUND = "Certificate not bound to the calling AE title"
"""Why a calling AE is refused that has to show a certificate and does not."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that admission follows; a limit of 0 means none."""

    ae_titles: frozenset[str]
    strict_ae_titles: bool
    admit_unknown: bool
    accept_unknown_storage: bool
    maximum_pdu_bytes: int
    max_operations: int
    max_associations: int
    max_associations_per_ae: int
    max_associations_per_address: int


class Admission:
    """Answers A-ASSOCIATE indications; ``registry`` may be replaced while running."""

    def __init__(self, rules: Rules, registry: Registry) -> None:
        self._rules = rules
        self.registry = registry
        self.draining = False
        self._active = 0
        self._by_title: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()

    @property
    def active(self) -> int:
        """Associations that hold a slot now."""
        return self._active

    def admit(
        self, request: AAssociateRQ, peer_address: str, secured: Secured | None = None
    ) -> Admitted | Refused:
        """Negotiate and take a slot; raises RemoteProtocolError for a malformed request."""
        rules = self._rules
        title = request.calling_ae_title
        recognition = self.registry.known(title, peer_address, strict=rules.strict_ae_titles)
        admitted = recognition.recognized or (rules.admit_unknown and recognition.ae is None)
        outcome = negotiate(request, self._policy(recognition.ae, calling_recognized=admitted))
        if isinstance(outcome, Rejection):
            return Refused(outcome, self._why(outcome, request, recognition.why))
        if recognition.ae is not None and (why := _not_bound(recognition.ae, secured)):
            return Refused(Rejection.NO_REASON_GIVEN, why, NOT_BOUND)
        over = self._over_limit(title, peer_address, recognition.ae)
        if over is not None:
            return Refused(Rejection.LOCAL_LIMIT_EXCEEDED, over)
        return Admitted(outcome, self._take_slot(title.upper(), peer_address))

    def _policy(self, ae: AE | None, *, calling_recognized: bool) -> AcceptorPolicy:
        rules = self._rules

        def allows(service: Service) -> bool:
            return ae is None or ae.allows(service)

        def lookup(abstract_syntax: str) -> SupportedContext | None:
            service = service_of(
                abstract_syntax, accept_unknown_storage=rules.accept_unknown_storage
            )
            if service is None:
                return None
            if service != "store":
                # Reports of a commitment that we asked for come with the roles reversed.
                reports = service == "commitment"
                return SupportedContext(UNCOMPRESSED, scu=reports) if allows(service) else None
            # Whoever may use C-GET is sent objects on contexts that it takes as SCP.
            takes, gives = allows("store"), allows("get")
            if not (takes or gives):
                return None
            unknown = rules.accept_unknown_storage
            syntaxes = ANY_TRANSFER_SYNTAX if unknown else TRANSFER_SYNTAXES
            return SupportedContext(syntaxes, takes, gives, SENT_WITHOUT_LOSS)

        return AcceptorPolicy(
            ae_titles=rules.ae_titles,
            strict_ae_titles=rules.strict_ae_titles,
            calling_recognized=calling_recognized,
            lookup=lookup,
            transfer_syntax_preference=ae.transfer_syntaxes if ae else (),
            maximum_length=(ae.maximum_pdu_bytes if ae else 0) or rules.maximum_pdu_bytes,
            max_operations=rules.max_operations,
            extended=lambda item: extended_answer(item.sop_class_uid, item.info),
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        )

    def _why(self, rejection: Rejection, request: AAssociateRQ, unrecognized: str) -> str:
        match rejection:
            case Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED:
                ours = ", ".join(sorted(self._rules.ae_titles))
                return f"called {request.called_ae_title!r}, this node is {ours} (node.ae_title)"
            case Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED:
                return f"{unrecognized} (ae.toml, access.unknown_ae)"
            case Rejection.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED:
                return f"proposed {request.application_context_name!r}"
            case _:
                return "the association request does not allow it"

    def _over_limit(self, title: str, peer_address: str, ae: AE | None) -> str | None:
        rules = self._rules
        per_ae = (ae.max_associations if ae else 0) or rules.max_associations_per_ae
        checks = (
            (self._active, rules.max_associations, "limits.max_associations"),
            (self._by_title[title.upper()], per_ae, f"max_associations of {title}"),
            (
                self._by_address[peer_address],
                rules.max_associations_per_address,
                f"limits.max_associations_per_address for {peer_address}",
            ),
        )
        for held, limit, name in checks:
            if limit and held >= limit:
                return f"{held} associations are open, {name} is {limit}"
        return "the node is shutting down" if self.draining else None

    def _take_slot(self, title: str, peer_address: str) -> Callable[[], None]:
        self._active += 1
        self._by_title[title] += 1
        self._by_address[peer_address] += 1

        def release() -> None:
            self._active -= 1
            for counter, key in ((self._by_title, title), (self._by_address, peer_address)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]

        return release


def _not_bound(ae: AE, secured: Secured | None) -> str:
    """Say why the peer may not call as ``ae``, "" when it has shown one of its certificates."""
    if not ae.certificate:
        return ""
    if secured is None:
        shown = "it called without TLS"
    elif secured.certificate is None:
        shown = "it showed none"
    elif secured.certificate.is_one_of(ae.certificate):
        return ""
    else:
        shown = f"it showed {secured.certificate.words}"
    allowed = ", ".join(map(str, ae.certificate))
    return f"{ae.title} is bound to the certificate {allowed}; {shown}"
