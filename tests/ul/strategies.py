"""Generated PDUs: everything that the standard lets one say."""

from __future__ import annotations

from hypothesis import strategies as st

from dicomnode.ul import items
from dicomnode.ul.pdu import (
    AAbort,
    AAssociateAC,
    AAssociateRJ,
    AAssociateRQ,
    AReleaseRP,
    AReleaseRQ,
    PDataTF,
    PresentationDataValue,
)

components = st.one_of(st.integers(0, 9), st.integers(10, 10**9)).map(str)
uids = st.lists(components, min_size=2, max_size=6).map(".".join)
titles = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\"),
    min_size=1,
    max_size=16,
)
context_ids = st.integers(0, 127).map(lambda n: 2 * n + 1)
uint16 = st.integers(0, 0xFFFF)
some_bytes = st.binary(min_size=1, max_size=40)

user_items_both = st.one_of(
    st.builds(items.MaximumLength, st.integers(0, 0xFFFFFFFF)),
    st.builds(items.ImplementationClassUID, uids),
    st.builds(items.ImplementationVersionName, titles),
    st.builds(items.AsynchronousOperationsWindow, uint16, uint16),
    st.builds(items.RoleSelection, uids, st.booleans(), st.booleans()),
    st.builds(items.ExtendedNegotiation, uids, some_bytes),
)
user_identities = st.one_of(
    st.builds(items.UserIdentityRQ, st.sampled_from([1, 3, 4, 5]), st.booleans(), some_bytes),
    st.builds(items.UserIdentityRQ, st.just(2), st.booleans(), some_bytes, some_bytes),
)
user_items_rq = st.one_of(
    user_items_both,
    user_identities,
    st.builds(items.CommonExtendedNegotiation, uids, uids, st.lists(uids, max_size=3).map(tuple)),
)
user_items_ac = st.one_of(user_items_both, st.builds(items.UserIdentityAC, some_bytes))


def tuples(elements, **limits):
    """Generate tuples of any length within ``limits``."""
    return st.lists(elements, **limits).map(tuple)


requests = st.builds(
    AAssociateRQ,
    titles,
    titles,
    tuples(
        st.builds(
            items.PresentationContextRQ, context_ids, uids, tuples(uids, min_size=1, max_size=4)
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda context: context.context_id,
    ),
    tuples(user_items_rq, min_size=1, max_size=6),
)
responses = st.builds(
    AAssociateAC,
    titles,
    titles,
    tuples(
        st.builds(
            items.PresentationContextAC, context_ids, st.sampled_from(items.ContextResult), uids
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda context: context.context_id,
    ),
    tuples(user_items_ac, min_size=1, max_size=6),
)
data_values = st.builds(
    PresentationDataValue,
    context_ids,
    st.booleans(),
    st.booleans(),
    st.binary(max_size=60),
)
data_transfers = st.builds(PDataTF, tuples(data_values, min_size=1, max_size=4))
rejections = st.builds(
    AAssociateRJ, st.sampled_from([1, 2]), st.sampled_from([1, 2, 3]), st.integers(0, 7)
)
aborts = st.builds(AAbort, st.sampled_from([0, 2]), st.sampled_from([0, 1, 2, 4, 5, 6]))
pdus = st.one_of(
    requests,
    responses,
    rejections,
    data_transfers,
    st.builds(AReleaseRQ),
    st.builds(AReleaseRP),
    aborts,
)
