"""Peers over TLS that are slow, many, deaf or rude; beside them the others notice nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import wire
from tests.authority import Authority, node_tls
from tests.conftest import RunningNode, StartNode, StartNodeProcess
from tests.faults.scu import Image
from tests.peers import NodeProcess, eventually, metric
from tests.secure_wire import SecureWire, secure_association, trusting

AnyNode = RunningNode | NodeProcess
StartAny = Callable[..., AnyNode]
ECHO = wire.pdu(wire.P_DATA, wire.pdv(1, wire.c_echo_rq(), command=True))
ACTIVE = "dicomnode_associations_active"
HANDSHAKES = "dicomnode_tls_handshakes_active"


@pytest.fixture(params=["asyncio", "uvloop"])
def start(
    request: pytest.FixtureRequest,
    authority: Authority,
    start_node: StartNode,
    start_node_process: StartNodeProcess,
) -> StartAny:
    """Start a node with a TLS port, on either event loop."""
    tls = node_tls(authority, client_certificates="none")
    starter = start_node if request.param == "asyncio" else start_node_process

    def begin(**sections: object) -> AnyNode:
        return starter(tls=tls, **sections)

    return begin


def store_directory(node: AnyNode) -> Path:
    if isinstance(node, RunningNode):
        return node.store_directory
    return node.config.parent / "store"


def is_quiet(node: AnyNode) -> bool:
    return metric(node.http_address, ACTIVE) == 0


class Drip:
    """A TLS client whose records reach the node one byte at a time."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        self.socket = socket.create_connection(address, timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._until_done(self._tls.do_handshake)

    def _until_done(self, step: Callable[[], object]) -> object:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.flush()
                received = self.socket.recv(65536)
                assert received, "the node closed the connection"
                self._in.write(received)

    def flush(self) -> None:
        for byte in self._out.read():
            self.socket.sendall(bytes([byte]))

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self.flush()

    def receive(self) -> bytes:
        received = self._until_done(lambda: self._tls.read(65536))
        assert isinstance(received, bytes)
        return received


def test_a_peer_whose_bytes_come_one_by_one_is_served(
    start: StartAny, authority: Authority
) -> None:
    node = start()
    peer = Drip(node.tls_address, trusting(authority))
    with contextlib.closing(peer.socket):
        peer.send(wire.associate_rq())
        assert peer.receive()[0] == wire.ASSOCIATE_AC
        peer.send(ECHO)
        assert peer.receive()[0] == wire.P_DATA


def test_a_data_set_in_records_of_one_byte_is_stored_whole(
    start: StartAny, authority: Authority
) -> None:
    node, image = start(), Image(1, size_bytes=3000)
    with secure_association(node.tls_address, trusting(authority)) as peer:
        for pdu in peer.message(
            3, wire.c_store_rq(1, wire.CT_IMAGE_STORAGE, image.uid), image.data_set
        ):
            for at in range(len(pdu)):
                peer.send(pdu[at : at + 1])
        assert peer.response()[0x0900] == b"\0\0"
    assert image.is_stored_whole(store_directory(node))


