"""Rules that change while objects are on their way in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dicomnode.forward_settings import ForwardRule
from dicomnode.outbox.forwarding import Outbox
from dicomnode.outbox.rules import Rules
from dicomnode.registry import Registry
from dicomnode.storage.header import HEADER_END
from tests.index.entries import entry
from tests.outbox.queueing import Bench


def rules(**table: object) -> Rules:
    rule = ForwardRule.model_validate({"name": "rule", "to": ("ARCHIVE",)} | table)
    return Rules([rule], Registry(), strict=False)


@pytest.mark.parametrize(("end", "is_forwarded"), [(HEADER_END, True), (1 << 32, False)])
def test_an_object_is_judged_by_rules_for_which_its_header_was_read(
    tmp_path: Path, end: int, is_forwarded: bool
) -> None:
    outbox = Outbox(Bench(tmp_path).catalog, rules())
    received = entry()
    received = dataclasses.replace(received, header=dataclasses.replace(received.header, end=end))
    # It does not have the attribute, if one looks as far as that.
    outbox.follow(rules(attributes={"PresentationLUTShape": ["INVERSE"]}))
    assert (outbox.attachment(received) is not None) is is_forwarded
