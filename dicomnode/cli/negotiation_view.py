"""An association as it was proposed and as it was accepted, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from dicomnode.cli.peers import Called, Options
from dicomnode.cli.terminal import console, plain
from dicomnode.dimse.channel import Channel
from dicomnode.observe.words import size
from dicomnode.scu.names import named
from dicomnode.ul.items import PresentationContextRQ, RoleSelection
from dicomnode.ul.negotiation import AcceptedContext, Negotiated, RefusedContext

_DEFAULT_ROLES = "SCU"


def show_proposed(
    called: Called,
    options: Options,
    contexts: Sequence[PresentationContextRQ],
    roles: Sequence[RoleSelection],
    max_operations: int,
) -> None:
    """Print what is asked for, on standard error."""
    out = console(errors=True)
    out.print(
        plain(f"Proposed by {called.calling_ae_title} to {called.peer.title} at {called.where}:"),
        style="bold",
    )
    out.print(plain(f"  maximum PDU {size(options.maximum_pdu_bytes)}"))
    if max_operations != 1:
        out.print(plain(f"  {max_operations or 'any number of'} operations at once"))
    by_class = {role.sop_class_uid: role for role in roles}
    table = _table("#", "SOP class", "transfer syntaxes", "our roles")
    for context in contexts:
        role = by_class.get(context.abstract_syntax)
        table.add_row(
            str(context.context_id),
            _name(context.abstract_syntax, options),
            Text("\n").join(_name(uid, options) for uid in context.transfer_syntaxes),
            _roles(role.scu, role.scp) if role else _DEFAULT_ROLES,
        )
    out.print(table)


def show_accepted(channel: Channel, options: Options) -> None:
    """Print what was granted, on standard error."""
    negotiated, secured = channel.negotiated, channel.secured
    out = console(errors=True)
    out.print(plain(f"Accepted by {negotiated.called_ae_title}:"), style="bold")
    if secured is not None:
        out.print(plain(f"  {secured.words}, {secured.cipher_suite}"))
    for line in _facts(negotiated, options):
        out.print(plain(f"  {line}"))
    table = _table("#", "SOP class", "transfer syntax or reason", "our roles")
    judged: list[AcceptedContext | RefusedContext] = [
        *negotiated.contexts.values(),
        *negotiated.refused,
    ]
    judged.sort(key=lambda context: context.context_id)
    for context in judged:
        taken = isinstance(context, AcceptedContext)
        table.add_row(
            str(context.context_id),
            _name(context.abstract_syntax, options),
            _name(context.transfer_syntax, options)
            if isinstance(context, AcceptedContext)
            else Text("refused: ", style="red").append_text(plain(context.words)),
            _roles(context.as_scu, context.as_scp) if isinstance(context, AcceptedContext) else "",
            style="" if taken else "dim",
        )
    out.print(table)


def _facts(negotiated: Negotiated, options: Options) -> list[str]:
    version = negotiated.peer_implementation_version_name or "no version name"
    longest = negotiated.peer_maximum_length
    facts = [
        f"implementation {version}",
        f"maximum PDU {size(longest) if longest else 'without limit'}",
    ]
    invoked = negotiated.max_operations_invoked
    if invoked != 1:
        facts.append(f"{invoked or 'any number of'} operations at once")
    if options.debug:
        facts += [
            f"implementation class {negotiated.peer_implementation_class_uid or 'not told'}",
            f"operations at once: {invoked or 'any'} of ours,"
            f" {negotiated.max_operations_performed or 'any'} of the peer",
            f"user identity: {'confirmed' if negotiated.user_identity else 'none'}",
        ]
        facts += [
            f"extended negotiation of {named(uid)}: {info.hex(' ')}"
            for uid, info in negotiated.extended.items()
        ]
    return facts


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, header_style="dim", padding=(0, 2))
    table.columns[0].justify = "right"
    return table


def _name(uid: str, options: Options) -> Text:
    name = named(uid)
    return plain(f"{name} ({uid})" if options.debug and name != uid else name)


def _roles(scu: bool, scp: bool) -> str:
    return " and ".join(role for role, held in (("SCU", scu), ("SCP", scp)) if held) or "none"
