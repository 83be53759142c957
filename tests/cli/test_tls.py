"""The commands over TLS: options as DCMTK has them, the registry, and failures in words."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests import peers
from tests.authority import Authority, Issued, node_tls
from tests.cli.commands import CT, run
from tests.conftest import RunningNode, StartNode


@pytest.fixture
def ct(authority: Authority) -> Issued:
    return authority.issue("CT_1")


@pytest.fixture
def node(start_node: StartNode, authority: Authority) -> RunningNode:
    return start_node(tls=node_tls(authority))


def at(node: RunningNode) -> str:
    return f"DICOMNODE@localhost:{node.tls_address[1]}"


def test_the_options_may_be_spelled_as_dcmtk_has_them(
    node: RunningNode, authority: Authority, ct: Issued
) -> None:
    for options in (
        ("+tls", ct.key, ct.certificate, "+cf", authority.ca),
        ("--tls", "--tls-key", ct.key, "--tls-cert", ct.certificate, "--tls-ca", authority.ca),
    ):
        ended = run("echo", at(node), *options, "-v")
        assert ended.code == 0, ended.err
        assert "answers in" in ended.out
        assert "over TLSv1.3 as CN=node, TLS_AES_256_GCM_SHA384" in ended.err


def test_a_peer_that_is_not_verified_is_warned_of_loudly(node: RunningNode, ct: Issued) -> None:
    ended = run("echo", at(node), "+tls", ct.key, ct.certificate, "-ic")
    assert ended.code == 0, ended.err
    assert "WARNING: --tls-insecure" in ended.err


def test_each_failure_names_the_option_that_helps(
    node: RunningNode, authority: Authority, ct: Issued, tmp_path: Path
) -> None:
    own = ("+tls", ct.key, ct.certificate)
    stranger = Authority(tmp_path / "other", "Another CA")
    plain = f"DICOMNODE@localhost:{node.dicom_address[1]}"
    cases = [
        ((at(node), *own, "+cf", stranger.ca), "of no CA that we trust", "--tls-ca"),
        ((at(node), *own, "+cf", authority.ca, "--tls-name", "x.org"), "another's", "--tls-name"),
        ((at(node), "+tla", "+cf", authority.ca), "wants a certificate of ours", "--tls-cert"),
        ((plain, *own, "+cf", authority.ca), "does not speak TLS on this port", "without"),
        ((at(node),), "it expects TLS on this port", "over TLS"),
    ]
    for arguments, words, advice in cases:
        ended = run("echo", *arguments)
        assert ended.code == 1
        assert words in ended.err and advice in ended.err, ended.err


def test_files_that_cannot_be_used_are_named_by_their_options(ct: Issued, tmp_path: Path) -> None:
    ended = run("echo", "X@localhost:1", "+tls", tmp_path / "gone.key", ct.certificate)
    assert ended.code == 78
    assert f"--tls-key: {tmp_path}/gone.key: cannot be read: No such file" in ended.err


def test_a_registered_peer_is_called_with_the_certificate_of_the_settings(
    node: RunningNode, authority: Authority, ct: Issued, tmp_path: Path
) -> None:
    tls = {**ct.settings(), "ca": str(authority.ca)}
    registered = {"title": "DICOMNODE", "host": "localhost", "port": node.tls_address[1]}
    file = peers.write_config(tmp_path / "ours", tls=tls, entities=[{**registered, "tls": True}])
    assert run("echo", "DICOMNODE", "--config", file).code == 0
    assert run("echo", "--all", "--config", file).code == 0
    sent = run("send", "DICOMNODE", CT, "--config", file)
    assert sent.code == 0, sent.err
    assert len(node.files()) == 1
    bound = {**registered, "tls": True, "certificate": ["CN=OTHER"]}
    peers.write_registry(file.parent, [bound])
    ended = run("echo", "DICOMNODE", "--config", file)
    assert ended.code == 1
    assert "is bound to CN=OTHER" in ended.err and "ae.toml" in ended.err


def test_what_is_got_reaches_a_store_whose_plain_port_is_closed(
    start_node: StartNode, authority: Authority, ct: Issued, tmp_path: Path
) -> None:
    source = start_node(directory=tmp_path / "source", tls=node_tls(authority))
    assert run("send", f"DICOMNODE@127.0.0.1:{source.dicom_address[1]}", CT).code == 0
    own = start_node(directory=tmp_path / "own", tls=node_tls(authority, only=True))
    study = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
    got = run(
        *("get", at(source), "+tls", ct.key, ct.certificate, "+cf", authority.ca),
        *("--into-store", "--study", study, "--config", own.config),
    )
    assert got.code == 0, got.err
    assert len(own.files()) == 1


def test_a_pinned_peer_that_is_called_by_a_name_is_verified_all_the_same(
    node: RunningNode, authority: Authority, ct: Issued, tmp_path: Path
) -> None:
    theirs = Issued(Path(node_settings(node)), ct.key)
    registered = {"title": "DICOMNODE", "host": "localhost", "port": node.tls_address[1]}
    pinned = {**registered, "tls": True, "certificate": [f"SHA256:{theirs.fingerprint}"]}
    stranger = Authority(tmp_path / "other", "Another CA")
    # A CA that did not sign the peer's certificate: only the pin can vouch for it.
    tls = {**ct.settings(), "ca": str(stranger.ca)}
    file = peers.write_config(tmp_path / "ours", tls=tls, entities=[pinned])
    assert run("echo", "DICOMNODE", "--config", file).code == 0
    named = run("echo", "DICOMNODE", "--config", file, "--tls-name", "localhost")
    assert named.code == 1
    assert "of no CA that we trust" in named.err
    wrong = {**pinned, "certificate": [f"SHA256:{ct.fingerprint}"]}
    peers.write_registry(file.parent, [wrong])
    assert "is bound to SHA256:" in run("echo", "DICOMNODE", "--config", file).err


def node_settings(node: RunningNode) -> str:
    """Return the path of the certificate of a node."""
    return str(tomllib.loads(node.config.read_text())["tls"]["certificate"])


def test_check_config_looks_at_the_files_of_tls(authority: Authority, tmp_path: Path) -> None:
    tls = node_tls(authority)
    bound = {"title": "CT_1", "certificate": ["CN=CT_1"], "tls_name": "ct1"}
    file = peers.write_config(tmp_path / "node", tls=tls, entities=[bound])
    ended = run("check-config", "--config", file)
    assert ended.code == 0, ended.err
    assert "note: CT_1 has a tls_name, but tls = true is missing" in ended.out
    Path(tls["key"]).chmod(0o644)
    assert "chmod 600" in run("check-config", "--config", file).out
    peers.write_config(
        tmp_path / "node", tls={**tls, "client_certificates": "none"}, entities=[bound]
    )
    told = run("check-config", "--config", file).out
    assert "CT_1 cannot call this node: it is bound to a certificate" in told
    peers.write_config(tmp_path / "node", tls={**tls, "key": str(authority.issue("x").key)})
    ended = run("check-config", "--config", file)
    assert ended.code == 78
    assert "tls.key: " in ended.err and "does not belong to the certificate" in ended.err
    assert f"{file}:" in ended.err
