"""The conformance statement: what the configuration makes of it, and the one in docs/."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dicomnode import IMPLEMENTATION_CLASS_UID
from dicomnode.conformance.page import page
from dicomnode.conformance.statement import statement
from dicomnode.forward_settings import ForwardRule
from dicomnode.parameters import rules_of
from dicomnode.registry import AE, Registry
from dicomnode.services.admission import Admission
from dicomnode.services.sop_classes import STORAGE, TRANSFER_SYNTAXES
from dicomnode.settings import Settings
from dicomnode.ul.items import (
    ImplementationClassUID,
    ImplementationVersionName,
    MaximumLength,
    PresentationContextRQ,
)
from dicomnode.ul.pdu import AAssociateRQ
from tests.cli.commands import run

DOCS = Path(__file__).parent.parent.parent / "docs"
IMPLICIT = "1.2.840.10008.1.2"
# Elements that have no end tag.
VOID = {"meta", "link", "br", "hr", "img", "input"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DICOMNODE__"):
            monkeypatch.delenv(name)


def stated(*entries: AE, **sections: object) -> str:
    return statement(Settings(**sections), Registry(entries))  # type: ignore[arg-type]


def test_the_statement_in_docs_is_the_one_of_the_defaults() -> None:
    written = (DOCS / "conformance.md").read_text("utf-8")
    assert written == stated(), (
        "write it anew: dicomnode conformance --markdown docs/conformance.md"
    )


def test_it_has_the_sections_of_ps3_2() -> None:
    headings = re.findall(r"^## \d+ (.*)$", stated(), re.MULTILINE)
    assert headings == [
        *("Overview", "Introduction", "Networking", "Media interchange"),
        *("Support of character sets", "Security", "Annexes"),
    ]


def test_every_storage_class_and_transfer_syntax_is_listed() -> None:
    uids = set(re.findall(r"\| ([\d.]+) \|$", stated(), re.MULTILINE))
    assert uids >= STORAGE | TRANSFER_SYNTAXES


def test_the_contexts_that_are_stated_are_accepted() -> None:
    text = stated()
    table = text[text.index("Presentation contexts accepted") : text.index("Uncompressed:")]
    uids = re.findall(r", ([\d.]+) \|", table)
    assert len(uids) == 14
    contexts = tuple(
        PresentationContextRQ(2 * number + 1, uid, (IMPLICIT,)) for number, uid in enumerate(uids)
    )
    user = (
        MaximumLength(0),
        ImplementationClassUID(IMPLEMENTATION_CLASS_UID),
        ImplementationVersionName("TEST"),
    )
    settings = Settings(access={"unknown_ae": "allow"})  # type: ignore[arg-type]
    admission = Admission(rules_of(settings), Registry())
    admitted = admission.admit(AAssociateRQ("DICOMNODE", "CT_1", contexts, user), "127.0.0.1")
    assert admitted.negotiated.refused == ()  # type: ignore[union-attr]


def test_titles_limits_and_times_are_those_in_force() -> None:
    text = stated(
        node={"ae_title": "PACS", "ae_title_aliases": ("OLD_PACS",), "port": 4242},
        limits={"max_associations": 17, "max_associations_per_ae": 3, "max_matches": 99},
        timeouts={"artim_seconds": 7, "idle_seconds": 7200},
    )
    assert "Its AE title is `PACS`; it answers to `OLD_PACS` as well." in text.replace("\n", " ")
    assert "`0.0.0.0:4242`" in text
    assert "17 in all, 3 of one AE title" in text
    assert "more than 99 matches" in text
    assert "| ARTIM: for a whole association request | 7 s |" in text
    assert "| 2 h |" in text


def test_what_is_done_with_objects_is_what_is_configured() -> None:
    replaced = stated(storage={"on_conflict": "replace", "durability": "relaxed"})
    assert "takes the place of" in replaced
    assert "a power loss may still undo it" in replaced
    refused = stated(storage={"on_conflict": "refuse", "accept_unknown_storage": True})
    assert "| 0111H | duplicate SOP instance" in refused
    assert "are taken as storage" in refused.replace("\n", " ")
    assert "private and further storage SOP classes | as stored | yes" in refused


def test_aes_of_the_registry_are_listed_with_what_they_may_do() -> None:
    text = stated(
        AE(title="CT_1", addresses=("10.0.0.0/24",), services=frozenset({"store", "echo"})),  # type: ignore[arg-type]
        AE(title="ARCHIVE", host="10.0.0.9", port=104, services=frozenset()),
    )
    assert "| `CT_1` | not called | `10.0.0.0/24` | echo, store |" in text
    assert "| `ARCHIVE` | `10.0.0.9:104` | anywhere | none |" in text
    assert "| Verification SOP Class, 1.2.840.10008.1.1 | no | yes |" in text
    assert "1.2.840.10008.5.1.4.31 | no | for no AE of the registry |" in text


def test_forwarding_rules_are_listed() -> None:
    rule = ForwardRule(**{"name": "to archive", "from": ("CT_*",), "to": ("ARCHIVE",)})  # type: ignore[arg-type]
    text = stated(forward=(rule,))
    assert "| `to archive` | `CT_*` | `ARCHIVE` |" in text


class Structure(HTMLParser):
    """What a page consists of; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.sources: list[str] = []
        self.cells: list[str] = []
        self.tables = 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [named["id"] or ""] if "id" in named else []
        self.anchors += [named["href"] or ""] if tag == "a" else []
        self.sources += [named["src"] or ""] if "src" in named else []
        self.tables += tag == "table"
        self.cells += [""] if tag == "td" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    text = stated()
    found = Structure(page(text))
    assert len(set(found.ids)) == len(found.ids) >= 30
    assert {f"#{name}" for name in found.ids} >= set(found.anchors)
    assert len(found.anchors) > 20
    assert found.sources == []
    assert found.tables == len(re.findall(r"^\|---", text, re.MULTILINE))
    assert "url(" not in page(text)


@pytest.mark.parametrize("title", ["A|B", "A`B", "<b>A</b>", "A*B*", "``|`", "[a](b)", "&amp;"])
def test_whatever_an_ae_is_called_stands_on_the_page_as_it_is(title: str) -> None:
    found = Structure(page(stated(AE(title=title))))
    assert title in found.cells


def test_the_command_writes_both_forms_and_prints_one(tmp_path: Path) -> None:
    config = tmp_path / "dicomnode.toml"
    config.write_text('[node]\nae_title = "PACS"\n')
    (tmp_path / "ae.toml").write_text('[[ae]]\ntitle = "CT_1"\n')
    markdown, html = tmp_path / "c.md", tmp_path / "c.html"
    done = run("conformance", "--config", config, "--markdown", markdown, "--html", html)
    assert (done.code, done.out) == (0, "")
    assert "`PACS`" in markdown.read_text()
    assert html.read_text().startswith("<!DOCTYPE html>")
    assert run("conformance", "--config", config).out == markdown.read_text()


def test_user_identity_is_what_is_configured() -> None:
    assert "accepted without being looked at, and without a response" in stated()
    required = stated(access={"user_identity": "required"})
    assert "| user identity (PS3.7 §D.3.3.7) | required: types 1 (username)" in required
    assert "without being looked at" not in required
    own = stated(AE(title="CT_1", user_identity="optional"))
    assert "by AE title: `CT_1` optional" in own
