"""Decides who may associate, for what, and how many at once.

The registry says who is known and what each may do; negotiation itself is ``ul.negotiation``.
Slots are counted here and given back by the connection, whatever way it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from dicomnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.certificates import Secured
from dicomnode.dimse.channel import Admitted, Deferred, Refused
from dicomnode.registry import AE, Registry, Service
from dicomnode.scu.contexts import SENT_WITHOUT_LOSS
from dicomnode.services.identities import (
    Credentials,
    Identified,
    Identities,
    Mode,
    Requestor,
    Verdict,
)
from dicomnode.services.sop_classes import (
    ANY_TRANSFER_SYNTAX,
    TRANSFER_SYNTAXES,
    UNCOMPRESSED,
    extended_answer,
    service_of,
)
from dicomnode.ul.items import UserIdentityRQ
from dicomnode.ul.negotiation import AcceptorPolicy, Negotiated, SupportedContext, negotiate
from dicomnode.ul.pdu import AAssociateRQ, Rejection

NOT_BOUND = "Certificate not bound to the calling AE title"
"""Why a calling AE is refused that has to show a certificate and does not."""

_RULES: Final = {
    Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED: "node.ae_title",
    Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED: "access.unknown_ae",
}


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
    user_identity: Mode = "ignore"


class Admission:
    """Answers A-ASSOCIATE indications; ``registry`` may be replaced while running."""

    def __init__(
        self, rules: Rules, registry: Registry, identities: Identities | None = None
    ) -> None:
        self._rules = rules
        self._identities = identities or Identities(Credentials())
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
    ) -> Admitted | Refused | Deferred:
        """Negotiate and take a slot; raises RemoteProtocolError for a malformed request."""
        rules = self._rules
        title = request.calling_ae_title
        recognition = self.registry.known(title, peer_address, strict=rules.strict_ae_titles)
        admitted = recognition.recognized or (rules.admit_unknown and recognition.ae is None)
        outcome = negotiate(request, self._policy(recognition.ae, calling_recognized=admitted))
        if isinstance(outcome, Rejection):
            rule = _RULES.get(outcome, "")
            if recognition.ae is not None and rule == "access.unknown_ae":
                rule = "addresses"
            why = self._why(outcome, request, recognition.why)
            return Refused(outcome, why, rule=rule)
        if recognition.ae is not None and (unbound := _not_bound(recognition.ae, secured)):
            return unbound
        over = self._over_limit(title, peer_address, recognition.ae)
        if over is not None:
            return over
        requestor = self._requestor(title, peer_address, secured, recognition.ae)
        mode = self._mode(recognition.ae)
        verdict = self._identities.judge(request.find(UserIdentityRQ), mode, requestor)
        if isinstance(verdict, Refused):
            return verdict
        release = self._take_slot(title.upper(), peer_address)
        # Secrets are not kept as long as the association.
        outcome = replace(outcome, user_identity=None)
        if isinstance(verdict, Identified):
            return Admitted(replace(outcome, user=verdict.user), release)
        return Deferred(_decision(outcome, verdict), release)

    def _mode(self, ae: AE | None) -> Mode:
        return (ae.user_identity if ae else None) or self._rules.user_identity

    def _requestor(
        self, title: str, peer_address: str, secured: Secured | None, ae: AE | None
    ) -> Requestor:
        own = ae is not None and ae.user_identity is not None
        where = f"user_identity of {title} in ae.toml" if own else "access.user_identity"
        return Requestor(title, peer_address, secured is not None, f'{where} = "ignore"')

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
            confirms_user_identity=self._mode(ae) != "ignore",
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

    def _over_limit(self, title: str, peer_address: str, ae: AE | None) -> Refused | None:
        rules = self._rules
        of_title = self._by_title[title.upper()]
        if ae is not None and ae.max_associations:
            per_title = of_title, ae.max_associations, "max_associations", f" of {title}"
        else:
            limit = rules.max_associations_per_ae
            per_title = of_title, limit, "limits.max_associations_per_ae", f" of {title}"
        checks = (
            (self._active, rules.max_associations, "limits.max_associations", ""),
            per_title,
            (
                self._by_address[peer_address],
                rules.max_associations_per_address,
                "limits.max_associations_per_address",
                f" for {peer_address}",
            ),
        )
        for held, limit, rule, whose in checks:
            if limit and held >= limit:
                return Refused(
                    Rejection.LOCAL_LIMIT_EXCEEDED,
                    f"{held} associations are open, {rule}{whose} is {limit}",
                    rule=rule,
                    advice=_more(rule, limit, title),
                )
        if self.draining:
            return Refused(Rejection.LOCAL_LIMIT_EXCEEDED, "the node is shutting down")
        return None

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


def _not_bound(ae: AE, secured: Secured | None) -> Refused | None:
    """Refuse a peer that calls as ``ae`` and has shown none of its certificates."""
    if not ae.certificate:
        return None
    if secured is None:
        shown = "it called without TLS"
    elif secured.certificate is None:
        shown = "it showed none"
    elif secured.certificate.is_one_of(ae.certificate):
        return None
    else:
        shown = f"it showed {secured.certificate.words}"
    allowed = ", ".join(map(str, ae.certificate))
    return Refused(
        Rejection.NO_REASON_GIVEN,
        f"{ae.title} is bound to the certificate {allowed}; {shown}",
        reason=NOT_BOUND,
        rule="certificate",
        advice=f"Let {ae.title} call over TLS with a certificate that it is bound to, or"
        f" correct certificate of {ae.title} in ae.toml, then send SIGHUP to the node.",
    )


def _decision(
    negotiated: Negotiated, verdict: Callable[[], Awaitable[Verdict]]
) -> Callable[[], Awaitable[Negotiated | Refused]]:
    async def decide() -> Negotiated | Refused:
        found = await verdict()
        if isinstance(found, Refused):
            return found
        return replace(negotiated, user=found.user)

    return decide


def _more(rule: str, limit: int, title: str) -> str:
    """Advise to raise a limit, with the line that does so."""
    line = f"{rule.removeprefix('limits.')} = {2 * limit}"
    if rule.startswith("limits."):
        where = "under [limits] in dicomnode.toml and restart the node"
    else:
        where = "into its [[ae]] in ae.toml, then send SIGHUP to the node"
    return f"Let {title} open fewer at once, or write {line} {where}."
