"""``README.TXT`` of an export: what it holds, how to check it, and what that proves."""

from __future__ import annotations

from dicomnode import __version__
from dicomnode.integrity.signature import CMS_SIGNATURE, ED25519_SIGNATURE, Signer

_HEAD = """\
DICOM FILE-SET WITH INTEGRITY MANIFEST
written by dicomnode {version} on {at}: objects {objects}

  DICOMDIR          the directory of the file-set (PS3.10 and PS3.3 Annex F)
  DICOM/            the objects; beside each its sidecar, NAME.dcm.sig
  SHA256SUMS        the SHA-256 digest of every file here but this manifest and its signature
  CUSTODY.JSON      what the node recorded of these objects: a chain of hashed records
"""
_CHANGED = """
The objects are changed copies of those that the node holds (de-identified, for instance). The
digests are those of the copies. What the node recorded of the originals is not part of this export.
"""
_CHECK = """
TO CHECK

  dicomnode verify DIRECTORY        everything, on any machine
  dicomnode verify FILE             one object and its sidecar
  sha256sum -c SHA256SUMS           the files that the manifest names, without dicomnode
"""
_UNSIGNED = """
WHAT THAT PROVES

This export is not signed. The check proves that nothing was damaged or changed by accident since
it was written. It does NOT prove who wrote it: whoever changes a file on purpose can compute every
digest anew. Somebody who knows the digest of SHA256SUMS from another source can compare it; the
node keeps it in its custody log.
"""
_SIGNED = """
WHAT THAT PROVES

SHA256SUMS is signed, so that nobody without the private key can change a file unnoticed. That is
worth as much as your knowledge of whose key it is: SIGNER.PEM came with the files, and whoever
forges them can put a key of his own beside them. Get the public key, or the certificate of its
authority, from who signed, by another way, and give it to the check:

"""
_ED25519 = """\
  dicomnode verify DIRECTORY --public-key KEY.PEM
  openssl pkeyutl -verify -pubin -inkey KEY.PEM -rawin -in SHA256SUMS -sigfile {signature}
"""
_CMS = """\
  dicomnode verify DIRECTORY --ca CA.PEM
  openssl cms -verify -binary -inform DER -in {signature} -content SHA256SUMS \\
    -CAfile CA.PEM -purpose any -out /dev/null
"""


def readme(at: str, objects: int, signer: Signer | None, *, is_changed: bool) -> bytes:
    """Return the text; it tells nothing of patients."""
    text = _HEAD.format(version=__version__, at=at, objects=objects)
    text += (_CHANGED if is_changed else "") + _CHECK
    match signer.file_name if signer is not None else "":
        case "":
            text += _UNSIGNED
        case signature if signature == ED25519_SIGNATURE:
            text += _SIGNED + _ED25519.format(signature=signature)
        case signature:
            assert signature == CMS_SIGNATURE
            text += _SIGNED + _CMS.format(signature=signature)
    return text.encode()
