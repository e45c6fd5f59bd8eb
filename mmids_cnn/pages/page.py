"""A page: one HTML file that needs no network."""

import html

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 68rem; margin: 2.5rem auto;
  padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
p.lead { font-size: 1.05rem; white-space: pre-line } figure { margin: 0 } img { width: 100%; height: auto }
figcaption { color: #5a6676; font-size: .9rem; max-width: 50rem }
table { border-collapse: collapse; font: 13px/1.4 system-ui, sans-serif;
  font-variant-numeric: tabular-nums } div.wide { overflow-x: auto }
th, td { text-align: left; padding: .25rem .9rem .25rem .3rem; border-bottom: 1px solid #e3e7ec;
  white-space: nowrap }
tr.best td { font-weight: 600; background: #eef6f1 } tr.out td { color: #8a93a0 }
pre { font: 13px/1.5 ui-monospace, monospace; background: #f4f6f8; padding: .7rem .9rem; overflow-x: auto }
"""


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
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n<p class=lead>{html.escape(lead)}</p>\n{body}</html>\n"
    )