def test_objects_larger_than_all_buffers_are_stored_whole_side_by_side(
    start: StartAny, authority: Authority
) -> None:
    node = start(limits={"receive_buffer_bytes": "1 MiB"})
    images = [Image(number, size_bytes=12_000_000, shade=number) for number in (1, 2, 3)]
    statuses: list[int] = []

    def store(image: Image) -> None:
        with secure_association(node.tls_address, trusting(authority)) as peer:
            statuses.append(peer.store(wire.CT_IMAGE_STORAGE, image.uid, image.data_set))
            peer.release()

    threads = [threading.Thread(target=store, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0, 0, 0]
    assert all(image.is_stored_whole(store_directory(node)) for image in images)


def test_a_peer_that_does_not_read_is_let_go_after_the_write_deadline(
    start: StartAny, authority: Authority
) -> None:
    node = start(timeouts={"write_seconds": 0.3})
    with secure_association(node.tls_address, trusting(authority)) as peer:
        peer.socket.settimeout(5)
        with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
            for _ in range(1000):
                peer.send(ECHO * 500)
        eventually(lambda: is_quiet(node), "no association")


def test_a_peer_that_reads_slowly_but_steadily_is_not_let_go(
    start: StartAny, authority: Authority
) -> None:
    node = start(timeouts={"write_seconds": 0.5})
    # Two threads may not share what is one TLS session: this one is asked for beforehand.
    with SecureWire(
        node.tls_address, trusting(authority), receive_buffer_bytes=4096, timeout=20
    ) as peer:
        assert peer.associate()[0] == wire.ASSOCIATE_AC
        pause = threading.Event()
        for _ in range(150):
            peer.send(ECHO * 20)
            assert peer.receive_exactly(1024)
            pause.wait(0.01)
        assert metric(node.http_address, ACTIVE) == 1


def test_deadlines_of_an_association_hold_over_tls(start: StartAny, authority: Authority) -> None:
    node = start(timeouts={"pdu_seconds": 0.3, "artim_seconds": 0.3})
    with secure_association(node.tls_address, trusting(authority)) as peer:
        peer.send(ECHO[:-1])
        assert peer.receive_pdu()[0] == wire.ABORT
    with SecureWire(node.tls_address, trusting(authority)) as peer:
        assert peer.receive_until_closed() == b""
    eventually(lambda: is_quiet(node), "no association")


@contextlib.contextmanager
def silent(address: tuple[str, int], number: int) -> Iterator[list[socket.socket]]:
    """Open connections that say nothing."""
    with ExitStack() as opened:
        yield [opened.enter_context(socket.create_connection(address)) for _ in range(number)]


def test_of_a_thousand_silent_connections_so_many_are_kept_and_others_get_in(
    start: StartAny, authority: Authority
) -> None:
    limits = {"max_handshakes": 24, "max_handshakes_per_address": 16}
    node = start(limits=limits, timeouts={"tls_handshake_seconds": 60})
    with silent(node.tls_address, 1000) as connections:
        eventually(lambda: metric(node.http_address, HANDSHAKES) == 16, "a bound")
        dropped = "dicomnode_tls_handshakes_total"
        eventually(
            lambda: metric(node.http_address, dropped, result="too many handshakes") == 984,
            "the others dropped",
        )
        # From another address at once, from the same one when the old ones have had a moment.
        with socket.create_connection(node.tls_address, 10, ("127.0.0.2", 0)) as other:
            trusting(authority).wrap_socket(other, server_hostname="localhost").close()
        eventually(lambda: gets_in(node, authority), "a way in from the same address")
        assert len(connections) == 1000
    eventually(lambda: metric(node.http_address, HANDSHAKES) == 0, "an end of the handshakes")


def gets_in(node: AnyNode, authority: Authority) -> bool:
    try:
        with secure_association(node.tls_address, trusting(authority)) as peer:
            return peer.echo() == 0
    except (OSError, wire.ConnectionEnded):
        return False


def test_a_secured_connection_above_the_cap_is_closed(
    start: StartAny, authority: Authority
) -> None:
    node = start(limits={"max_associations": 1})
    with (
        silent(node.dicom_address, 66),
        SecureWire(node.tls_address, trusting(authority)) as late,
    ):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            late.send(wire.associate_rq())
        assert late.receive_until_closed() == b""
    eventually(lambda: gets_in(node, authority), "a way in")


def test_an_echo_is_answered_while_handshakes_stall(start: StartAny, authority: Authority) -> None:
    node = start(timeouts={"tls_handshake_seconds": 60})
    with (
        silent(node.tls_address, 20),
        secure_association(node.tls_address, trusting(authority)) as secure,
        wire.Wire(node.dicom_address) as plain,
    ):
        plain.associate()
        assert [secure.echo(), plain.echo(), secure.echo()] == [0, 0, 0]


def test_a_connection_cut_off_is_told_from_one_that_was_closed(
    start_node_process: StartNodeProcess, authority: Authority
) -> None:
    node = start_node_process(tls=node_tls(authority, client_certificates="none"))
    with secure_association(node.tls_address, trusting(authority), "CUT"):
        pass  # the TCP connection closes, and TLS has said nothing of it
    node.wait_for_line("warn .*CUT.*connection lost: connection closed without TLS close_notify")
    with (
        secure_association(node.tls_address, trusting(authority), "SAID") as peer,
        contextlib.suppress(ssl.SSLError, OSError),
    ):
        peer.socket.unwrap()
    said = node.wait_for_line("warn .*SAID.*connection lost.*").group()
    assert "close_notify" not in said
    with secure_association(node.tls_address, trusting(authority), "DONE") as peer:
        assert peer.release() == wire.RELEASE_RP
    node.wait_for_line("info .*DONE.* released")
    assert not [line for line in node.lines if "DONE" in line and " warn " in line]


def test_a_node_that_stops_waits_for_no_handshake(
    start_node_process: StartNodeProcess, authority: Authority
) -> None:
    node = start_node_process(
        tls=node_tls(authority, client_certificates="none"),
        timeouts={"tls_handshake_seconds": 600, "drain_seconds": 600},
    )
    with silent(node.tls_address, 3):
        eventually(lambda: metric(node.http_address, HANDSHAKES) == 3, "three handshakes")
        node.process.terminate()
        assert node.wait() == 0
    assert not [line for line in node.lines if "Traceback" in line or " error " in line]
