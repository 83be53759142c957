"""TLS with DCMTK, pynetdicom and openssl, as they call the node and as it calls them."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from tests import peers
from tests.authority import Authority, Issued, node_tls
from tests.conftest import StartNode
from tests.faults.scu import Image
from tests.interop.samples import Sample, data_set_bytes, samples
from tests.peers import NodeProcess, node_process, run_tool
from tests.secure_wire import SecureWire, secure_association, trusting

BOUND = {"title": "CT_1", "certificate": ["CN=CT_1", "DNS:ct1.example.org"]}


@dataclass(frozen=True, slots=True)
class Hospital:
    """A node that wants certificates, and the authority that makes them."""

    node: NodeProcess
    authority: Authority
    ct: Issued

    def dcmtk(self, issued: Issued | None = None) -> list[str]:
        """Return the options for TLS of DCMTK's tools."""
        shown = issued or self.ct
        return [*("+tls", str(shown.key), str(shown.certificate)), "+cf", str(self.authority.ca)]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    directory = tmp_path_factory.mktemp("hospital")
    authority = Authority(directory / "ca")
    with node_process(
        directory / "node", tls=node_tls(authority), entities=[BOUND, {"title": "FREE"}]
    ) as node:
        yield Hospital(node, authority, authority.issue("CT_1"))


def a_sample() -> Sample:
    return next(
        each
        for each in samples()
        if each.transfer_syntax_uid == "1.2.840.10008.1.2.1" and each.meta_agrees
    )


@pytest.mark.interop("echoscu")
@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195"])
def test_echoscu_is_answered_over_tls(hospital: Hospital, profile: str) -> None:
    done = run_tool(
        *("echoscu", "-v", "-aet", "CT_1", "-aec", "DICOMNODE", *hospital.dcmtk(), profile),
        *hospital.node.tls_address,
    )
    assert done.returncode == 0, done.output
    assert "Received Echo Response (Success)" in done.output
    hospital.node.wait_for_line(
        r"CT_1 -> DICOMNODE #\d+ association accepted .* over TLSv1\.\d as CN=CT_1"
    )


@pytest.mark.interop("storescu")
def test_what_storescu_sends_over_tls_is_stored(hospital: Hospital) -> None:
    sample = a_sample()
    done = run_tool(
        *("storescu", "-v", "-aet", "CT_1", "-aec", "DICOMNODE", *hospital.dcmtk(), "-xe"),
        *(*hospital.node.tls_address, sample.path),
    )
    assert done.returncode == 0, done.output
    (stored,) = (hospital.node.config.parent / "store" / "objects").rglob("*.dcm")
    # storescu itself leaves trailing padding out.
    assert dcmread(stored).PixelData == dcmread(sample.path).PixelData


@pytest.mark.interop("echoscu")
def test_echoscu_without_a_certificate_is_refused(hospital: Hospital) -> None:
    done = run_tool(
        *("echoscu", "+tla", "+cf", hospital.authority.ca, "-aec", "DICOMNODE"),
        *hospital.node.tls_address,
    )
    assert done.returncode != 0
    hospital.node.wait_for_line("peer showed no certificate")


@pytest.mark.interop("echoscu")
def test_a_title_is_refused_with_another_certificate_and_without_tls(hospital: Hospital) -> None:
    other = hospital.authority.issue("OTHER")
    tls = run_tool(
        *("echoscu", "-aet", "CT_1", "-aec", "DICOMNODE", *hospital.dcmtk(other)),
        *hospital.node.tls_address,
    )
    plain = run_tool(
        *("echoscu", "-aet", "CT_1", "-aec", "DICOMNODE"), *hospital.node.dicom_address
    )
    for done in (tls, plain):
        assert done.returncode != 0
        assert "Association Rejected" in done.output
    words = "Certificate not bound to the calling AE title: CT_1 is bound to the certificate"
    hospital.node.wait_for_line(f"{words} .*it showed CN=OTHER.*advice=.*ae.toml")
    hospital.node.wait_for_line(f"{words} .*called without TLS")
    free = run_tool(
        *("echoscu", "-aet", "FREE", "-aec", "DICOMNODE", *hospital.dcmtk(other)),
        *hospital.node.tls_address,
    )
    assert free.returncode == 0, free.output


