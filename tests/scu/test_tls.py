"""``open_association`` over TLS."""

from __future__ import annotations

import ssl

import pytest

import dicomnode
from dicomnode.errors import AssociationError, ConfigurationError, TLSFailed
from dicomnode.registry import AE, Registry
from tests.authority import Authority, Issued, node_tls
from tests.conftest import RunningNode, StartNode
from tests.secure_wire import trusting


@pytest.fixture
def ws(authority: Authority) -> Issued:
    return authority.issue("WS_1")


@pytest.fixture
def node(start_node: StartNode, authority: Authority) -> RunningNode:
    return start_node(tls=node_tls(authority))


async def echo(
    peer: str | AE, tls: dicomnode.TLS | ssl.SSLContext | bool | None = None
) -> str | None:
    """Perform C-ECHO; return the TLS version."""
    async with dicomnode.open_association(peer, tls=tls) as association:
        assert (await association.echo()).ok
        secured = association.channel.secured
        return secured.version if secured is not None else None


async def test_files_or_a_context_of_ones_own_are_used(
    node: RunningNode, authority: Authority, ws: Issued
) -> None:
    peer = f"DICOMNODE@localhost:{node.tls_address[1]}"
    assert await echo(peer, dicomnode.TLS(authority.ca, ws.certificate, ws.key)) == "TLSv1.3"
    assert await echo(peer, trusting(authority, ws)) == "TLSv1.3"
    named = dicomnode.TLS(authority.ca, ws.certificate, ws.key, bindings=("CN=node",))
    assert await echo(f"DICOMNODE@127.0.0.1:{node.tls_address[1]}", named) == "TLSv1.3"


async def test_true_trusts_the_system_alone(node: RunningNode) -> None:
    with pytest.raises(TLSFailed) as caught:
        await echo(f"DICOMNODE@localhost:{node.tls_address[1]}", True)
    assert caught.value.cause == "unknown CA"


async def test_an_entry_of_the_registry_says_whether_and_false_says_no(
    node: RunningNode, authority: Authority, ws: Issued
) -> None:
    entry = AE(title="DICOMNODE", host="localhost", port=node.tls_address[1], tls=True)
    with pytest.raises(TLSFailed):
        await echo(entry)
    files = dicomnode.TLS(authority.ca, ws.certificate, ws.key)
    assert await echo(entry, files) == "TLSv1.3"
    with pytest.raises(AssociationError, match="TLS alert"):
        await echo(entry, False)
    plain = entry.model_copy(update={"port": node.dicom_address[1]})
    assert await echo(plain, False) is None


async def test_the_port_of_tls_stands_in_where_none_is_written() -> None:
    with pytest.raises(AssociationError, match="at localhost:2762"):
        await echo("NOBODY@localhost", True)
    with pytest.raises(AssociationError, match=r"at here\.invalid:2762"):
        await echo(Registry([AE(title="A", host="here.invalid", tls=True)]).entries[0])


async def test_files_that_cannot_be_used_are_named_as_the_parameters_are(ws: Issued) -> None:
    with pytest.raises(ConfigurationError, match=r"^key: .*gone: cannot be read"):
        await echo("A@localhost", dicomnode.TLS(certificate=ws.certificate, key="gone"))
