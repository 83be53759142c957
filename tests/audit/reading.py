"""Reads audit messages and syslog messages, for the tests of the audit trail."""

from __future__ import annotations

import re
import subprocess
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

from tests.programs import find_program

SCHEMA = Path(__file__).with_name("audit_message.rng")

# RFC 5424 §6 with what PS3.15 §A.6 says of it: no structured data, and UTF-8 with its mark.
SYSLOG = re.compile(
    rb"<85>1 (?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<host>[!-~]{1,255}) dicomnode"
    rb" (?P<process>\d+) DICOM\+RFC3881 - \xef\xbb\xbf(?P<xml><AuditMessage\b.*)",
    re.DOTALL,
)


@dataclass
class Read:
    """One audit message, as somebody reads it who knows nothing of what wrote it."""

    root: Element

    @classmethod
    def of(cls, xml: bytes | str) -> Read:
        return cls(fromstring(xml))

    @property
    def event(self) -> str:
        return self.root.find("EventIdentification/EventID").attrib["csd-code"]  # type: ignore[union-attr]

    @property
    def types(self) -> list[str]:
        found = self.root.findall("EventIdentification/EventTypeCode")
        return [each.attrib["csd-code"] for each in found]

    @property
    def action(self) -> str:
        return self._identification["EventActionCode"]

    @property
    def outcome(self) -> str:
        return self._identification["EventOutcomeIndicator"]

    @property
    def _identification(self) -> dict[str, str]:
        return self.root.find("EventIdentification").attrib  # type: ignore[union-attr]

    @property
    def description(self) -> str:
        return self.root.findtext("EventIdentification/EventOutcomeDescription", "")

    @property
    def participants(self) -> list[dict[str, str]]:
        """Their attributes, and the code of the role as ``role``."""
        found = []
        for each in self.root.findall("ActiveParticipant"):
            role = each.find("RoleIDCode")
            role_of = {} if role is None else {"role": role.attrib["csd-code"]}
            found.append({**each.attrib, **role_of})
        return found

    def object_of(self, id_type: str) -> Element:
        """Return the participant object whose identifier is of this type."""
        found = [
            each
            for each in self.root.findall("ParticipantObjectIdentification")
            if each.find("ParticipantObjectIDTypeCode").attrib["csd-code"] == id_type  # type: ignore[union-attr]
        ]
        assert len(found) == 1
        return found[0]

    @property
    def study(self) -> str:
        return self.object_of("110180").attrib["ParticipantObjectID"]

    @property
    def patient(self) -> tuple[str, str]:
        found = self.object_of("2")
        return found.attrib["ParticipantObjectID"], found.findtext("ParticipantObjectName", "")

    @property
    def sop_classes(self) -> dict[str, int]:
        found = self.object_of("110180").findall("ParticipantObjectDescription/SOPClass")
        return {each.attrib["UID"]: int(each.attrib["NumberOfInstances"]) for each in found}

    def detail(self, id_type: str, kind: str) -> bytes:
        found = self.object_of(id_type).findall("ParticipantObjectDetail")
        return next(
            b64decode(each.attrib["value"]) for each in found if each.attrib["type"] == kind
        )


def read_syslog(message: bytes) -> Read:
    """Read one syslog message; what is not as the standard wants it fails the test."""
    found = SYSLOG.fullmatch(message)
    assert found is not None, message
    return Read.of(found["xml"].decode())


def read_file(path: Path) -> list[Read]:
    """Read an audit file: one message a line."""
    return [Read.of(line) for line in path.read_text().splitlines()]


def unframed(stream: bytes) -> list[bytes]:
    """Split what came over TCP by octet counting (RFC 6587 §3.4.1); half a message is left out."""
    messages = []
    while found := re.match(rb"([1-9]\d*) ", stream):
        end = found.end() + int(found[1])
        if len(stream) < end:
            break
        messages.append(stream[found.end() : end])
        stream = stream[end:]
    return messages


def check_schema(messages: Iterable[bytes], directory: Path) -> None:
    """Have xmllint check messages against the schema of PS3.15 §A.5.1."""
    paths = []
    for number, message in enumerate(messages):
        paths.append(directory / f"message-{number}.xml")
        paths[-1].write_bytes(message)
    assert paths
    program = find_program("xmllint")
    assert program is not None
    command = [program, "--noout", "--nonet", "--relaxng", str(SCHEMA), *map(str, paths)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stderr
