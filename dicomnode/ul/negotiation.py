"""Association negotiation as pure functions of the PDUs and a policy.

PS3.8 §7.1.1 (titles, contexts), PS3.7 Annex D.3.3 (user information). ``negotiate`` is the
acceptor's half, ``concluded`` the requestor's; both end in ``Negotiated``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from dicomnode.ul.items import (
    AsynchronousOperationsWindow,
    CommonExtendedNegotiation,
    ContextResult,
    ExtendedNegotiation,
    ImplementationClassUID,
    ImplementationVersionName,
    MaximumLength,
    PresentationContextAC,
    PresentationContextRQ,
    RoleSelection,
    UserIdentityAC,
    UserIdentityRQ,
    UserItem,
    malformed,
)
from dicomnode.ul.pdu import (
    DICOM_APPLICATION_CONTEXT,
    PDV_HEADER_LENGTH,
    AAssociateAC,
    AAssociateRQ,
    Rejection,
    check_context_ids,
)

_IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_SYNCHRONOUS = 1

# The requestor's roles where it selects none (PS3.7 §D.3.3.4).
_DEFAULT_ROLES = RoleSelection("", scu=True, scp=False)

Roles: TypeAlias = Mapping[str, RoleSelection]


@dataclass(frozen=True, slots=True)
class SupportedContext:
    """What we do for one abstract syntax: its transfer syntaxes and our roles.

    Where the context is for our SCU role alone, ``preferred_as_scu`` outranks the proposer's order.
    """

    transfer_syntaxes: Container[str]
    scp: bool = True
    scu: bool = False
    preferred_as_scu: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptorPolicy:
    """What decides over a request, apart from the request.

    ``ae_titles`` are ours (empty: any is ours); titles compare without case unless
    ``strict_ae_titles``. ``calling_recognized`` is the registry's word on the peer. ``lookup``
    tells what we do for an abstract syntax. ``transfer_syntax_preference`` outranks the
    proposer's order for the syntaxes that it names. ``max_operations`` is the asynchronous
    window we grant in each direction; 1 grants none. ``extended`` returns the application
    information that answers a proposed one, or None for no answer. ``confirms_user_identity`` says
    whether a user identity is checked, so that a positive response means something (PS3.7
    §D.3.3.7).
    """

    calling_recognized: bool
    lookup: Callable[[str], SupportedContext | None]
    maximum_length: int
    implementation_class_uid: str
    implementation_version_name: str
    ae_titles: frozenset[str] = frozenset()
    strict_ae_titles: bool = False
    transfer_syntax_preference: tuple[str, ...] = ()
    max_operations: int = _SYNCHRONOUS
    extended: Callable[[ExtendedNegotiation], bytes | None] | None = None
    confirms_user_identity: bool = False
    maximum_contexts: int = 128


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context in use; ``as_scp`` and ``as_scu`` say which roles are ours."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    as_scp: bool
    as_scu: bool


@dataclass(frozen=True, slots=True)
class RefusedContext:
    """A proposed presentation context that is not in use, and why."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    result: ContextResult
    words: str


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The outcome of an accepted association.

    ``max_operations_invoked`` is how many operations the requestor may have outstanding,
    ``max_operations_performed`` how many the acceptor may (PS3.7 §D.3.3.3, the fields of the
    A-ASSOCIATE-AC). ``extended`` and ``user_identity`` are what the peer sent;
    ``user`` is who that turned out to be, once it was checked.
    """

    response: AAssociateAC
    contexts: Mapping[int, AcceptedContext]
    refused: tuple[RefusedContext, ...]
    calling_ae_title: str
    called_ae_title: str
    peer_maximum_length: int
    max_operations_invoked: int
    max_operations_performed: int
    extended: Mapping[str, bytes]
    common_extended: Mapping[str, CommonExtendedNegotiation]
    user_identity: UserIdentityRQ | UserIdentityAC | None
    peer_implementation_class_uid: str
    peer_implementation_version_name: str
    user: str = ""


def negotiate(request: AAssociateRQ, policy: AcceptorPolicy) -> Negotiated | Rejection:
    """Decide over ``request``; accepted even when no presentation context is.

    Raises RemoteProtocolError (A-ABORT, invalid PDU parameter value) for even or repeated
    context IDs and for a maximum length that leaves no room for data.
    """
    check_context_ids(request.presentation_contexts)
    peer_maximum_length = _peer_maximum_length(request)
    if (objection := _objection(request, policy)) is not None:
        return objection
    roles = _roles(request)
    decided = [
        _decide(context, position, roles, policy)
        for position, context in enumerate(request.presentation_contexts)
    ]
    accepted = {c.context_id: c for c in decided if isinstance(c, AcceptedContext)}
    window = _granted_window(request, policy.max_operations)
    response = AAssociateAC(
        request.called_ae_title,
        request.calling_ae_title,
        tuple(map(_answer, decided)),
        tuple(_user_information(request, policy, accepted.values(), window)),
    )
    return Negotiated(
        response,
        accepted,
        tuple(c for c in decided if isinstance(c, RefusedContext)),
        request.calling_ae_title,
        request.called_ae_title,
        peer_maximum_length,
        window.max_invoked if window else _SYNCHRONOUS,
        window.max_performed if window else _SYNCHRONOUS,
        {item.sop_class_uid: item.info for item in request.find_all(ExtendedNegotiation)},
        {item.sop_class_uid: item for item in request.find_all(CommonExtendedNegotiation)},
        request.find(UserIdentityRQ),
        *_implementation(request),
    )


def concluded(request: AAssociateRQ, response: AAssociateAC) -> Negotiated:
    """Read the acceptor's answer to our ``request``.

    What the answer grants beyond the proposal is not granted: contexts that were not proposed
    are ignored, foreign transfer syntaxes refuse their context, roles and window shrink to what
    we asked for. Raises RemoteProtocolError for a maximum length that leaves no room for data.
    """
    answers = {answer.context_id: answer for answer in reversed(response.presentation_contexts)}
    proposed_roles, granted_roles = _roles(request), _roles(response)
    judged = [
        _judge(context, answers.get(context.context_id), proposed_roles, granted_roles)
        for context in request.presentation_contexts
    ]
    asked = request.find(AsynchronousOperationsWindow)
    granted = response.find(AsynchronousOperationsWindow)
    invoked = performed = _SYNCHRONOUS
    if asked and granted:
        invoked = _smaller(asked.max_invoked, granted.max_invoked)
        performed = _smaller(asked.max_performed, granted.max_performed)
    return Negotiated(
        response,
        {c.context_id: c for c in judged if isinstance(c, AcceptedContext)},
        tuple(c for c in judged if isinstance(c, RefusedContext)),
        request.calling_ae_title,
        request.called_ae_title,
        _peer_maximum_length(response),
        invoked,
        performed,
        {item.sop_class_uid: item.info for item in response.find_all(ExtendedNegotiation)},
        {},
        response.find(UserIdentityAC),
        *_implementation(response),
    )


def _objection(request: AAssociateRQ, policy: AcceptorPolicy) -> Rejection | None:
    if not request.protocol_version & 1:
        return Rejection.PROTOCOL_VERSION_NOT_SUPPORTED
    if request.application_context_name != DICOM_APPLICATION_CONTEXT:
        return Rejection.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED
    if policy.ae_titles and not _is_ours(request.called_ae_title, policy):
        return Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED
    if not policy.calling_recognized:
        return Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED
    return None


def _is_ours(title: str, policy: AcceptorPolicy) -> bool:
    """Compare without the spaces around titles, which are not significant (PS3.8 §9.3.2)."""
    ours = {own.strip() for own in policy.ae_titles}
    if policy.strict_ae_titles:
        return title.strip() in ours
    return title.strip().upper() in {own.upper() for own in ours}


def _decide(
    context: PresentationContextRQ, position: int, roles: Roles, policy: AcceptorPolicy
) -> AcceptedContext | RefusedContext:
    if position >= policy.maximum_contexts:
        return _refused(context, ContextResult.NO_REASON)
    supported = policy.lookup(context.abstract_syntax)
    if supported is None:
        return _refused(context, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED)
    proposed = roles.get(context.abstract_syntax, _DEFAULT_ROLES)
    as_scp = supported.scp and proposed.scu
    as_scu = supported.scu and proposed.scp
    preference = policy.transfer_syntax_preference
    if as_scu and not as_scp:
        preference += supported.preferred_as_scu
    transfer_syntax = _choose(context, supported, preference)
    if transfer_syntax is None:
        return _refused(context, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED)
    if not (as_scp or as_scu):
        return _refused(context, ContextResult.USER_REJECTION, "Roles not supported")
    return AcceptedContext(
        context.context_id, context.abstract_syntax, transfer_syntax, as_scp, as_scu
    )


def _choose(
    context: PresentationContextRQ, supported: SupportedContext, preference: tuple[str, ...]
) -> str | None:
    preferred = (uid for uid in preference if uid in context.transfer_syntaxes)
    for uid in (*preferred, *context.transfer_syntaxes):
        if uid in supported.transfer_syntaxes:
            return uid
    return None


def _roles(pdu: AAssociateRQ | AAssociateAC) -> Roles:
    """Return the role selection of each SOP class; the first counts where one is repeated."""
    return {item.sop_class_uid: item for item in reversed(pdu.find_all(RoleSelection))}


def _refused(
    context: PresentationContextRQ, result: ContextResult, words: str = ""
) -> RefusedContext:
    return RefusedContext(
        context.context_id,
        context.abstract_syntax,
        context.transfer_syntaxes,
        result,
        words or result.words,
    )


def _answer(context: AcceptedContext | RefusedContext) -> PresentationContextAC:
    if isinstance(context, AcceptedContext):
        return PresentationContextAC(
            context.context_id, ContextResult.ACCEPTANCE, context.transfer_syntax
        )
    # The sub-item must be there though it means nothing here (PS3.8 Table 9-18).
    transfer_syntax = next(iter(context.transfer_syntaxes), _IMPLICIT_VR_LITTLE_ENDIAN)
    return PresentationContextAC(context.context_id, context.result, transfer_syntax)


def _user_information(
    request: AAssociateRQ,
    policy: AcceptorPolicy,
    accepted: Collection[AcceptedContext],
    window: AsynchronousOperationsWindow | None,
) -> Iterator[UserItem]:
    """Yield our user information in the order of item types; negotiated items only if proposed."""
    yield MaximumLength(policy.maximum_length)
    yield ImplementationClassUID(policy.implementation_class_uid)
    if window is not None:
        yield window
    ours = {context.abstract_syntax: context for context in accepted}
    for uid in _roles(request):
        if uid in ours:
            yield RoleSelection(uid, scu=ours[uid].as_scp, scp=ours[uid].as_scu)
    yield ImplementationVersionName(policy.implementation_version_name)
    if policy.extended is not None:
        for item in request.find_all(ExtendedNegotiation):
            if item.sop_class_uid in ours and (info := policy.extended(item)) is not None:
                yield ExtendedNegotiation(item.sop_class_uid, info)
    identity = request.find(UserIdentityRQ)
    if policy.confirms_user_identity and identity and identity.positive_response_requested:
        yield UserIdentityAC()


def _granted_window(
    request: AAssociateRQ, max_operations: int
) -> AsynchronousOperationsWindow | None:
    proposed = request.find(AsynchronousOperationsWindow)
    if proposed is None or max_operations == _SYNCHRONOUS:
        return None
    return AsynchronousOperationsWindow(
        _smaller(proposed.max_invoked, max_operations),
        _smaller(proposed.max_performed, max_operations),
    )


def _smaller(one: int, other: int) -> int:
    """Return the smaller of two limits, of which 0 is none."""
    return min(one, other) if one and other else max(one, other)


def _peer_maximum_length(pdu: AAssociateRQ | AAssociateAC) -> int:
    item = pdu.find(MaximumLength)
    length = item.maximum_length if item else 0
    if 0 < length < PDV_HEADER_LENGTH + 2:
        raise malformed(f"a maximum length of {length} bytes leaves no room for data (PS3.8 D.1)")
    return length


def _implementation(pdu: AAssociateRQ | AAssociateAC) -> tuple[str, str]:
    uid, name = pdu.find(ImplementationClassUID), pdu.find(ImplementationVersionName)
    return uid.uid if uid else "", name.name if name else ""


def _judge(
    context: PresentationContextRQ,
    answer: PresentationContextAC | None,
    proposed_roles: Roles,
    granted_roles: Roles,
) -> AcceptedContext | RefusedContext:
    if answer is None:
        return _refused(context, ContextResult.NO_REASON, "Not answered")
    if answer.result is not ContextResult.ACCEPTANCE:
        return _refused(context, answer.result)
    if answer.transfer_syntax not in context.transfer_syntaxes:
        words = f"Accepted with transfer syntax {answer.transfer_syntax}, which was not proposed"
        return _refused(context, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, words)
    uid = context.abstract_syntax
    proposed = granted = _DEFAULT_ROLES
    if uid in proposed_roles and uid in granted_roles:
        proposed, granted = proposed_roles[uid], granted_roles[uid]
    return AcceptedContext(
        context.context_id,
        uid,
        answer.transfer_syntax,
        as_scp=proposed.scp and granted.scp,
        as_scu=proposed.scu and granted.scu,
    )
