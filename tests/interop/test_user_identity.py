"""User identity as pynetdicom sends it, against a node over sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from dicomnode.users import User, change_users, hash_passcode
from tests.conftest import RunningNode, StartNode
from tests.faults.scu import associated
from tests.peers import http_get, run_tool
from tests.wire import ASSOCIATE_RJ, Wire, associate_rq

VERIFICATION = "1.2.840.10008.1.1"
HASHED = hash_passcode(b"correct horse")


def associate(
    node: RunningNode, kind: int = 0, primary: bytes = b"", secondary: bytes = b""
) -> Association:
    ae = AE(ae_title="CT_1")
    ae.add_requested_context(VERIFICATION)
    items = []
    if kind:
        item = UserIdentityNegotiation()
        item.user_identity_type = kind
        item.positive_response_requested = True
        item.primary_field = primary
        if kind == 2:
            item.secondary_field = secondary
        items.append(item)
    return ae.associate(*node.dicom_address, ae_title="DICOMNODE", ext_neg=items)


def is_accepted(association: Association) -> bool:
    accepted: bool = association.is_established
    if accepted:
        association.release()
    return accepted


@pytest.fixture
def node(start_node: StartNode, tmp_path: Path) -> Iterator[RunningNode]:
    directory = tmp_path / "node"
    directory.mkdir()
    secret = directory / "issuer"
    secret.write_bytes(b"s" * 32)
    users = [User(name="jane", passcode=HASHED), User(name="console")]
    change_users(directory / "users.toml", lambda before: users, directory)
    yield start_node(
        directory=directory,
        access={"user_identity": "required", "credentials_without_tls": True},
        jwt={
            "key_file": str(secret),
            "algorithm": "HS256",
            "issuer": "issuer",
            "audience": "DICOMNODE",
        },
    )


def test_users_with_passcode_token_or_name_are_let_in_and_confirmed(node: RunningNode) -> None:
    claims = {"iss": "issuer", "aud": "DICOMNODE", "sub": "joe", "exp": time.time() + 60}
    token = jwt.encode(claims, "s" * 32, algorithm="HS256").encode()
    for kind, primary, secondary in (
        (2, b"jane", b"correct horse"),
        (2, b"jane", b"correct horse"),
        (5, token, b""),
        (1, b"console", b""),
    ):
        association = associate(node, kind, primary, secondary)
        assert association.is_established
        assert association.acceptor.user_identity is not None
        assert association.acceptor.user_identity.server_response == b""
        assert association.send_c_echo().Status == 0
        association.release()


def test_others_are_rejected_counted_and_explained(node: RunningNode) -> None:
    for identity in (
        None,
        (2, b"jane", b"wrong"),
        (2, b"eve", b"wrong"),
        (1, b"jane", b""),
        (3, b"ticket", b""),
        (4, b"assertion", b""),
        (5, b"a.b.c", b""),
    ):
        with Wire(node.dicom_address) as wire:
            assert wire.associate(identity=identity) == (ASSOCIATE_RJ, bytes([0, 1, 2, 1]))
    refusals = "dicomnode_refusals_total"
    assert node.metric(refusals, rule="access.user_identity") == 3
    assert node.metric(refusals, rule="users.toml") == 3
    assert node.metric(refusals, rule="jwt") == 1
    assert node.metric("dicomnode_associations_active") == 0
    status, told = http_get(node.http_address, "/api/explain")
    assert status == 200
    for words in (b"wrong passcode of user 'jane'", b"Kerberos", b"dicomnode user add"):
        assert words in told
    assert is_accepted(associate(node, 2, b"jane", b"correct horse"))


@pytest.mark.timeout(120)
def test_an_echo_beside_many_wrong_passcodes_notices_nothing(node: RunningNode) -> None:
    """The slow comparing happens in a thread of its own, so many a second."""
    ours = associate(node, 2, b"jane", b"correct horse")
    assert ours.is_established
    flood = [_begin(node, number) for number in range(40)]
    for _ in range(50):
        assert ours.send_c_echo().Status == 0
    for connection in flood:
        connection.socket.close()
    ours.release()
    # Of one address four wait at most; the others were told to come later.
    assert node.metric("dicomnode_associations_rejected_total", reason="Temporary congestion") > 20


def _begin(node: RunningNode, number: int) -> Wire:
    wire = Wire(node.dicom_address)
    wire.send(associate_rq(identity=(2, b"jane", b"wrong %d" % number)))
    return wire


def test_users_are_read_again_on_reload(node: RunningNode) -> None:
    path = node.directory / "users.toml"
    assert is_accepted(associate(node, 2, b"jane", b"correct horse"))
    change_users(path, lambda before: [User(name="joe", passcode=HASHED)], path)
    assert node.reload()
    assert not is_accepted(associate(node, 2, b"jane", b"correct horse"))
    assert is_accepted(associate(node, 2, b"joe", b"correct horse"))
    path.write_text("nonsense")
    assert not node.reload()
    assert is_accepted(associate(node, 2, b"joe", b"correct horse"))


def test_identities_are_not_looked_at_unless_configured(start_node: StartNode) -> None:
    node = start_node()
    assert is_accepted(associate(node, 2, b"anybody", b"anything"))
    with associated(node.dicom_address) as wire:
        assert wire.echo() == 0


@pytest.mark.interop("storescu")
def test_storescu_identifies_its_user_in_every_way_it_knows(
    node: RunningNode, tmp_path: Path
) -> None:
    claims = {"iss": "issuer", "aud": "DICOMNODE", "sub": "joe", "exp": time.time() + 60}
    token, other = tmp_path / "token", tmp_path / "other"
    token.write_text(jwt.encode(claims, "s" * 32, algorithm="HS256"))
    other.write_text(jwt.encode(claims, "t" * 32, algorithm="HS256"))
    file = get_testdata_file("CT_small.dcm")

    def is_stored(*options: object) -> bool:
        host, port = node.dicom_address
        ended = run_tool("storescu", "-rsp", *options, "-aec", "DICOMNODE", host, port, file)
        return ended.returncode == 0

    assert is_stored("-usr", "jane", "-pwd", "correct horse")
    assert is_stored("-usr", "console")
    assert is_stored("--jwt", token)
    assert not is_stored("-usr", "jane", "-pwd", "wrong")
    assert not is_stored("-usr", "jane", "-epw")
    assert not is_stored("--jwt", other)
    assert not is_stored("--saml", other)
    assert not is_stored("--kerberos", other)
