"""What the journal says of TLS: handshakes, refusals, and associations over it."""

from __future__ import annotations

import pytest

from dicomnode.certificates import Secured, certificate_of
from dicomnode.dimse.channel import Proposal
from dicomnode.errors import TLSFailed
from dicomnode.tls.faults import Cause, TLSFault
from dicomnode.ul.framing import TLS_ON_PLAIN_PORT
from tests.services.journaling import Fixture, fake_channel

HANDSHAKES = "dicomnode_tls_handshakes_total"
SHOWN = certificate_of(b"x", {"subject": ((("commonName", "CT_1"),),)})


@pytest.fixture
def on() -> Fixture:
    return Fixture()


def test_the_line_of_an_association_says_who_it_is_with(on: Fixture) -> None:
    channel = fake_channel(3, "WS_1", "DICOMNODE", "10.0.0.7")
    channel.secured = Secured("TLSv1.3", "TLS_AES_256_GCM_SHA384", SHOWN)
    on.journal.accepted(channel)
    assert "accepted from 10.0.0.7 over TLSv1.3 as CN=CT_1, 5 of 5" in on.lines()[0]


def test_a_refusal_is_counted_logged_and_explained_with_what_to_do(on: Fixture) -> None:
    on.journal.tls_refused("10.0.0.7", TLSFault(Cause.EXPIRED, "it has expired", "Renew it."))
    assert on.value(HANDSHAKES, side="server", result="certificate expired") == 1
    assert on.lines() == [
        'warn  TLS connection from 10.0.0.7 refused: it has expired advice="Renew it."'
    ]
    (told,) = on.explained()
    assert (told["kind"], told["peer_address"]) == ("connection", "10.0.0.7")
    assert told["advice"] == ["Renew it."]


def test_thousands_of_dropped_connections_are_all_counted_and_told_in_one_line(on: Fixture) -> None:
    for _ in range(5000):
        on.journal.tls_refused("10.0.0.7", TLSFault(Cause.TOO_MANY, "32 are under way", "Look."))
    assert on.value(HANDSHAKES, side="server", result="too many handshakes") == 5000
    # One a second, however slow the machine is.
    assert len(on.lines()) < 20
    (told,) = on.explained()
    assert told["count"] == 5000


def test_whoever_knocks_a_thousand_times_does_not_fill_the_log(on: Fixture) -> None:
    for _ in range(1000):
        on.journal.tls_refused("10.0.0.7", TLSFault(Cause.NOT_TLS, "no TLS", "Switch it on."))
    on.journal.tls_refused("10.0.0.8", TLSFault(Cause.NOT_TLS, "no TLS", "Switch it on."))
    assert on.value(HANDSHAKES, side="server", result="not TLS") == 1001
    assert len([line for line in on.lines() if "10.0.0.7" in line]) == 60
    assert len([line for line in on.lines() if "10.0.0.8" in line]) == 1


def test_a_peer_that_speaks_tls_on_the_plain_port_is_told_where_to_call(on: Fixture) -> None:
    on.journal.failed("10.0.0.7", "protocol error", TLS_ON_PLAIN_PORT)
    assert on.value(HANDSHAKES, side="server", result="TLS on the plain port") == 1
    assert "tls.port" in on.lines()[0]
    assert "tls.port" in on.explained()[0]["advice"][0]


def test_a_failed_call_over_tls_is_told_with_the_title_that_was_called(on: Fixture) -> None:
    proposal = Proposal(
        host="10.0.0.9",
        port=2762,
        called_ae_title="ARCHIVE",
        calling_ae_title="DICOMNODE",
        contexts=(),
    )
    on.journal.request_failed(proposal, TLSFailed("no CA", Cause.UNKNOWN_CA, "Add it to tls.ca."))
    assert on.value(HANDSHAKES, side="client", result="unknown CA") == 1
    (told,) = on.explained()
    assert (told["calling_ae_title"], told["asked"]) == ("ARCHIVE", "connection from this node")
    assert told["advice"] == ["Add it to tls.ca."]
    channel = fake_channel(4, "DICOMNODE", "ARCHIVE", "10.0.0.9")
    channel.secured = Secured("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384")
    on.journal.requested(channel)
    assert on.value(HANDSHAKES, side="client", result="done") == 1
    assert "accepted by 10.0.0.9 over TLSv1.2, 5 of 5" in on.lines()[1]
