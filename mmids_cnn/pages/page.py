"""A page: one HTML file that needs no network, no script and nothing beside it."""

import html
from collections.abc import Mapping, Sequence

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #566171; --line: #dfe4ea; --back: #ffffff;
  --card: #f4f6f8; --paper: #ffffff; --best: #e3f3ea; --link: #1f5fa8; --bad: 214 96 36 }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #a3aebd; --line: #333c49;
  --back: #12161c; --card: #1d232c; --paper: #eef1f5; --best: #173a29; --link: #8db9ee; --bad: 226 112 50 } }
* { box-sizing: border-box } a { color: var(--link) }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 68rem;
  margin: 2.5rem auto; padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem } h3 { font-size: .95rem; margin: 1.4rem 0 .4rem }
p { max-width: 50rem } p.lead { font-size: 1.05rem; white-space: pre-line; overflow-wrap: anywhere }
figure { margin: 0 } figure > img { width: 100%; height: auto; background: var(--paper); border-radius: 6px }
figcaption { color: var(--soft); font-size: .9rem; max-width: 50rem }
table { border-collapse: collapse; font: 13px/1.4 system-ui, sans-serif;
  font-variant-numeric: tabular-nums } div.wide { overflow-x: auto; margin: .4rem 0 }
th, td { text-align: left; padding: .25rem .9rem .25rem .3rem; border-bottom: 1px solid var(--line);
  white-space: nowrap }
tr.best td { font-weight: 600; background: var(--best) } tr.out td { color: var(--soft) }
th.n, td.n { text-align: right }
pre { font: 13px/1.5 ui-monospace, monospace; background: var(--card); padding: .7rem .9rem;
  overflow-x: auto; border-radius: 6px }
ul.facts { list-style: none; padding: 0; display: grid; gap: .7rem;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)) }
ul.facts li { background: var(--card); border-radius: 6px; padding: .6rem .9rem; color: var(--soft);
  font-size: .85rem } ul.facts b { display: block; font-size: 1.4rem; color: var(--ink) }
div.pair { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)) }
table.matrix { border-collapse: separate; border-spacing: 2px }
table.matrix th { border: 0; font-weight: 400 }
table.matrix td { text-align: right; border: 0; border-radius: 3px; padding: .3rem .45rem; min-width: 2.6rem;
  background: rgb(var(--bad) / var(--share, 0)) }
table.matrix td.right { box-shadow: inset 0 0 0 1px var(--line); font-weight: 600 }
table.matrix td.edge { color: var(--soft) }
table.matrix th[scope=row] { position: sticky; left: 0; background: var(--back) }
table.wrap td + td, pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere }
div.gallery { display: grid; gap: .9rem .5rem; grid-template-columns: repeat(auto-fill, minmax(4.9rem, 1fr)) }
div.gallery figcaption { font-size: .78rem; line-height: 1.3; overflow-wrap: anywhere }
img.pixels, div.gallery img { image-rendering: pixelated }
div.gallery img { width: 4.5rem; border-radius: 3px }
@media (max-width: 30rem) { body { margin-top: 1rem; padding: 0 1rem } figure { overflow-x: auto }
  body > figure > img { width: auto; max-width: none } }
@media print { body { margin: 0; max-width: none } figure, tr, ul.facts li { break-inside: avoid }
  h2 { break-after: avoid } * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  div.wide, pre { overflow: visible; white-space: pre-wrap } div.pair { grid-template-columns: 1fr 1fr }
  table.matrix td { min-width: 0; padding: .2rem .25rem } table.matrix { font-size: 11px } }
"""
_FETCHES_NOTHING = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, lead: str, body: str) -> str:
    """A whole page.

    Args:
      title: its heading, as text.
      lead: the first paragraph, as text; line breaks are kept.
      body: the rest, as HTML.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_FETCHES_NOTHING}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n<p class=lead>{html.escape(lead)}</p>\n{body}</html>\n"
    )


def facts(values: Mapping[str, str]) -> str:
    """Figures in large letters: what each is, and its value, as text."""
    cells = (f"<li><b>{html.escape(value)}</b>{html.escape(what)}" for what, value in values.items())
    return f"<ul class=facts>{''.join(cells)}</ul>\n"


def sections(bodies: Mapping[str, str]) -> str:
    """Parts of a page under their headings, which are text, and links to them above; the bodies are HTML."""
    links = " · ".join(f'<a href="#{i}">{html.escape(name)}</a>' for i, name in enumerate(bodies))
    parts = (f'<h2 id="{i}">{html.escape(name)}</h2>\n{x}' for i, (name, x) in enumerate(bodies.items()))
    return f"<nav>{links}</nav>\n{''.join(parts)}"


def figure(content: str, alt: str, caption: str) -> str:
    """A picture: SVG in base 64, what it shows for whoever does not see it, and what is to be seen in it."""
    return (
        f'<figure><img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{content}">\n'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>\n"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1, *, wrap: bool = False) -> str:
    """A table of texts, which scrolls where it is too wide.

    Args:
      heads: of its columns.
      rows: its cells.
      texts: columns after so many are aligned to the right, as numbers are.
      wrap: whether cells after the first may take several lines.
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = ["" if i < texts else " class=n" for i in range(len(cells))]
        return "".join(f"<{tag}{k}>{html.escape(c)}" for k, c in zip(kinds, cells, strict=True))

    body = "\n".join(f"<tr>{line('td', row)}" for row in rows)
    kind = " class=wrap" if wrap else ""
    return f"<div class=wide tabindex=0><table{kind}><tr>{line('th', heads)}\n{body}</table></div>\n"
