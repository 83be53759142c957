"""Whoever is refused on the TLS port is refused with its cause: log, metric and explanation."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import wire
from tests.authority import Authority, node_tls
from tests.peers import NodeProcess, eventually, http_get, metric, node_process
from tests.secure_wire import SecureWire, secure_association, trusting
from tests.wire import Wire

Attempt = Callable[["Ward"], None]


@dataclass(frozen=True, slots=True)
class Ward:
    """A node that wants certificates of ``authority``."""

    node: NodeProcess
    authority: Authority
    stranger: Authority

    def context(
        self, name: str = "CT_1", *, days: float = 365, since: float = -1
    ) -> ssl.SSLContext:
        return trusting(self.authority, self.authority.issue(name, since_days=since, days=days))

    def attempt(self, context: ssl.SSLContext) -> None:
        """Shake hands and wait for the node to end it: TLS 1.3 refuses clients afterwards."""
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            SecureWire(self.node.tls_address, context) as peer,
        ):
            peer.receive_until_closed()


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    directory = tmp_path_factory.mktemp("ward")
    authority = Authority(directory / "ca")
    stranger = Authority(directory / "stranger", "Another CA")
    tls = node_tls(authority)
    timeouts = {"tls_handshake_seconds": 1}
    with node_process(directory / "node", tls=tls, timeouts=timeouts) as node:
        yield Ward(node, authority, stranger)


def no_certificate(ward: Ward) -> None:
    ward.attempt(trusting(ward.authority))


def no_certificate_with_tls_1_2(ward: Ward) -> None:
    context = trusting(ward.authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ward.attempt(context)


def certificate_expired(ward: Ward) -> None:
    ward.attempt(ward.context(since=-20, days=-10))


def certificate_of_tomorrow(ward: Ward) -> None:
    ward.attempt(ward.context(since=5, days=10))


def unknown_ca(ward: Ward) -> None:
    ward.attempt(trusting(ward.authority, ward.stranger.issue("CT_1")))


def tls_1_1(ward: Ward) -> None:
    # A ClientHello of TLS 1.1 as it is: many libraries cannot speak it any more.
    hello = bytes.fromhex("0302") + bytes(32) + b"\0" + bytes.fromhex("0002 0035 0100")
    body = b"\1" + len(hello).to_bytes(3, "big") + hello
    with Wire(ward.node.tls_address) as peer:
        peer.send(bytes.fromhex("16 0301") + len(body).to_bytes(2, "big") + body)
        peer.receive_until_closed()


def no_forward_secrecy(ward: Ward) -> None:
    context = ward.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:AES256-SHA")
    ward.attempt(context)


def our_certificate_is_not_trusted(ward: Ward) -> None:
    ward.attempt(trusting(ward.stranger, ward.authority.issue("CT_1")))


def plain_dicom(ward: Ward) -> None:
    with Wire(ward.node.tls_address) as peer:
        peer.send(wire.associate_rq())
        assert peer.receive_until_closed()[:1] == b"\x15"  # an alert of TLS


def http(ward: Ward) -> None:
    with Wire(ward.node.tls_address) as peer:
        peer.send(b"GET / HTTP/1.1\r\n\r\n")
        peer.receive_until_closed()


def nothing_at_all(ward: Ward) -> None:
    with Wire(ward.node.tls_address) as peer:
        peer.receive_until_closed()


def half_a_handshake(ward: Ward) -> None:
    with Wire(ward.node.tls_address) as peer:
        peer.send(bytes.fromhex("16 0301 0200 01 0001fc 0303"))
        peer.receive_until_closed()


def a_handshake_left_half_way(ward: Ward) -> None:
    with Wire(ward.node.tls_address) as peer:
        peer.send(bytes.fromhex("16 0301 0200 01 0001fc 0303"))


def tls_on_the_plain_port(ward: Ward) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        SecureWire(ward.node.dicom_address, ward.context())


CASES: list[tuple[Attempt, str, str, str]] = [
    (no_certificate, "no certificate", "peer showed no certificate", "Give the peer a certificate"),
    (no_certificate_with_tls_1_2, "no certificate", "peer showed no certificate", "tls.ca"),
    (certificate_expired, "certificate expired", "certificate has expired", "Renew"),
    (certificate_of_tomorrow, "certificate not yet valid", "not yet valid", "clocks"),
    (unknown_ca, "unknown CA", "no CA that we trust", "add the CA of its certificate"),
    (tls_1_1, "wrong version", "neither TLS 1.2 nor 1.3", "Switch TLS 1.2 or 1.3 on"),
    (no_forward_secrecy, "no shared cipher suite", "no cipher suite", "ECDHE"),
    (our_certificate_is_not_trusted, "refused by peer", "does not know the CA", "our CA"),
    (plain_dicom, "not TLS", "speaks DICOM without TLS on the TLS port", "Switch TLS on"),
    (http, "not TLS", "speaks HTTP on the TLS port", "Switch TLS on"),
    (nothing_at_all, "stalled", "not finished within 1 s", "hangs"),
    (half_a_handshake, "stalled", "timeouts.tls_handshake_seconds", "firewall"),
    (a_handshake_left_half_way, "closed by peer", "within the TLS handshake", "log of the peer"),
    (tls_on_the_plain_port, "TLS on the plain port", "TLS on the plain port", "tls.port"),
]


@pytest.mark.parametrize(("attempt", "result", "words", "advice"), CASES)
def test_a_refusal_tells_its_cause_and_what_to_do(
    ward: Ward, attempt: Attempt, result: str, words: str, advice: str
) -> None:
    node = ward.node

    def count() -> float:
        name = "dicomnode_tls_handshakes_total"
        return metric(node.http_address, name, side="server", result=result)

    before, seen = count(), len(node.lines)
    attempt(ward)
    eventually(lambda: count() == before + 1, f"a count of {result}")

    def told() -> list[str]:
        return [line for line in node.lines[seen:] if re.search(f" warn .*{words}", line)]

    eventually(told, "a log line")
    (line,) = told()
    assert re.search(advice, line)
    explained = json.loads(http_get(node.http_address, "/api/explain")[1])["explanations"]
    assert explained[0]["kind"] == "connection"
    assert words in explained[0]["reasons"][0]["words"]
    assert advice in explained[0]["advice"][0]
    with secure_association(node.tls_address, ward.context()) as good:
        assert good.echo() == 0


def test_a_check_that_connects_and_closes_leaves_no_line(ward: Ward) -> None:
    seen = len(ward.node.lines)
    Wire(ward.node.tls_address).socket.close()
    with secure_association(ward.node.tls_address, ward.context(), "GOOD") as good:
        assert good.echo() == 0
    ward.node.wait_for_line("GOOD -> DICOMNODE .* C-ECHO")
    # Associations of other tests may end meanwhile.
    told = [line for line in ward.node.lines[seen:] if " warn " in line]
    assert not [line for line in told if " -> DICOMNODE #" not in line]


def test_the_ways_in_that_are_left_work_with_either_version(ward: Ward, tmp_path: Path) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ward.context()
        context.minimum_version = context.maximum_version = version
        with secure_association(ward.node.tls_address, context) as good:
            assert good.echo() == 0
            assert good.socket.version() == version.name.replace("v1_", "v1.")
    with Wire(ward.node.dicom_address) as plain:
        assert plain.associate()[0] == wire.ASSOCIATE_AC
