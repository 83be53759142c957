"""What is wrong with the files of TLS, in words."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from dicomnode.errors import ConfigurationError
from dicomnode.tls.contexts import client_contexts, fingerprint_of, server_context
from dicomnode.tls.files import Files, Validity, mistakes, openness, validities
from tests.authority import Authority, of_version


@pytest.fixture
def files(authority: Authority) -> Files:
    issued = authority.issue("node", "localhost")
    return Files(issued.certificate, issued.key, authority.ca, "required")


def test_good_files_make_contexts_for_both_sides(files: Files) -> None:
    assert mistakes(files) == []
    suites = {suite["name"] for suite in server_context(files).get_ciphers()}
    assert suites == {
        *("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"),
        *("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
        *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    }
    contexts = client_contexts(files)
    assert contexts.named.check_hostname and not contexts.bound.check_hostname


def test_the_modified_profile_permits_no_suite_without_forward_secrecy_or_with_cbc(
    files: Files,
) -> None:
    context = server_context(replace(files, profile="bcp195_modified"))
    names = [suite["name"] for suite in context.get_ciphers() if suite["protocol"] == "TLSv1.2"]
    assert any("CHACHA20" in name for name in names)
    assert all(name.startswith("ECDHE-") for name in names)
    assert not any(name.endswith(("-SHA", "AES128-SHA256", "AES256-SHA384")) for name in names)


def test_a_key_may_stand_in_the_file_of_the_certificate(files: Files, tmp_path: Path) -> None:
    assert files.certificate is not None and files.key is not None
    both = tmp_path / "both.pem"
    both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    assert mistakes(Files(both)) == []
    server_context(Files(both))


def test_the_key_of_another_certificate_is_named(files: Files, authority: Authority) -> None:
    wrong = replace(files, key=authority.issue("other").key)
    words = f"tls.key: {wrong.key}: the private key does not belong to the certificate"
    assert mistakes(wrong) == [words]
    with pytest.raises(ConfigurationError, match="does not belong"):
        server_context(wrong)


@pytest.mark.parametrize("is_text", [True, False], ids=["text", "version 8"])
def test_files_that_are_not_there_or_no_pem_are_each_named(
    files: Files, authority: Authority, tmp_path: Path, is_text: bool
) -> None:
    text = tmp_path / "text.pem"
    text.write_bytes(b"hello" if is_text else of_version(authority.ca.read_bytes(), 7))
    wrong = replace(files, certificate=text, key=tmp_path / "gone.key", ca=tmp_path / "gone.pem")
    found = mistakes(wrong)
    assert [line.partition(":")[0] for line in found] == ["tls.certificate", "tls.ca", "tls.key"]
    assert "holds no certificate in PEM form" in found[0]
    assert all("No such file" in line for line in found[1:])


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(files: Files) -> None:
    assert files.key is not None
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigurationError, match="the private key is encrypted"):
        server_context(files)


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_that_others_can_read_is_told(files: Files, mode: int, told: bool) -> None:
    assert files.key is not None
    os.chmod(files.key, mode)
    assert bool(openness(files)) is told
    assert not told or "chmod 600" in openness(files)


def test_a_certificate_is_warned_of_thirty_days_ahead_and_when_it_is_over() -> None:
    day = 86400
    valid = Validity("CN=node", 100 * day, 200 * day)
    assert valid.warning(150 * day, "tls.certificate") == ""
    assert valid.warning(169 * day, "tls.certificate") == ""
    assert "expires in 29 days" in valid.warning(171 * day, "tls.certificate")
    assert "expires today or tomorrow" in valid.warning(199.5 * day, "tls.certificate")
    assert "has expired" in valid.warning(200 * day, "tls.certificate")
    assert "not valid before" in valid.warning(99 * day, "tls.certificate")
    assert "SIGHUP" in valid.warning(200 * day, "tls.certificate")


def test_of_several_cas_the_one_that_ends_first_counts(files: Files, authority: Authority) -> None:
    assert files.ca is not None
    soon = authority.issue("soon", days=3).certificate
    files.ca.write_bytes(files.ca.read_bytes() + soon.read_bytes())
    found = validities(files)
    assert found["ca"].subject == "CN=soon"
    assert found["own"].subject == "CN=node"


def test_a_fingerprint_is_that_of_the_first_certificate_of_a_file(authority: Authority) -> None:
    issued = authority.issue("node")
    chain = issued.certificate.read_text() + authority.ca.read_text()
    assert fingerprint_of(chain).value == issued.fingerprint
