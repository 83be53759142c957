"""What to try when an association was not had: sentences that go with its error."""

from __future__ import annotations

import socket

from dicomnode.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationTimedOut,
    ConnectionFailed,
    TLSFailed,
)


def on_failure(error: AssociationError, *, title: str, ours: str, where: str, correct: str) -> str:
    """Advise on an association that ``ours`` asked ``title`` at ``where`` for in vain.

    ``correct`` says how a wrong title, host or port is corrected, as the end of a sentence.
    """
    match error:
        case TLSFailed():
            return error.advice
        case AssociationRejected(source=1, reason=3):
            return f"Register {ours} at {title}, with what it may do there."
        case AssociationRejected(source=1, reason=7):
            return f"What listens at {where} does not call itself {title}: {correct}."
        case AssociationRejected(result=2):
            return f"{title} has too much to do just now: try again later."
        case ConnectionFailed(__cause__=socket.gaierror() | UnicodeError()):
            return f"No address is known by that name: see how it is spelled; {correct}."
        case ConnectionFailed():
            return (
                f"See whether {title} runs and listens at {where}; if that is not its address,"
                f" {correct}."
            )
        case AssociationTimedOut():
            return f"See whether {title} at {where} hangs, or a firewall is in the way."
        case AssociationAborted() if "TLS" in str(error):
            return f"Call {title} over TLS, or ask for its port without TLS."
        case AssociationAborted() if "peer speaks" in str(error):
            return f"What listens at {where} is no DICOM node: {correct}."
        case _:
            return f"See what the log of {title} says of the association."
