"""The statement as one page of HTML that needs nothing else, for the screen and for paper."""

from __future__ import annotations

import html
from itertools import pairwise
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

_STYLE: Final = """
:root { color-scheme: light; --ink: #1b2430; --line: #c9d1da; --soft: #f3f6f9; --mark: #0b5cad; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
.page { display: grid; grid-template-columns: 19rem minmax(0, 54rem); gap: 3rem;
  max-width: 80rem; margin: 0 auto; padding: 2rem; }
nav { position: sticky; top: 2rem; align-self: start; max-height: calc(100vh - 4rem);
  overflow-y: auto; font-size: .86rem; border-right: 1px solid var(--line); padding-right: 1rem; }
nav ol { list-style: none; margin: 0; padding: 0; }
nav li { margin: .2rem 0; }
nav li.h3 { padding-left: 1rem; }
nav a { color: inherit; text-decoration: none; }
nav a:hover { color: var(--mark); text-decoration: underline; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.5rem; }
h2 { font-size: 1.4rem; margin: 2.8rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 2px solid var(--mark); }
h3 { font-size: 1.12rem; margin: 2rem 0 .6rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { border: 1px solid var(--line); padding: .4rem .6rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { background: var(--soft); }
thead:not(:has(th:not(:empty))) { display: none; }
code { background: var(--soft); border-radius: 3px; padding: .05rem .3rem; font-size: .92em; }
@media (max-width: 60rem) { .page { display: block; padding: 1rem; }
  nav { position: static; max-height: none; border: 0; margin-bottom: 2rem; } }
@media print { body { font-size: 10pt; } .page { display: block; padding: 0; max-width: none; }
  nav { position: static; max-height: none; border: 0; page-break-after: always; }
  h2, h3, h4 { break-after: avoid; } tr { break-inside: avoid; }
  thead { display: table-header-group; }
  .scroll { overflow: visible; } a { color: inherit; } }
@page { margin: 18mm 15mm; }
"""


def page(markdown: str) -> str:
    """Return ``markdown`` as a page; HTML within it is text like any other."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    title, entries = "", []
    for token, inline in pairwise(tokens):
        if token.type != "heading_open":
            continue
        words = _words(inline)
        if token.tag == "h1":
            title = words
            continue
        anchor = "s" + words.split(" ", 1)[0].replace(".", "-")
        token.attrSet("id", anchor)
        if token.tag in ("h2", "h3"):
            entries.append(
                f'<li class="{token.tag}"><a href="#{anchor}">{html.escape(words)}</a></li>'
            )
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace("<table>", '<div class="scroll"><table>')
    body = body.replace("</table>", "</table></div>")
    listed = "\n".join(entries)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<div class="page">\n<nav aria-label="Contents"><ol>\n{listed}\n</ol></nav>\n'
        f"<main>\n{body}</main>\n</div>\n</body>\n</html>\n"
    )


def _words(inline: Token) -> str:
    return "".join(child.content for child in inline.children or ())
