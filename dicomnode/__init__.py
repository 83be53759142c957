"""A DICOM network node: an asyncio SCP and SCU daemon and its library."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Registered under a UUID-derived root (PS3.5 §B.2); it names this implementation to peers.
IMPLEMENTATION_CLASS_UID = "2.25.226694366774972257019218741500244231455"
IMPLEMENTATION_VERSION_NAME = "DICOMNODE_0.1"

if TYPE_CHECKING:
    from dicomnode.client import TLS as TLS
    from dicomnode.client import open_association as open_association


def __getattr__(name: str) -> object:
    # Late, so that importing any part of dicomnode costs no more than that part.
    if name in ("open_association", "TLS"):
        from dicomnode import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
