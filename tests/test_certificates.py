"""Bindings of certificates: how they are written, and which certificates have them."""

from __future__ import annotations

import pytest

from dicomnode.certificates import Binding, Form, binding, certificate_of

DIGEST = "3" * 64
DECODED = {
    "subject": ((("countryName", "DE"),), (("commonName", "CT_1"),)),
    "subjectAltName": (
        ("DNS", "CT1.example.org"),
        ("IP Address", "2001:DB8:0:0:0:0:0:1"),
        ("X", ""),
    ),
}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("CN=CT_1", Binding(Form.COMMON_NAME, "CT_1")),
        ("cn= CT_1 ", Binding(Form.COMMON_NAME, "CT_1")),
        ("DNS:CT1.Example.org", Binding(Form.DNS_NAME, "ct1.example.org")),
        ("IP:2001:db8::1", Binding(Form.IP_ADDRESS, "2001:db8::1")),
        ("SHA256:" + ":".join(["33"] * 32), Binding(Form.FINGERPRINT, DIGEST)),
        ("sha256:" + DIGEST.upper(), Binding(Form.FINGERPRINT, DIGEST)),
    ],
)
def test_a_binding_is_read_however_it_is_spelled(written: str, read: Binding) -> None:
    assert binding(written) == read
    assert binding(str(read)) == read


@pytest.mark.parametrize("written", ["", "CT_1", "CN=", "IP:ct1", "SHA256:33", "O=Ward", 5, None])
def test_what_is_no_binding_is_refused_with_the_forms_that_are(written: object) -> None:
    with pytest.raises(ValueError, match=r"must have|CN=CT_1"):
        binding(written)


@pytest.mark.parametrize("bound", ["CN=CT_1", "DNS:ct1.example.org", "IP:2001:db8::1"])
def test_a_certificate_is_known_by_each_of_its_names(bound: str) -> None:
    shown = certificate_of(b"whole", DECODED)
    assert shown.is_one_of((binding("CN=OTHER"), binding(bound)))
    assert shown.subject == "C=DE, CN=CT_1"


def test_a_certificate_is_not_known_by_part_of_a_name_or_by_another_kind_of_name() -> None:
    shown = certificate_of(b"whole", DECODED)
    for bound in ("CN=CT", "CN=ct_1", "DNS:example.org", "DNS:CT_1", "CN=ct1.example.org"):
        assert not shown.is_one_of((binding(bound),))
    assert not shown.is_one_of(())


def test_an_address_that_is_none_is_passed_over() -> None:
    shown = certificate_of(b"whole", {"subjectAltName": (("IP Address", "<invalid>"),)})
    assert len(shown.bindings) == 1


def test_a_certificate_that_nobody_verified_is_known_by_its_digest_alone() -> None:
    shown = certificate_of(b"whole", {})
    assert {each.form for each in shown.bindings} == {Form.FINGERPRINT}
    assert not shown.is_one_of((binding("CN=CT_1"),))