def openssl(hospital: Hospital, *options: str | Path) -> str:
    address = f"localhost:{hospital.node.tls_address[1]}"
    done = subprocess.run(
        [
            *("openssl", "s_client", "-connect", address, "-CAfile", str(hospital.authority.ca)),
            *map(str, options),
        ],
        input=b"",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_openssl_verifies_the_certificate_with_either_version(
    hospital: Hospital, version: str
) -> None:
    ct = hospital.ct
    option = f"-tls{version.replace('.', '_')}"
    said = openssl(
        hospital, option, "-cert", ct.certificate, "-key", ct.key, "-verify_return_error"
    )
    assert "Verification: OK" in said
    assert f"New, TLSv{version}, Cipher is " in said
    assert "GCM" in said


@pytest.mark.parametrize(
    "options",
    [
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "AES256-SHA"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA"),
    ],
)
def test_openssl_is_refused_with_what_bcp_195_forbids(
    hospital: Hospital, options: tuple[str, ...]
) -> None:
    ct = hospital.ct
    said = openssl(hospital, *options, "-cert", ct.certificate, "-key", ct.key)
    assert "alert" in said
    assert "Cipher is (NONE)" in said


def test_no_session_outlives_its_connection(hospital: Hospital) -> None:
    context = trusting(hospital.authority, hospital.ct)
    with secure_association(hospital.node.tls_address, context, "CT_1") as first:
        assert first.echo() == 0
        session = first.socket.session
    assert session is None or not session.has_ticket


def test_pynetdicom_calls_over_tls(hospital: Hospital) -> None:
    entity = AE("CT_1")
    entity.add_requested_context(Verification)
    host, port = hospital.node.tls_address
    context = trusting(hospital.authority, hospital.ct)
    association = entity.associate(
        host, port, ae_title="DICOMNODE", tls_args=(context, "localhost")
    )
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()


# -- as they are called ----------------------------------------------------------------------------


def served(issued: Issued, authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def store_one(node_address: peers.Address, image: Image) -> None:
    from tests.wire import CT_IMAGE_STORAGE, Wire

    with Wire(node_address) as wire:
        wire.associate()
        assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
        wire.release()


def test_a_forwarded_and_a_moved_object_go_over_tls_with_our_certificate(
    start_node: StartNode, authority: Authority
) -> None:
    received: list[tuple[str, str]] = []

    def store(event: evt.Event) -> int:
        dataset = event.dataset
        names = event.assoc.dul.socket.socket.getpeercert()["subject"][0][0][1]
        received.append((dataset.SOPInstanceUID, names))
        return 0x0000

    entity = AE("ARCHIVE")
    entity.add_supported_context(CTImageStorage)
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        ssl_context=served(authority.issue("archive", "localhost"), authority),
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    port = server.socket.getsockname()[1]
    archive = {"title": "ARCHIVE", "host": "localhost", "port": port, "tls": True}
    try:
        node = start_node(
            tls=node_tls(authority),
            entities=[archive],
            forward=[{"name": "all", "to": ["ARCHIVE"]}],
        )
        image = Image(1)
        store_one(node.dicom_address, image)
        peers.eventually(lambda: received, "the forwarded object")
        move(node.dicom_address, image)
        assert received == [(image.uid, "node")] * 2
    finally:
        server.shutdown()


def move(address: peers.Address, image: Image) -> None:
    from pydicom.dataset import Dataset
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as MOVE

    entity = AE("WS_1")
    entity.add_requested_context(MOVE)
    association = entity.associate(*address, ae_title="DICOMNODE")
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = image.study_uid
    final = [status for status, _ in association.send_c_move(identifier, "ARCHIVE", MOVE)][-1]
    association.release()
    assert final.Status == 0


@pytest.mark.interop("storescp")
def test_send_stores_at_storescp_over_tls(authority: Authority, tmp_path: Path) -> None:
    theirs, ours = authority.issue("storescp", "localhost"), authority.issue("node")
    options = ["+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.ca)]
    sample = a_sample()
    with peers.storescp(tmp_path / "scp", *options) as scp:
        done = dicomnode(
            *("send", f"STORESCP@localhost:{scp.dicom_address[1]}", sample.path),
            *("+tls", ours.key, ours.certificate, "+cf", authority.ca),
        )
        assert done.returncode == 0, done.output
        (file,) = scp.directory.iterdir()
        assert data_set_bytes(file) == data_set_bytes(sample.path)


def dicomnode(*arguments: str | Path) -> peers.Finished:
    import sys

    return run_tool(sys.executable, "-m", "dicomnode", *arguments)


def test_a_wire_of_ours_sees_the_certificate_of_the_node(hospital: Hospital) -> None:
    with SecureWire(hospital.node.tls_address, trusting(hospital.authority, hospital.ct)) as peer:
        subject = peer.socket.getpeercert()
        assert subject is not None
        assert subject["subject"] == ((("commonName", "node"),),)
