"""Every error of dicomnode, and the answer that each gives on the wire.

The tree::

    DicomnodeError
    ├── ConfigurationError          a settings or registry file is wrong; the node does not start
    ├── ProtocolError
    │   ├── LocalProtocolError      our own side asked for what the association's state forbids
    │   └── RemoteProtocolError     the peer broke PS3.7 or PS3.8; answered with A-ABORT
    ├── AssociationError
    │   ├── ConnectionFailed        the peer's host cannot be reached or refuses the connection
    │   │   └── TLSFailed           there is a connection, but no TLS on it that we may use
    │   ├── AssociationRejected     the peer (or we) answered with A-ASSOCIATE-RJ
    │   ├── AssociationAborted      A-ABORT, A-P-ABORT or a lost connection
    │   └── AssociationTimedOut     a deadline ran out
    ├── StatusError                 an operation ends with a DIMSE status other than success
    │   ├── OutOfResources          A700H
    │   ├── DataSetMismatch         A900H
    │   └── CannotUnderstand        C000H
    ├── ContextNotAccepted          the peer accepted no presentation context for an operation
    ├── Unreadable                  a data set, of a file or of a peer, cannot be read
    ├── StoreLocked                 another node uses the storage directory
    ├── ConversionFailed            a stored object cannot be had in another transfer syntax
    ├── CannotAsk                   another node cannot be asked as things are; says what to change
    ├── NotDeidentified             an object cannot be de-identified; the message says why
    ├── KeyUnusable                 what should be the key of a project is none
    ├── TraceRefused                associations cannot be recorded as things are
    ├── UnreadableAttributes        what should be a data set, or its JSON, is none
    ├── ExportFailed                nothing was exported; the message says why
    ├── UnusableKey                 a key or certificate cannot be used to sign, or to verify
    ├── TokenRefused                a user's JSON Web Token is not accepted; the message says why
    └── CatalogError                the index failed; whatever was asked of it did not happen

Errors become bytes in two places only: the association façade (``ul.association``) turns a
RemoteProtocolError into A-ABORT, and the dispatcher (``services.dispatch``) turns a StatusError
into a response.
"""

from __future__ import annotations


class DicomnodeError(Exception):
    """The root of the tree."""


class ConfigurationError(DicomnodeError):
    """A settings or registry file is wrong; ``problems`` has one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ProtocolError(DicomnodeError):
    """A rule of PS3.7 or PS3.8 was broken."""


class LocalProtocolError(ProtocolError):
    """Our own side asked for something that the association's state forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule; carries the A-ABORT that answers it (PS3.8 §9.3.8).

    ``rule`` is one sentence for the log: what was received and which rule it breaks.
    ``source`` is 0 (service-user) or 2 (service-provider); ``reason`` a code of Table 9-26.
    """

    def __init__(self, rule: str, *, source: int = 2, reason: int = 0) -> None:
        super().__init__(rule)
        self.rule = rule
        self.source = source
        self.reason = reason


class AssociationError(DicomnodeError):
    """An association was not made, or ended early."""


class ConnectionFailed(AssociationError):
    """There is no connection to the peer: it was not found, not reached, or refused it."""


class TLSFailed(ConnectionFailed):
    """TLS with the peer failed; ``cause`` is a word for it, ``advice`` says what to do."""

    def __init__(self, message: str, cause: str, advice: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.advice = advice


class AssociationRejected(AssociationError):
    """``peer`` answered A-ASSOCIATE-RJ with the codes of PS3.8 Table 9-21."""

    def __init__(self, peer: str, result: int, source: int, reason: int, words: str) -> None:
        super().__init__(f"{peer} rejected the association ({result}/{source}/{reason}): {words}")
        self.result = result
        self.source = source
        self.reason = reason

    @property
    def is_permanent(self) -> bool:
        """Whether asking again will not help; otherwise the peer has too much to do just now."""
        return self.result == 1


class AssociationAborted(AssociationError):
    """A-ABORT, A-P-ABORT, or the connection was lost."""


class AssociationTimedOut(AssociationError):
    """A deadline of the association ran out."""


class StatusError(DicomnodeError):
    """An operation ends with ``status``; ``comment`` goes into Error Comment (0000,0902).

    ``comment`` is for the peer: at most 64 characters (LO) and free of patient data.
    ``offending`` holds tags for Offending Element (0000,0901). Of N- services alone,
    ``identifiers`` holds tags for Attribute Identifier List (0000,1005), and ``error_id`` is
    Error ID (0000,0903). Where a setting forbids the operation, ``rule`` names it and ``advice``
    says what to change.
    """

    status: int = 0x0110

    def __init__(
        self,
        comment: str,
        *,
        status: int | None = None,
        offending: tuple[int, ...] = (),
        identifiers: tuple[int, ...] = (),
        error_id: int | None = None,
        rule: str = "",
        advice: str = "",
    ) -> None:
        super().__init__(comment)
        if status is not None:
            self.status = status
        self.comment = comment
        self.offending = offending
        self.identifiers = identifiers
        self.error_id = error_id
        self.rule = rule
        self.advice = advice


class OutOfResources(StatusError):
    """A700H: Refused: Out of Resources (PS3.4 Table B.2-1)."""

    status = 0xA700


class DataSetMismatch(StatusError):
    """A900H: Error: Data Set does not match SOP Class (PS3.4 Table B.2-1)."""

    status = 0xA900


class CannotUnderstand(StatusError):
    """C000H: Error: Cannot understand (PS3.4 Table B.2-1)."""

    status = 0xC000


class ContextNotAccepted(DicomnodeError):
    """The peer accepted no presentation context for an operation; nothing was sent."""


class Unreadable(DicomnodeError):
    """A data set, of a file or of a peer, is missing, or is not what it should be."""


class StoreLocked(DicomnodeError):
    """Another node holds the lock of the storage directory."""


class CatalogError(DicomnodeError):
    """The index failed; what was asked of it did not happen."""


class CannotAsk(DicomnodeError):
    """Another node cannot be asked for something as things are; the message says what to change."""


class TokenRefused(DicomnodeError):
    """A JSON Web Token is not accepted; the message says why, and quotes nothing of it."""


class ConversionFailed(DicomnodeError):
    """A stored object cannot be had in another transfer syntax; the message says why.

    ``advice`` is a sentence that says what to change, where something can be.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


class UnreadableAttributes(DicomnodeError):
    """What should be a data set, or the DICOM JSON model of one, is none; a sentence says why.

    The sentence names attributes, never their values.
    """


class ExportFailed(DicomnodeError):
    """Nothing was exported, and nothing of it is left; the message says why."""


class UnusableKey(DicomnodeError):
    """A key or a certificate cannot be used as it was to be; the message names file and reason."""


class TraceRefused(DicomnodeError):
    """Associations cannot be recorded as things are; the message says why."""


class NotDeidentified(DicomnodeError):
    """An object cannot be made safe to hand out; the message says why, without patient data.

    ``advice`` is a sentence that says what to do, where something can be done.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


class KeyUnusable(DicomnodeError):
    """A project cannot be made, or its key not be read; the message says why."""
