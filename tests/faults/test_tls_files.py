"""Certificates of a running node: replaced, broken, about to expire; and the plain port closed."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dicomnode.net import secure
from tests.authority import Authority, Issued, node_tls
from tests.conftest import RunningNode, StartNode, StartNodeProcess
from tests.peers import NodeProcess, http_get, metric, write_config, write_registry
from tests.secure_wire import SecureWire, secure_association, trusting
from tests.wire import ConnectionEnded

EXPIRY = "dicomnode_tls_certificate_expiry_timestamp_seconds"


@pytest.fixture
def ours(authority: Authority) -> Issued:
    return authority.issue("node", "localhost", days=200)


@pytest.fixture
def node(start_node_process: StartNodeProcess, authority: Authority, ours: Issued) -> NodeProcess:
    tls = node_tls(authority, client_certificates="optional") | ours.settings()
    return start_node_process(tls=tls)


def shown_by(node: NodeProcess, authority: Authority) -> str:
    """Return the serial number of the certificate that the node shows."""
    with SecureWire(node.tls_address, trusting(authority)) as peer:
        certificate = peer.socket.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


def test_sighup_takes_a_new_certificate_and_leaves_open_associations(
    node: NodeProcess, authority: Authority, ours: Issued
) -> None:
    before = shown_by(node, authority), metric(node.http_address, EXPIRY, certificate="own")
    with secure_association(node.tls_address, trusting(authority)) as old:
        authority.issue("node", "localhost", days=300, into=ours)
        assert shown_by(node, authority) == before[0]
        node.signal(signal.SIGHUP)
        node.wait_for_line("TLS certificates reloaded: CN=node, valid until")
        assert shown_by(node, authority) != before[0]
        assert metric(node.http_address, EXPIRY, certificate="own") > before[1] + 90 * 86400
        assert old.echo() == 0


@pytest.mark.parametrize("broken", ["key of another", "no PEM", "gone"])
def test_broken_files_leave_the_old_certificate_in_force(
    node: NodeProcess, authority: Authority, ours: Issued, broken: str
) -> None:
    before = shown_by(node, authority)
    match broken:
        case "key of another":
            ours.key.write_bytes(authority.issue("other").key.read_bytes())
        case "no PEM":
            ours.certificate.write_text("half of a fil")
        case _:
            ours.key.unlink()
    node.signal(signal.SIGHUP)
    node.wait_for_line("error settings, registry, users and certificates not reloaded")
    node.wait_for_line(r"error .*: tls\.(key|certificate): /")
    assert shown_by(node, authority) == before
    authority.issue("node", "localhost", into=ours)
    node.signal(signal.SIGHUP)
    node.wait_for_line("TLS certificates reloaded")
    assert shown_by(node, authority) != before


def test_a_mistake_elsewhere_leaves_the_old_certificate_in_force_too(
    node: NodeProcess, authority: Authority, ours: Issued
) -> None:
    before = shown_by(node, authority)
    authority.issue("node", "localhost", into=ours)
    write_registry(node.config.parent, [{"title": ""}])
    node.signal(signal.SIGHUP)
    node.wait_for_line("error settings, registry, users and certificates not reloaded")
    assert shown_by(node, authority) == before
    write_registry(node.config.parent, [])
    node.signal(signal.SIGHUP)
    node.wait_for_line("TLS certificates reloaded")
    assert shown_by(node, authority) != before


def test_a_ca_that_is_added_lets_its_certificates_in_after_sighup(
    node: NodeProcess, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    context = trusting(authority, other.issue("CT_9"))

    def gets_in() -> bool:
        try:
            with secure_association(node.tls_address, context) as peer:
                return peer.echo() == 0
        except (OSError, ssl.SSLError):
            return False

    assert not gets_in()
    authority.ca.write_bytes(authority.ca.read_bytes() + other.ca.read_bytes())
    node.signal(signal.SIGHUP)
    node.wait_for_line("TLS certificates reloaded")
    assert gets_in()


def test_a_binding_holds_after_sighup(node: NodeProcess, authority: Authority) -> None:
    context = trusting(authority, authority.issue("CT_1"))
    with secure_association(node.tls_address, context, "MR_1") as peer:
        assert peer.echo() == 0
    write_registry(node.config.parent, [{"title": "MR_1", "certificate": ["CN=MR_1"]}])
    node.signal(signal.SIGHUP)
    node.wait_for_line("registry reloaded")
    with SecureWire(node.tls_address, context) as peer:
        assert peer.associate(calling="MR_1")[1] == bytes([0, 1, 1, 1])
    rejected = "dicomnode_associations_rejected_total"
    reason = "Certificate not bound to the calling AE title"
    assert metric(node.http_address, rejected, reason=reason) == 1
    explained = json.loads(http_get(node.http_address, "/api/explain")[1])["explanations"]
    assert explained[0]["calling_ae_title"] == "MR_1"
    assert "it showed CN=CT_1" in explained[0]["reasons"][0]["words"]
    assert "ae.toml" in explained[0]["advice"][0]


def test_a_certificate_that_ends_soon_is_warned_of_in_log_and_status(
    start_node_process: StartNodeProcess, authority: Authority
) -> None:
    soon = authority.issue("node", "localhost", days=20.5)
    node = start_node_process(tls=node_tls(authority) | soon.settings())
    words = r"tls\.certificate \(CN=node\) expires in 20 days: .* UTC\. Put a new one in its place"
    node.wait_for_line(f"warn +{words}")
    tls = json.loads(http_get(node.http_address, "/api/status")[1])["tls"]
    assert "expires in 20 days" in tls["warnings"][0]
    assert tls["port"] == node.tls_address[1]
    assert tls["certificates"]["own"]["subject"] == "CN=node"


def test_a_node_does_not_start_with_files_that_cannot_be_used(
    authority: Authority, tmp_path: Path
) -> None:
    tls = node_tls(authority, key=str(authority.issue("other").key))
    node = NodeProcess(write_config(tmp_path / "node", tls=tls))
    try:
        assert node.wait() == 78
        assert any("private key does not belong to the certificate" in each for each in node.lines)
    finally:
        node.close()


def test_the_plain_port_can_stay_closed(start_node: StartNode, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # A port that is in use would be a mistake, were it to be opened.
        port = taken.getsockname()[1]
        node = start_node(tls=node_tls(authority, only=True), node={"port": port})
        assert node.dicom_address == node.tls_address
        context = trusting(authority, authority.issue("CT_1"))
        with secure_association(node.tls_address, context) as peer:
            assert peer.echo() == 0


def test_a_certificate_that_is_revoked_is_shut_out_with_sighup(
    start_node_process: StartNodeProcess, authority: Authority, tmp_path: Path
) -> None:
    lists = tmp_path / "crl.pem"
    lists.write_bytes(authority.revoke())
    node = start_node_process(tls=node_tls(authority) | {"revoked": str(lists)})
    context = trusting(authority, authority.issue("CT_1"))
    # A session of TLS 1.2 could be resumed, and then the certificate is not looked at.
    lost = authority.issue("CT_2")
    of_lost = trusting(authority, lost)
    of_lost.maximum_version = ssl.TLSVersion.TLSv1_2
    with secure_association(node.tls_address, of_lost) as peer:
        assert peer.echo() == 0
        session = peer.socket.session
        peer.release()
    lists.write_bytes(authority.revoke(lost))
    node.signal(signal.SIGHUP)
    node.wait_for_line("TLS certificates reloaded")
    for kept in (session, None):
        with socket.create_connection(node.tls_address, 10) as plain, pytest.raises(ssl.SSLError):
            of_lost.wrap_socket(plain, server_hostname="localhost", session=kept)
    node.wait_for_line("warn .* refused: its certificate has been revoked")
    with secure_association(node.tls_address, context) as peer:
        assert peer.echo() == 0
    # A list that has ended says nothing of anybody.
    lists.write_bytes(authority.revoke(since_days=-3, days=-1))
    node.signal(signal.SIGHUP)
    node.wait_for_line(r"warn .*the list of CN=Test CA in tls\.revoked has ended")
    assert not gets_in(node, context)
    node.wait_for_line("refused: whether its certificate has been revoked cannot be told")


def gets_in(node: NodeProcess, context: ssl.SSLContext) -> bool:
    try:
        with secure_association(node.tls_address, context) as peer:
            return peer.echo() == 0
    except (OSError, ConnectionEnded):
        return False


def resumed(node: RunningNode, context: ssl.SSLContext, session: object) -> bool | None:
    """Connect with a session of TLS 1.2; tell whether it was resumed, None if it was refused."""
    plain = socket.create_connection(node.tls_address, 10)
    wrapped = context.wrap_socket(plain, server_hostname="localhost", session=session)
    with wrapped:
        wrapped.settimeout(0.2)
        try:
            wrapped.recv(1)
        except TimeoutError:
            return wrapped.session_reused
        except OSError:
            pass
    return None


def begun(node: RunningNode, context: ssl.SSLContext) -> object:
    """Make an association over TLS 1.2 and release it; return the session."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with secure_association(node.tls_address, context) as peer:
        peer.release()
        session = peer.socket.session
        # OpenSSL forgets the session of a connection that is cut off.
        peer.socket.unwrap()
    return session


def test_a_session_is_not_resumed_once_its_certificate_has_ended(
    start_node: StartNode, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start_node(tls=node_tls(authority))
    context = trusting(authority, authority.issue("CT_1", days=3))
    session, other = begun(node, context), begun(node, context)
    assert resumed(node, context, other)
    late = time.time() + 4 * 86400
    monkeypatch.setattr(secure, "time", SimpleNamespace(time=lambda: late))
    assert resumed(node, context, session) is None
    total = "dicomnode_tls_handshakes_total"
    assert node.metric(total, side="server", result="certificate expired") == 1
