"""What to change so that a refusal does not come again: sentences for ``dicomnode explain``."""

from __future__ import annotations

from collections.abc import Callable

from pydicom._uid_dict import UID_dictionary

from dicomnode.dimse.channel import Proposal, Refused
from dicomnode.dimse.status import Status
from dicomnode.errors import AssociationError
from dicomnode.registry import SERVICES, Registry
from dicomnode.scu.advice import on_failure
from dicomnode.services.sop_classes import service_of
from dicomnode.ul.items import ContextResult
from dicomnode.ul.negotiation import RefusedContext
from dicomnode.ul.pdu import AAssociateRQ, Rejection

_RELOAD = "then send SIGHUP to the node"


class Advisor:
    """Words advice with the registry in force, which ``registry`` returns."""

    def __init__(self, registry: Callable[[], Registry]) -> None:
        self._registry = registry
        # By the title of a destination that could not be had the last time it was wanted.
        self._unavailable: dict[str, str] = {}

    def on_rejection(self, request: AAssociateRQ, refused: Refused, peer_address: str) -> str:
        """Advise on an association that was rejected."""
        title = request.calling_ae_title
        if refused.advice:
            return refused.advice
        match refused.rejection:
            case Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED:
                called = request.called_ae_title
                return (
                    f"Correct the called AE title at {title}, or add {_quoted(called)} to"
                    " node.ae_title_aliases and restart the node."
                )
            case Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED if self._registry().lookup(title):
                return (
                    f"If {peer_address} is right, add it to addresses of {title} in ae.toml,"
                    f" {_RELOAD}."
                )
            case Rejection.CALLING_AE_TITLE_NOT_RECOGNIZED:
                return (
                    f"If {title} may call, add an [[ae]] with title = {_quoted(title)} to ae.toml,"
                    f" {_RELOAD}."
                )
            case Rejection.LOCAL_LIMIT_EXCEEDED:
                return "Raise the limit named here, or let the peer open fewer at once."
            case _:
                return ""

    def on_context(self, calling_ae_title: str, context: RefusedContext) -> str:
        """Advise on a presentation context that was refused in an accepted association."""
        uid = context.abstract_syntax
        service = service_of(uid, accept_unknown_storage=False)
        match context.result:
            case _ if is_forbidden(context):
                return _allow(calling_ae_title, str(service))
            case ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED if uid not in UID_dictionary:
                return (
                    "If it is a private storage class, storage.accept_unknown_storage = true"
                    " takes its objects."
                )
            case ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED:
                return "The node does not have this service; the peer need not propose it."
            case ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED:
                return "Let the peer propose Implicit or Explicit VR Little Endian as well."
            case ContextResult.USER_REJECTION if service == "store" and (
                lacking := self._lacking(calling_ae_title)
            ):
                return _allow(calling_ae_title, lacking)
            case ContextResult.USER_REJECTION:
                return (
                    "The peer asks for a role that the node or the services of"
                    f" {calling_ae_title} in ae.toml do not allow."
                )
            case _:
                return ""

    def _lacking(self, title: str) -> str:
        """Return the service that an AE would need for the other role on storage classes."""
        entry = self._registry().lookup(title)
        allowed = entry.services if entry is not None else SERVICES
        return next((each for each in ("store", "get") if each not in allowed), "")

    def on_status(self, service: str, status: int, destination: str = "") -> str:
        """Advise on a final status; ``destination`` is where a C-MOVE was to send."""
        match service, status:
            case "C-MOVE", Status.MOVE_DESTINATION_UNKNOWN:
                return self._on_destination(destination)
            case "C-STORE", Status.COERCION_OF_DATA_ELEMENTS:
                return (
                    "Compare the two: the .json beside the one in quarantine/ says which object is"
                    " held. storage.on_conflict says which of two is kept; a change needs a"
                    " restart of the node."
                )
            case "C-MOVE", Status.NOT_AUTHORIZED:
                return ""
            case "C-MOVE", _ if destination in self._unavailable:
                return self._unavailable[destination]
            case "C-FIND", Status.OUT_OF_RESOURCES:
                return "Narrow the query, or raise limits.max_matches and restart the node."
            case "N-ACTION", Status.DUPLICATE_TRANSACTION_UID:
                return "The requester has to make a new transaction UID for each request."
            case "N-EVENT-REPORT", Status.INVALID_ARGUMENT_VALUE:
                return (
                    "A report counts once, from the AE title that was asked: see dicomnode commit"
                    " --show with its Transaction UID, and ask again if need be."
                )
            case (("C-FIND" | "C-GET" | "C-MOVE"), Status.DOES_NOT_MATCH_SOP_CLASS):
                return "The request itself is wrong: correct it at the requester."
            case "N-SET", Status.PROCESSING_FAILURE:
                return (
                    "A step that is COMPLETED or DISCONTINUED is closed: let the modality begin a"
                    " new one. If it is not closed, see the node's log for the error."
                )
            case "N-CREATE", Status.DUPLICATE_SOP_INSTANCE:
                return "The modality has created this step before: it can go on with N-SET."
            case (("N-SET" | "N-GET"), Status.NO_SUCH_SOP_INSTANCE):
                return (
                    "The step was never created here: look for its N-CREATE, which was refused or"
                    " went to another node."
                )
            case (("N-CREATE" | "N-SET"), Status.RESOURCE_LIMITATION):
                return (
                    "limits.max_identifier_bytes says how much is taken at once; a step has 128"
                    " scheduled steps and 16 MiB at most."
                )
            case (
                ("N-CREATE" | "N-SET"),
                (
                    Status.MISSING_ATTRIBUTE
                    | Status.MISSING_ATTRIBUTE_VALUE
                    | Status.INVALID_ATTRIBUTE_VALUE
                    | Status.ATTRIBUTE_LIST_ERROR
                ),
            ):
                return (
                    "Correct at the modality what it sends: PS3.4 Table F.7.2-1 says what a step"
                    " must have."
                )
            case _, (Status.PROCESSING_FAILURE | Status.OUT_OF_RESOURCES_FOR_MATCHES):
                return "See the node's log for the error, and /readyz for what is not ready."
            case _:
                return ""

    def on_forwarding(self, destination: str) -> str:
        """Advise on a destination of forwarding that cannot be had."""
        entry = self._registry().lookup(destination)
        if entry is None or entry.host is None:
            return self._on_destination(destination)
        return self.on_unavailable(destination)

    def on_unavailable(self, called_ae_title: str) -> str:
        """Advise on an AE that could not be had the last time it was wanted, "" if it could."""
        return self._unavailable.get(called_ae_title, "")

    def requested(self, called_ae_title: str) -> None:
        """Take note that a destination could be had."""
        self._unavailable.pop(called_ae_title, None)

    def request_failed(self, proposal: Proposal, error: AssociationError) -> str:
        """Advise on an association that we asked for in vain, now and for the C-MOVE behind it."""
        title, ours = proposal.called_ae_title, proposal.calling_ae_title
        advice = on_failure(
            error,
            title=title,
            ours=ours,
            where=f"{proposal.host}:{proposal.port}",
            correct=f"correct title, host or port of {title} in ae.toml, {_RELOAD}",
        )
        self._unavailable[title] = advice
        return advice

    def _on_destination(self, title: str) -> str:
        registry = self._registry()
        reachable = [ae.title for ae in registry.entries if ae.host is not None]
        known = f"Reachable now: {', '.join(reachable)}." if reachable else "None is reachable now."
        if (entry := registry.lookup(title)) is not None:
            if entry.host is not None:
                return f"{entry.title} has been added meanwhile: try again."
            return f"Give {entry.title} in ae.toml its host and port, {_RELOAD}. {known}"
        return (
            f"Add an [[ae]] with title = {_quoted(title)}, host and port to ae.toml, {_RELOAD}."
            f" {known}"
        )


def is_forbidden(context: RefusedContext) -> bool:
    """Tell whether a context was refused because the registry does not allow its service."""
    if context.result is not ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED:
        return False
    return service_of(context.abstract_syntax, accept_unknown_storage=False) is not None


def _allow(title: str, service: str) -> str:
    return f'If {title} may use it, add "{service}" to its services in ae.toml, {_RELOAD}.'


def _quoted(title: str) -> str:
    escaped = title.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
