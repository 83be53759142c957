"""The associations that are open now, as JSON values: for ``/api/associations``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from dicomnode.dimse.channel import Channel, Progress

# Of one association; a peer may have many more under way.
_MOST_OPERATIONS: Final = 8


@dataclass(slots=True)
class AssociationRecord:
    """What is known of an association while it lasts; ``since`` is monotonic, in seconds."""

    channel: Channel
    since: float
    operations: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


def shown(record: AssociationRecord, *, requested: bool) -> dict[str, Any]:
    """Return one association with what is under way on it; nothing about patients."""
    channel, now = record.channel, time.monotonic()
    traffic, under_way = channel.traffic, channel.progress()
    return {
        "number": channel.number,
        "direction": "outgoing" if requested else "incoming",
        "calling_ae_title": channel.calling_ae_title,
        "called_ae_title": channel.called_ae_title,
        "peer_address": channel.peer_address,
        "seconds": now - record.since,
        "operations": record.operations,
        "received_bytes": traffic.received_bytes,
        "sent_bytes": traffic.sent_bytes,
        "received_bytes_per_second": round(traffic.received_rate),
        "sent_bytes_per_second": round(traffic.sent_rate),
        "under_way": [_operation(each, now) for each in under_way[:_MOST_OPERATIONS]],
        "under_way_count": len(under_way),
    }


def _operation(progress: Progress, now: float) -> dict[str, Any]:
    return {
        "service": progress.service,
        "message_id": progress.message_id,
        "asked_by": "peer" if progress.by_peer else "node",
        "seconds": now - progress.started,
        "progress": dict(progress.figures),
    }
