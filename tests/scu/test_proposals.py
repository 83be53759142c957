"""Which contexts a C-MOVE proposes, and which context an object is sent on."""

from __future__ import annotations

import pytest

from dicomnode.scu.contexts import MAX_CONTEXTS
from dicomnode.scu.names import named
from dicomnode.scu.proposals import proposals
from dicomnode.scu.sending_contexts import Choice, NoContext, SendingContexts
from dicomnode.ul.negotiation import AcceptedContext

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
JPEG_2000, MPEG_2 = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.100"


def proposed(
    *kinds: tuple[str, str], preference: tuple[str, ...] = (), receives: tuple[str, ...] = ()
) -> list[tuple[str, ...]]:
    ((_, contexts),) = proposals(kinds, preference, receives)
    return [(context.abstract_syntax, *context.transfer_syntaxes) for context in contexts]


def test_each_stored_syntax_has_a_context_and_the_usual_ones_stand_beside() -> None:
    assert proposed((CT, EXPLICIT), (CT, JPEG_2000), (MR, BIG)) == [
        (CT, EXPLICIT),
        (CT, JPEG_2000),
        (CT, IMPLICIT),
        (MR, BIG),
        (MR, EXPLICIT, IMPLICIT),
    ]


def test_where_all_usual_syntaxes_are_stored_there_is_none_beside() -> None:
    assert proposed((CT, EXPLICIT), (CT, IMPLICIT)) == [(CT, EXPLICIT), (CT, IMPLICIT)]


def test_what_cannot_be_converted_has_no_context_beside() -> None:
    assert proposed((CT, MPEG_2)) == [(CT, MPEG_2)]


def test_the_destinations_preference_orders_what_can_be_converted_to() -> None:
    assert proposed((CT, JPEG_2000), preference=(BIG, MPEG_2, IMPLICIT)) == [
        (CT, JPEG_2000),
        (CT, BIG, IMPLICIT, EXPLICIT),
    ]


@pytest.mark.parametrize(
    ("stored", "receives", "contexts"),
    [
        (JPEG_2000, (IMPLICIT,), [(CT, IMPLICIT)]),
        (IMPLICIT, (IMPLICIT,), [(CT, IMPLICIT)]),
        (JPEG_2000, (JPEG_2000, BIG), [(CT, JPEG_2000), (CT, BIG)]),
        (MPEG_2, (IMPLICIT, EXPLICIT), [(CT, IMPLICIT, EXPLICIT)]),
    ],
)
def test_nothing_is_proposed_but_what_the_destination_receives(
    stored: str, receives: tuple[str, ...], contexts: list[tuple[str, ...]]
) -> None:
    assert proposed((CT, stored), preference=(EXPLICIT,), receives=receives) == contexts


def test_more_syntaxes_of_one_class_than_one_association_takes_are_divided() -> None:
    kinds = [(CT, f"1.2.3.{number}") for number in range(300)]
    made = proposals(kinds)
    assert [len(contexts) for _, contexts in made] == [127, 127, 46]
    assert set().union(*(served for served, _ in made)) == set(kinds)


def test_no_association_has_more_contexts_than_there_are_ids() -> None:
    made = proposals([(f"1.2.3.{number}", EXPLICIT) for number in range(500)])
    assert all(len(contexts) <= MAX_CONTEXTS for _, contexts in made)
    assert all(contexts[-1].context_id <= 255 for _, contexts in made)


def sending(*accepted: tuple[int, str, str], preference: tuple[str, ...] = ()) -> SendingContexts:
    contexts = [
        AcceptedContext(number, uid, syntax, False, True) for number, uid, syntax in accepted
    ]
    return SendingContexts(contexts, "ARCHIVE", "Let ARCHIVE accept {}.".format, preference)


def test_the_stored_syntax_is_chosen_before_any_other() -> None:
    contexts = sending((1, CT, IMPLICIT), (3, CT, EXPLICIT), (5, CT, JPEG_2000))
    assert contexts.choose(CT, JPEG_2000) == Choice(5, JPEG_2000)
    assert contexts.choose(CT, BIG) == Choice(3, EXPLICIT)


def test_the_preference_decides_among_those_to_convert_to() -> None:
    contexts = sending((1, CT, IMPLICIT), (3, CT, EXPLICIT), preference=(IMPLICIT,))
    assert contexts.choose(CT, JPEG_2000) == Choice(1, IMPLICIT)


def test_the_reason_names_what_was_refused_and_the_advice_what_to_accept() -> None:
    contexts = sending((1, CT, JPEG_2000))
    assert contexts.choose(MR, EXPLICIT) == NoContext(
        "MR Image Storage: no presentation context accepted by ARCHIVE",
        advice="Let ARCHIVE accept MR Image Storage.",
    )
    assert contexts.choose(CT, MPEG_2) == NoContext(
        "CT Image Storage in MPEG2 Main Profile / Main Level: ARCHIVE takes only"
        " JPEG 2000 Image Compression (Lossless Only), to which it cannot be converted",
        advice="Let ARCHIVE accept CT Image Storage in MPEG2 Main Profile / Main Level.",
    )
    assert contexts.choose("1.2.3", EXPLICIT) == NoContext(
        "1.2.3: no presentation context accepted by ARCHIVE", advice="Let ARCHIVE accept 1.2.3."
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ("no UID", "", "1.2.3.x", "1" * 80))
def test_what_is_no_uid_is_named_by_itself_without_a_warning(value: str) -> None:
    assert named(value) == value
