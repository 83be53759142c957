"""The audit trail as rsyslog receives it, by UDP, TCP and TLS."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomnode.audit.delivery import Target
from dicomnode.audit.syslog import StreamReceiver, Tls, UdpReceiver
from dicomnode.audit.trail import SYSLOG
from tests import peers
from tests.audit.making import Trail, tell_everything
from tests.audit.reading import check_schema
from tests.audit.receivers import Certificate, make_certificate
from tests.programs import find_program

pytestmark = pytest.mark.interop("rsyslogd", "xmllint", "openssl")

CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off"
    defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{certificate}"
    defaultNetstreamDriverKeyFile="{key}")
module(load="imudp")
module(load="imtcp" {tls})
input(type="{input}" address="127.0.0.1" port="{port}")
template(name="fields" type="string"
    string="%pri% %protocol-version% %hostname% %app-name% %procid% %msgid%|%msg%\\n")
action(type="omfile" file="{output}" template="fields" fileCreateMode="0600" asyncWriting="off")
"""
TLS = 'streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/certvalid"'


@contextmanager
def rsyslog(
    folder: Path, transport: str, theirs: Certificate, ours: Certificate
) -> Iterator[tuple[int, Path]]:
    """Run rsyslogd; yield its port, and where it writes what it received."""
    folder.mkdir()
    port, output = peers.free_port(), folder / "received"
    configuration = folder / "rsyslog.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            ca=ours.file,
            certificate=theirs.file,
            key=theirs.key,
            tls=TLS if transport == "tls" else "",
            input="imudp" if transport == "udp" else "imtcp",
            port=port,
            output=output,
        )
    )
    program = find_program("rsyslogd")
    assert program is not None
    command = [program, "-n", "-f", str(configuration), "-i", str(folder / "pid")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield port, output
        finally:
            process.terminate()


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_rsyslog_reads_every_field_and_the_xml_as_it_was_sent(
    tmp_path: Path, transport: str
) -> None:
    theirs, ours = make_certificate(tmp_path, "theirs"), make_certificate(tmp_path, "ours")
    with rsyslog(tmp_path / "rsyslog", transport, theirs, ours) as (port, output):
        target: Target
        if transport == "udp":
            target = UdpReceiver("127.0.0.1", port)
        else:
            tls = Tls(theirs.file, ours.file, ours.key) if transport == "tls" else None
            target = StreamReceiver("127.0.0.1", port, tls)
        trail = Trail(tmp_path / "spool", {SYSLOG: target})
        trail.audit.start()
        tell_everything(trail.audit)

        def lines() -> list[bytes]:
            return output.read_bytes().splitlines() if output.exists() else []

        peers.eventually(lambda: len(lines()) >= 10, timeout=30)
        trail.audit.stop()
        peers.eventually(lambda: len(lines()) >= 12)
        received = [line.split(b"|", 1) for line in lines()]
    assert {header for header, _ in received} == {b"85 1 pacs.example dicomnode 4711 DICOM+RFC3881"}
    messages = [message.lstrip().removeprefix(b"\xef\xbb\xbf") for _, message in received]
    check_schema(messages, tmp_path)
    assert any(b"wrong passcode" in message for message in messages)
