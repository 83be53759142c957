"""pynetdicom's PDU codec as an independent opinion: its PDU objects said in our types."""

from __future__ import annotations

from typing import Any

from pynetdicom import pdu as theirs
from pynetdicom import pdu_items as their_items

from dicomnode.ul import items as ours
from dicomnode.ul import pdu

CLASSES = {
    1: theirs.A_ASSOCIATE_RQ,
    2: theirs.A_ASSOCIATE_AC,
    3: theirs.A_ASSOCIATE_RJ,
    4: theirs.P_DATA_TF,
    5: theirs.A_RELEASE_RQ,
    6: theirs.A_RELEASE_RP,
    7: theirs.A_ABORT_RQ,
}


def decode(data: bytes) -> Any:
    """Decode with pynetdicom."""
    their_pdu = CLASSES[data[0]]()
    their_pdu.decode(data)
    return their_pdu


def translate(their_pdu: Any) -> pdu.PDU:
    """Say what pynetdicom decoded in our types."""
    match their_pdu:
        case theirs.A_ASSOCIATE_RQ():
            contexts = tuple(
                ours.PresentationContextRQ(
                    c.presentation_context_id,
                    str(c.abstract_syntax or ""),
                    tuple(map(str, c.transfer_syntax)),
                )
                for c in their_pdu.presentation_context
            )
            return pdu.AAssociateRQ(*_titles(their_pdu), contexts, *_rest(their_pdu))
        case theirs.A_ASSOCIATE_AC():
            answers = tuple(
                ours.PresentationContextAC(
                    c.presentation_context_id,
                    ours.ContextResult(c.result_reason),
                    str(c.transfer_syntax or ""),
                )
                for c in their_pdu.presentation_context
            )
            return pdu.AAssociateAC(*_echoes(their_pdu), answers, *_rest(their_pdu))
        case theirs.A_ASSOCIATE_RJ():
            return pdu.AAssociateRJ(their_pdu.result, their_pdu.source, their_pdu.reason_diagnostic)
        case theirs.P_DATA_TF():
            return pdu.PDataTF(
                tuple(
                    pdu.PresentationDataValue(
                        v.presentation_context_id,
                        bool(v.presentation_data_value[0] & 1),
                        bool(v.presentation_data_value[0] & 2),
                        v.presentation_data_value[1:],
                    )
                    for v in their_pdu.presentation_data_value_items
                )
            )
        case theirs.A_RELEASE_RQ():
            return pdu.AReleaseRQ()
        case theirs.A_RELEASE_RP():
            return pdu.AReleaseRP()
        case theirs.A_ABORT_RQ():
            return pdu.AAbort(their_pdu.source, their_pdu.reason_diagnostic)
    raise AssertionError(their_pdu)


def _titles(their_pdu: Any) -> tuple[str, str]:
    return their_pdu.called_ae_title.strip(), their_pdu.calling_ae_title.strip()


def _echoes(their_pdu: Any) -> tuple[str, str]:
    return their_pdu.reserved_aet.strip(), their_pdu.reserved_aec.strip()


def _rest(their_pdu: Any) -> tuple[tuple[ours.UserItem, ...], str, int]:
    user_information = tuple(map(_item, their_pdu.user_information.user_data))
    name = str(their_pdu.application_context_name).strip()
    return user_information, name, their_pdu.protocol_version


def _item(item: Any) -> ours.UserItem:
    match item:
        case their_items.MaximumLengthSubItem():
            return ours.MaximumLength(item.maximum_length_received)
        case their_items.ImplementationClassUIDSubItem():
            return ours.ImplementationClassUID(str(item.implementation_class_uid))
        case their_items.ImplementationVersionNameSubItem():
            return ours.ImplementationVersionName(str(item.implementation_version_name))
        case their_items.AsynchronousOperationsWindowSubItem():
            return ours.AsynchronousOperationsWindow(
                item.maximum_number_operations_invoked, item.maximum_number_operations_performed
            )
        case their_items.SCP_SCU_RoleSelectionSubItem():
            return ours.RoleSelection(
                str(item.sop_class_uid), bool(item.scu_role), bool(item.scp_role)
            )
        case their_items.SOPClassExtendedNegotiationSubItem():
            return ours.ExtendedNegotiation(
                str(item.sop_class_uid), item.service_class_application_information
            )
        case their_items.SOPClassCommonExtendedNegotiationSubItem():
            return ours.CommonExtendedNegotiation(
                str(item.sop_class_uid),
                str(item.service_class_uid),
                tuple(map(str, item.related_general_sop_class_identification)),
            )
        case their_items.UserIdentitySubItemRQ():
            return ours.UserIdentityRQ(
                item.user_identity_type,
                bool(item.positive_response_requested),
                item.primary_field,
                item.secondary_field,
            )
        case their_items.UserIdentitySubItemAC():
            return ours.UserIdentityAC(item.server_response)
    raise AssertionError(item)
