"""Tables of what no stored file holds: kept when the archive's tables are made anew.

Worklist items, performed procedure steps, storage commitments, what is to be forwarded, how
fetching went, what happened to each object, what was found as files were read again, and what is
being deleted. A change of these tables needs a migration; a new table needs none.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
    text,
)

from dicomnode.index.schema import RowId, Text

metadata = MetaData()


# -- Modality Worklist (PS3.4 Annex K) -------------------------------------------------------------

# An item has one scheduled procedure step; ``attributes`` is its DICOM JSON model, the columns
# after it are those of its values that searches begin with. ``called_ae_title`` is in upper case.
worklist_item = Table(
    "worklist_item",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("origin", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("called_ae_title", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("step_id", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("requested_procedure_id", Text, nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("patient_name", Text, nullable=False),
    Column("performing_physician_name", Text, nullable=False),
    Column("modality", Text, nullable=False),
    Column("start_date", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("step_uid", Text, nullable=False),
    Column("entered_at", Float(53), nullable=False),
    Column("changed_at", Float(53), nullable=False),
    Index("worklist_item_by_study", "study_instance_uid", "step_id"),
    Index("worklist_item_by_accession_number", "accession_number", "step_id"),
    Index("worklist_item_by_requested_procedure_id", "requested_procedure_id"),
    Index("worklist_item_by_patient_id", "patient_id"),
    Index("worklist_item_by_modality", "state", "modality", "start_date"),
    Index("worklist_item_by_date", "state", "start_date"),
)

# Scheduled Station AE Title (0040,0001) has several values; each comes with the item's start date.
worklist_station = Table(
    "worklist_station",
    metadata,
    Column("item", RowId, ForeignKey("worklist_item.id"), primary_key=True),
    Column("station_ae_title", Text, primary_key=True),
    Column("start_date", Text, nullable=False),
    Index("worklist_station_by_title", "station_ae_title", "start_date"),
)


# -- Storage Commitment that we ask of others (PS3.4 Annex J) --------------------------------------

# ``asked`` lists SOP Class and Instance UIDs, ``failed_list`` those with a Failure Reason, and
# ``not_mentioned_list`` those of which the report says nothing: a line for each instance.
# ``report`` is a digest of the report, "" before there is one.
commitment_request = Table(
    "commitment_request",
    metadata,
    Column("transaction_uid", Text, primary_key=True),
    Column("peer_ae_title", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("asked", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("committed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("not_mentioned", Integer, nullable=False),
    Column("failed_list", Text, nullable=False),
    Column("not_mentioned_list", Text, nullable=False),
    Column("retrieve_ae_title", Text, nullable=False),
    Column("report", Text, nullable=False),
    Column("asked_at", Float(53), nullable=False),
    Column("changed_at", Float(53), nullable=False),
    Index("commitment_request_by_time", "asked_at"),
    Index("commitment_request_by_state", "state"),
)


# -- Modality Performed Procedure Step (PS3.4 Annex F) ---------------------------------------------

# ``attributes`` is the step's DICOM JSON model; ``revision`` goes up with each change.
performed_step = Table(
    "performed_step",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("source_ae_title", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("changed_at", Float(53), nullable=False),
    Index("performed_step_by_status", "status"),
)

# The scheduled steps that a performed step is of. ``status`` is the performed step's: what becomes
# of a worklist item must not depend on how many performed steps there are.
performed_step_schedule = Table(
    "performed_step_schedule",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("performed_step", Text, ForeignKey("performed_step.sop_instance_uid"), nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("step_id", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("status", Text, nullable=False),
    Index("performed_step_schedule_by_performed_step", "performed_step"),
    Index("performed_step_schedule_by_study", "study_instance_uid", "step_id", "status"),
    Index("performed_step_schedule_by_accession_number", "accession_number", "step_id", "status"),
)


# -- Storage Commitment, as SCP (PS3.4 Annex J) ----------------------------------------------------

# ``referenced`` is what is to be kept, ``reasons`` which of it is not and why; both are packed
# (``index.commitments``) and empty once nobody asks for them any more. Times are in seconds since
# 1970 UTC.
commitment = Table(
    "commitment",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("requester", Text, nullable=False),
    Column("transaction_uid", Text, nullable=False),
    Column("called_ae_title", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("referenced", LargeBinary, nullable=False),
    Column("reasons", LargeBinary, nullable=False),
    Column("requested_at", Float(53), nullable=False),
    Column("changed_at", Float(53), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Float(53), nullable=False),
    Column("last_error", Text, nullable=False),
    UniqueConstraint("requester", "transaction_uid"),
    Index("commitment_by_size", "state", "instances"),
    Index("commitment_by_attempt", "state", "next_attempt_at", "requester"),
    Index("commitment_by_requester", "requester", "state"),
)


# -- Forwarding ------------------------------------------------------------------------------------


class OutboxState(IntEnum):
    """What an object in the outbox waits for.

    READY: its turn. PAUSED: the time ``not_before``. UNSETTLED: that its study is complete.
    SENT: that the destination commits to it. DEAD: that somebody looks into why it was refused.
    COMMITTED: that the other destinations commit to it too, as it is then deleted here.
    """

    READY = 0
    PAUSED = 1
    UNSETTLED = 2
    SENT = 3
    DEAD = 4
    COMMITTED = 5


def _only(state: OutboxState) -> dict[str, Any]:
    """Return what keeps an index to the objects in ``state``.

    Each state has its own, so that an entry costs one, and what is due is found at once however
    much else there is.
    """
    condition = text(f"state = {state.value}")
    return {"sqlite_where": condition, "postgresql_where": condition}


# An object that is to be sent to a destination; what has been sent has no row. No id is given
# twice. Times are in seconds since 1970 UTC. ``meant_for`` is the destination of the rule where
# an alternate has taken its place, else "". ``transaction_uid`` is that of the storage commitment
# of what has been sent. ``to_delete`` is set in all rows of an object that goes from the archive
# with the last of them.
outbox_object = Table(
    "outbox_object",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("destination", Text, nullable=False),
    Column("meant_for", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("not_before", Float(53), nullable=False),
    Column("queued_at", Float(53), nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("sop_instance_uid", Text, nullable=False),
    Column("to_commit", Integer, nullable=False),
    Column("transaction_uid", Text, nullable=False),
    Column("to_delete", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Index("outbox_ready", "destination", "priority", "id", **_only(OutboxState.READY)),
    Index("outbox_paused", "destination", "not_before", **_only(OutboxState.PAUSED)),
    Index(
        "outbox_unsettled",
        *("rule", "study_instance_uid", "queued_at"),
        **_only(OutboxState.UNSETTLED),
    ),
    Index("outbox_sent", "destination", "transaction_uid", **_only(OutboxState.SENT)),
    Index("outbox_dead", "destination", **_only(OutboxState.DEAD)),
    Index("outbox_committed", "destination", **_only(OutboxState.COMMITTED)),
    Index(
        "outbox_to_delete",
        "sop_instance_uid",
        sqlite_where=text("to_delete = 1"),
        postgresql_where=text("to_delete = 1"),
    ),
)

# What a row of ``outbox_object`` is of where that is no object: an N-CREATE or N-SET of a performed
# procedure step. ``attributes`` is the DICOM JSON model of its data set. Those of one step go to a
# destination one after the other, in the order of their ids.
outbox_message = Table(
    "outbox_message",
    metadata,
    Column("id", RowId, ForeignKey("outbox_object.id", ondelete="CASCADE"), primary_key=True),
    Column("sop_instance_uid", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Index("outbox_message_by_step", "sop_instance_uid", "id"),
)

# Who is told of a performed procedure step as it goes on: whoever was to get its N-CREATE.
# ``meant_for`` is the destination of the rule, ``destination`` its alternate where that has taken
# its place. What is over has no row.
outbox_step = Table(
    "outbox_step",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True),
    Column("meant_for", Text, primary_key=True),
    Column("destination", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("priority", Integer, nullable=False),
)

# A destination that could not be had: since when, how often in a row, when it is tried again.
outbox_destination = Table(
    "outbox_destination",
    metadata,
    Column("title", Text, primary_key=True),
    Column("down_since", Float(53), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("not_before", Float(53), nullable=False),
    Column("last_error", Text, nullable=False),
)


# -- Fetching --------------------------------------------------------------------------------------

# How it went with each rule, by its name. ``is_running`` is set from the beginning of a run to its
# end, so that one that was broken off is begun again. ``failures`` counts the runs in a row that
# came to no end, and ``not_before`` puts the next one off. Times are in seconds since 1970 UTC, 0
# for never. ``fetched`` and ``sent`` count objects of the last run that ended, ``missing_studies``
# and ``missing_objects`` what was still missing then.
fetch_state = Table(
    "fetch_state",
    metadata,
    Column("name", Text, primary_key=True),
    Column("is_running", Integer, nullable=False),
    Column("started_at", Float(53), nullable=False),
    Column("ended_at", Float(53), nullable=False),
    Column("succeeded_at", Float(53), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("not_before", Float(53), nullable=False),
    Column("compared_studies", Integer, nullable=False),
    Column("fetched", Integer, nullable=False),
    Column("sent", Integer, nullable=False),
    Column("missing_studies", Integer, nullable=False),
    Column("missing_objects", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
)


# -- Scrub -----------------------------------------------------------------------------------------

# A run through all files: the one that goes on, where ``ended_at`` is 0, and the last that ended.
# ``cursor`` is the last series directory that is done. Times are in seconds since 1970 UTC; objects
# and bytes were read, files of ``unknown_files`` have no row in the index.
scrub_pass = Table(
    "scrub_pass",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("began_at", Float(53), nullable=False),
    Column("ended_at", Float(53), nullable=False),
    Column("cursor", Text, nullable=False),
    Column("objects", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("unknown_files", Integer, nullable=False),
)

# A file that is not what was received, missing or unreadable (``kind``), until it is proven whole.
bad_file = Table(
    "bad_file",
    metadata,
    Column("path", Text, primary_key=True),
    Column("sop_instance_uid", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("words", Text, nullable=False),
    Column("found_at", Float(53), nullable=False),
    Index("bad_file_by_study", "study_instance_uid"),
)

# What the archive's tables said of objects before they were emptied, hex: nobody takes a damaged
# file for what was received because the index is made anew. ``file_sha256`` is "" where it was not
# known. Objects that are entered again have no row any more.
earlier_digest = Table(
    "earlier_digest",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("file_sha256", Text, nullable=False),
)


# -- Chain of custody ------------------------------------------------------------------------------

# What happened to each object (``integrity.record``). Rows are added and never changed;
# ``sequence`` has no gap, ``details`` is canonical JSON, and ``hash`` binds each row to the one
# before. The one index is by study, so that what comes in together is entered at one place of it:
# SOP Instance UIDs alone would be entered all over it.
custody = Table(
    "custody",
    metadata,
    Column("sequence", RowId, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("sop_instance_uid", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("custody_by_study", "study_instance_uid", "sop_instance_uid"),
)


# -- Deleting --------------------------------------------------------------------------------------

# A file whose object has been deleted: made in the transaction that removes the object's row, and
# gone when the file is, durably. Nothing that was answered with Success lies at ``path``.
removal = Table(
    "removal",
    metadata,
    Column("path", Text, primary_key=True),
    Column("sop_instance_uid", Text, nullable=False),
)

# What somebody ordered to be deleted. ``objects`` is the packed list (``index.deletions``), empty
# once it is through; so many of it as ``position`` says have been dealt with. ``kept`` counts those
# that stay, ``last_error`` says why. Times are in seconds since 1970 UTC, 0 for never.
deletion = Table(
    "deletion",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("what", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("asked_at", Float(53), nullable=False),
    Column("ended_at", Float(53), nullable=False),
    Column("objects", LargeBinary, nullable=False),
    Column("total", Integer, nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Column("position", Integer, nullable=False),
    Column("deleted", Integer, nullable=False),
    Column("deleted_bytes", BigInteger, nullable=False),
    Column("kept", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Index("deletion_by_end", "ended_at"),
)

# Who has committed to keep an object (PS3.4 Annex J), for retention rules. ``committed_at`` is when
# that was asked for: what was received later is another object.
committed_elsewhere = Table(
    "committed_elsewhere",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True),
    Column("peer_ae_title", Text, primary_key=True),
    Column("committed_at", Float(53), nullable=False),
)

# How it went with each retention rule, by its name. The row without a name holds, as ``ran_at``,
# the last time at which the clock could be trusted.
retention_state = Table(
    "retention_state",
    metadata,
    Column("name", Text, primary_key=True),
    Column("ran_at", Float(53), nullable=False),
    Column("deleted", BigInteger, nullable=False),
    Column("deleted_bytes", BigInteger, nullable=False),
    Column("kept", BigInteger, nullable=False),
    Column("last_error", Text, nullable=False),
)
