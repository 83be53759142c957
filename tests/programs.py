"""Where the programs of peers are, and which package has them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PACKAGES = {
    "echoscu": "dcmtk",
    "storescu": "dcmtk",
    "storescp": "dcmtk",
    "dcmdump": "dcmtk",
    "dcmftest": "dcmtk",
    "dcmodify": "dcmtk",
    "dcmconv": "dcmtk",
    "dcmdjpeg": "dcmtk",
    "dcmmkdir": "dcmtk",
    "findscu": "dcmtk",
    "getscu": "dcmtk",
    "movescu": "dcmtk",
    "dcmqrscp": "dcmtk",
    "dcmqridx": "dcmtk",
    "wlmscpfs": "dcmtk",
    "dump2dcm": "dcmtk",
    "Orthanc": "orthanc",
    "gdcmscu": "libgdcm-tools",
    "gdcmscanner": "libgdcm-tools",
    "tshark": "tshark",
    "openssl": "openssl",
    "rsyslogd": "rsyslog",
    "xmllint": "libxml2-utils",
    "text2pcap": "tshark",
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "systemd-tmpfiles": "systemd",
}
"""Program → the Debian package that has it."""


def find_program(name: str) -> str | None:
    """Return the path of a peer program, or None; Debian keeps Orthanc in /usr/sbin.

    Not from this environment: pynetdicom brings a storescp of its own.
    """
    own = Path(sys.executable).parent
    folders = [each for each in os.environ.get("PATH", "").split(":") if Path(each) != own]
    return shutil.which(name, path=":".join([*folders, "/usr/sbin", "/usr/local/sbin"]))


def missing_programs() -> dict[str, str]:
    """Return program → Debian package for all that this machine does not have."""
    return {name: package for name, package in PACKAGES.items() if find_program(name) is None}
