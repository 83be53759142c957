"""Syslog receivers by UDP, TCP and TLS: framing, loss of the connection, and whom is trusted."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.audit.syslog import StreamReceiver, Tls, UdpReceiver, syslog_message
from tests.audit.reading import SYSLOG
from tests.audit.receivers import Receiver, make_certificate, receiver, server_context

XML = "<AuditMessage a='ö€'/>".encode()


def messages(count: int, start: int = 0) -> list[bytes]:
    return [
        syslog_message(b"<AuditMessage n='%d'/>" % number, 0.5, "pacs.example", 4711)
        for number in range(start, start + count)
    ]


def test_a_message_is_as_rfc_5424_and_the_standard_want_it() -> None:
    found = SYSLOG.fullmatch(syslog_message(XML, 1795257600.25, "pacs.example", 4711))
    assert found is not None
    assert found["at"] == b"2026-11-21T10:40:00.250Z"
    assert (found["host"], found["process"]) == (b"pacs.example", b"4711")
    assert found["xml"] == XML


@pytest.mark.parametrize(("name", "told"), [("a b\n", b"ab"), ("", b"-"), ("ü" * 300, b"-")])
def test_a_host_name_that_the_header_cannot_hold_is_mended(name: str, told: bytes) -> None:
    found = SYSLOG.fullmatch(syslog_message(XML, 0.0, name, 1))
    assert found is not None
    assert found["host"] == told


@pytest.fixture
def stream() -> Iterator[Receiver]:
    with receiver("tcp") as made:
        yield made


def test_datagrams_hold_one_message_each() -> None:
    with receiver("udp") as taking:
        target = UdpReceiver("127.0.0.1", taking.port)
        assert target.deliver(messages(20)) == 0
        assert taking.wait_for(20) == messages(20)
        target.close()


def test_a_udp_port_that_nobody_listens_at_is_noticed() -> None:
    with receiver("udp") as taking:
        target = UdpReceiver("127.0.0.1", taking.port)
        target.deliver(messages(1))
        taking.stop()
        with pytest.raises(ConnectionRefusedError):
            target.deliver(messages(1, 1))
        taking.start()
        target.deliver(messages(1, 1))
        assert taking.wait_for(2) == messages(2)
        target.close()


def test_what_no_datagram_can_hold_is_counted_and_the_rest_is_sent() -> None:
    with receiver("udp") as taking:
        target = UdpReceiver("127.0.0.1", taking.port)
        first, second = messages(2)
        assert target.deliver([first, b"x" * 70_000, second]) == 1
        assert taking.wait_for(2) == [first, second]
        target.close()


def test_octets_are_counted_on_a_stream(stream: Receiver) -> None:
    target = StreamReceiver("127.0.0.1", stream.port)
    target.deliver([*messages(200), b"with a\nline end 5 x"])
    assert stream.wait_for(201)[-1] == b"with a\nline end 5 x"
    target.close()


def test_a_receiver_that_restarted_gets_the_next_message_on_a_new_connection(
    stream: Receiver,
) -> None:
    target = StreamReceiver("127.0.0.1", stream.port)
    target.deliver(messages(1))
    stream.wait_for(1)
    stream.stop()
    stream.start()
    target.deliver(messages(1, 1))
    assert stream.wait_for(2) == messages(2)
    target.close()


def test_a_receiver_that_is_down_is_an_os_error(stream: Receiver) -> None:
    stream.stop()
    with pytest.raises(ConnectionRefusedError):
        StreamReceiver("127.0.0.1", stream.port).deliver(messages(1))


def test_a_receiver_that_closes_instead_of_reading_has_not_taken_it() -> None:
    """What its kernel had taken may be lost: it is sent again."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def close_at_once() -> None:
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(1, socket.MSG_PEEK)

        closing = threading.Thread(target=close_at_once)
        closing.start()
        target = StreamReceiver("127.0.0.1", listening.getsockname()[1])
        with pytest.raises(OSError):
            # More than both sockets hold: it cannot be acknowledged before it closes.
            target.deliver([b"x" * 64 * 1024**2])
        closing.join()


@pytest.mark.interop("openssl")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_messages_go_over_tls_with_both_sides_known(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    theirs, ours = make_certificate(tmp_path, "theirs"), make_certificate(tmp_path, "ours")
    context = server_context(theirs, trusted=ours)
    context.minimum_version = context.maximum_version = version
    with receiver("tls", context) as taking:
        target = StreamReceiver("127.0.0.1", taking.port, Tls(theirs.file, ours.file, ours.key))
        target.deliver(messages(3))
        assert taking.wait_for(3) == messages(3)
        target.close()


@pytest.mark.interop("openssl")
def test_a_receiver_that_is_not_trusted_gets_nothing(tmp_path: Path) -> None:
    theirs, others = make_certificate(tmp_path, "theirs"), make_certificate(tmp_path, "others")
    with receiver("tls", server_context(theirs)) as taking:
        target = StreamReceiver("127.0.0.1", taking.port, Tls(others.file))
        with pytest.raises(ssl.SSLCertVerificationError):
            target.deliver(messages(1))
        named = StreamReceiver("localhost", taking.port, Tls(theirs.file))
        with pytest.raises(ssl.SSLCertVerificationError, match="localhost"):
            named.deliver(messages(1))


@pytest.mark.interop("openssl")
def test_tls_before_1_2_is_refused(tmp_path: Path) -> None:
    theirs = make_certificate(tmp_path, "theirs")
    assert Tls(theirs.file).context().minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_certificate_that_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    with receiver("tcp") as taking:
        target = StreamReceiver("127.0.0.1", taking.port, Tls(tmp_path / "missing.pem"))
        with pytest.raises(OSError, match=r"missing\.pem \(audit\.tls_ca_file\)"):
            target.deliver(messages(1))


@pytest.mark.interop("openssl")
def test_a_key_that_needs_a_password_is_an_os_error_and_nobody_is_asked(tmp_path: Path) -> None:
    ours = make_certificate(tmp_path, "ours")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", str(ours.key)]
    subprocess.run([*command, "-out", str(locked)], check=True, timeout=60)
    with pytest.raises(OSError, match=r"audit\.tls_key_file"):
        Tls(None, ours.file, locked).context()
