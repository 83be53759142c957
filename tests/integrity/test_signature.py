"""Whose signatures are relied on."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from dicomnode.errors import UnusableKey
from dicomnode.integrity.findings import Differs
from dicomnode.integrity.signature import Signer, Trust, check, load_public_key, load_signer
from tests.integrity.certificates import ec_key, ec_signer, issue, rsa_signer
from tests.integrity.exports import ed25519_signer

MANIFEST = b"0" * 64 + b"  DICOMDIR\n"


def checked(signer: Signer, trust: Trust) -> str:
    signature = signer.sign(MANIFEST)
    return check(signer.file_name, signature, MANIFEST, signer.public, trust).vouched


def chain(**leaf: object) -> tuple[Signer, x509.Certificate]:
    """Return a signer whose certificate an authority below the root has issued, and the root."""
    root_key, below_key, key = ec_key(), ec_key(), ec_key()
    root = issue("Root", root_key, ca=True, path_length=1)
    below = issue("Below", below_key, (root, root_key), ca=True, path_length=0)
    own = issue("Archive", key, (below, below_key), **leaf)  # type: ignore[arg-type]
    return Signer(key, (own, below)), root


def test_an_authority_vouches_over_those_between() -> None:
    signer, root = chain()
    assert checked(signer, Trust(authorities=(root,))) == "CN=Root"
    without = Signer(signer.key, signer.certificates[:1])
    with pytest.raises(Differs, match="no authority"):
        checked(without, Trust(authorities=(root,)))
    # Who is named as an authority need not be a root.
    assert checked(without, Trust(authorities=(signer.certificates[1],))) == "CN=Below"


def test_another_authority_of_the_same_name_does_not_vouch() -> None:
    signer, _ = chain()
    _, other = chain()
    with pytest.raises(Differs, match="no authority"):
        checked(signer, Trust(authorities=(other,)))


def test_a_certificate_that_is_no_authority_s_vouches_for_nobody() -> None:
    root_key, key = ec_key(), ec_key()
    root = issue("Root", root_key)
    signer = Signer(key, (issue("Archive", key, (root, root_key)),))
    with pytest.raises(Differs, match="no authority"):
        checked(signer, Trust(authorities=(root,)))


def test_a_certificate_is_good_for_its_time_and_for_signing() -> None:
    signer, root = chain(start=datetime(2020, 1, 1, tzinfo=UTC), days=30)
    with pytest.raises(Differs, match="not valid at that time"):
        checked(signer, Trust(authorities=(root,)))
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    signer, root = chain(usage=usage)
    with pytest.raises(Differs, match="not for signing"):
        checked(signer, Trust(authorities=(root,)))


def test_an_authority_cannot_vouch_for_a_key_without_certificate() -> None:
    _, root = chain()
    with pytest.raises(Differs, match="no certificate"):
        checked(ed25519_signer(), Trust(authorities=(root,)))


@pytest.mark.parametrize("make", [ed25519_signer, ec_signer, rsa_signer])
def test_the_key_that_is_given_is_the_only_one(make) -> None:
    signer, other = make(), make()
    assert checked(signer, Trust()) == ""
    ours = Trust(public_key=signer.key.public_key())
    assert checked(signer, ours) == "the public key given"
    with pytest.raises(Differs, match="another key"):
        checked(other, ours)


def test_a_signature_of_one_kind_is_none_of_the_other() -> None:
    signer = ed25519_signer()
    with pytest.raises(Differs, match="cannot be read"):
        check("SHA256SUMS.P7S", signer.sign(MANIFEST), MANIFEST, signer.public, Trust())
    signer = ec_signer()
    with pytest.raises(Differs):
        check("SHA256SUMS.SIG", signer.sign(MANIFEST), MANIFEST, signer.public, Trust())


@pytest.mark.parametrize(
    "data", [b"", b"\x30", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x30\0"]
)
def test_what_is_no_signature_is_told(data: bytes) -> None:
    with pytest.raises(Differs, match="cannot be read"):
        check("SHA256SUMS.P7S", data, MANIFEST, ec_signer().public, Trust())


def test_keys_that_cannot_sign_are_refused_with_their_file(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    signer, other = ec_signer(), ed25519_signer()

    def put(signer: Signer, encryption: object = NoEncryption()) -> None:
        key.write_bytes(
            signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)  # type: ignore[arg-type]
        )

    put(signer)
    with pytest.raises(UnusableKey, match="needs its certificate"):
        load_signer(key, None)
    certificate.write_bytes(ec_signer().public)
    with pytest.raises(UnusableKey, match="not that of the key"):
        load_signer(key, certificate)
    certificate.write_text("no certificate")
    with pytest.raises(UnusableKey, match="no certificates in PEM form"):
        load_signer(key, certificate)
    put(other, BestAvailableEncryption(b"secret"))
    with pytest.raises(TypeError):
        load_signer(key, None)
    assert load_signer(key, None, b"secret").fingerprint == other.fingerprint
    with pytest.raises(UnusableKey, match="no private key"):
        load_signer(key, None, b"wrong")
    key.write_bytes(
        other.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    assert load_public_key(key)
    with pytest.raises(UnusableKey, match=r"key\.pem: no private key"):
        load_signer(key, None)
