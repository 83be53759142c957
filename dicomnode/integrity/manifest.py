"""``SHA256SUMS``: the digests of all files of an export, as ``sha256sum -c`` reads them.

There is one way to write a manifest: names sorted, digests in lower case, two blanks between. So a
change of a single byte is either a change of a digest or a name, or no manifest any more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from dicomnode.integrity.findings import Differs, Kind

MANIFEST: Final = "SHA256SUMS"
DICOMDIR: Final = "DICOMDIR"
README: Final = "README.TXT"
CUSTODY: Final = "CUSTODY.JSON"
SIGNER: Final = "SIGNER.PEM"
SIDECAR_SUFFIX: Final = ".dcm.sig"

# 512 MiB hold the names and digests of five million files.
MAX_BYTES: Final = 512 * 1024 * 1024
# Names that we write: no path leads upwards, nothing needs an escape.
_LINE: Final = re.compile(
    rb"([0-9a-f]{64})  ([A-Za-z0-9_]+(?:\.[A-Za-z0-9]+)*(?:/[A-Za-z0-9_]+(?:\.[A-Za-z0-9]+)*)*)"
)


def encode(digests: Mapping[str, str]) -> bytes:
    """Return the manifest of files, their digests (hex) given by name."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def parse(data: bytes) -> dict[str, str]:
    """Return the digests (hex) by name. Raises Differs for what ``encode`` does not write."""
    if not data.endswith(b"\n"):
        raise Differs(Kind.MANIFEST, "it is cut short")
    found: dict[str, str] = {}
    before = ""
    for number, line in enumerate(data[:-1].split(b"\n"), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise Differs(Kind.MANIFEST, f"line {number} is not as it was written")
        name = match[2].decode()
        if name <= before:
            raise Differs(Kind.MANIFEST, f"line {number} is not in its place")
        found[name] = match[1].decode()
        before = name
    return found
