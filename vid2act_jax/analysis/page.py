"""Pieces of a page of HTML that stands alone: no script, no other file.

Whatever is given as text is escaped; only what these functions return is HTML.
"""

import base64
import html
import pathlib
from collections.abc import Iterable, Sequence

_STYLE = """
:root { color-scheme: light dark; --ink: #22252f; --paper: #fcfcfa;
  --faint: #636b7b; --line: #dcdfe6; --card: #ffffff; --accent: #2166ac;
  --warn: #a14a1f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6eb;
  --paper: #16181d; --faint: #9aa3b2; --line: #343945; --card: #f6f6f4;
  --accent: #7fb2e5; --warn: #f0a070; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.2rem 5rem; max-width: 58rem;
  background: var(--paper); color: var(--ink);
  font: 17px/1.6 Charter, 'Bitstream Charter', Cambria, Georgia, serif; }
h1, h2, h3, table, figcaption, nav, code { font-family: system-ui,
  -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p, li { max-width: 44rem; }
.lead { font-size: 1.1rem; }
.faint, figcaption { color: var(--faint); }
.warn { color: var(--warn); }
a { color: var(--accent); }
nav { font-size: .9rem; margin: 1rem 0; }
nav a { margin-right: 1rem; white-space: nowrap; }
figure { margin: 1.4rem 0; }
figure img { display: block; width: 100%; height: auto; padding: .5rem;
  background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
@media (prefers-color-scheme: dark) { figure img { filter: brightness(.92); } }
figcaption { font-size: .85rem; margin-top: .4rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .9rem .32rem 0; text-align: left;
  vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
td.number, th.number { text-align: right; white-space: nowrap; }
code { font-size: .85em; overflow-wrap: anywhere; }
li { overflow-wrap: anywhere; }
"""


def document(title: str, parts: Iterable[str]) -> str:
  """The whole page.

  Args:
    title: of the page.
    parts: HTML, one after the other.
  """
  return '\n'.join(
    [
      '<!doctype html>',
      '<html lang="en">',
      '<head>',
      '<meta charset="utf-8">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f'<title>{html.escape(title)}</title>',
      f'<style>{_STYLE}</style>',
      '</head>',
      '<body>',
      f'<h1>{html.escape(title)}</h1>',
      *parts,
      '</body>',
      '</html>',
      '',
    ]
  )


def heading(text: str, level: int = 3, anchor: str = '') -> str:
  """A heading; one with an anchor can be linked to."""
  mark = f' id="{html.escape(anchor)}"' if anchor else ''
  return f'<h{level}{mark}>{html.escape(text)}</h{level}>'


def contents(links: dict[str, str]) -> str:
  """Links to headings: {anchor: text}."""
  inner = ''.join(
    f'<a href="#{html.escape(anchor)}">{html.escape(text)}</a>'
    for anchor, text in links.items()
  )
  return f'<nav aria-label="Contents">{inner}</nav>'


def paragraph(text: str, kind: str = '') -> str:
  """A paragraph, of kind 'lead', 'faint' or 'warn'; nothing for no text."""
  if not text:
    return ''
  mark = f' class="{kind}"' if kind else ''
  return f'<p{mark}>{html.escape(text)}</p>'


def bullets(texts: Iterable[str]) -> str:
  """A list."""
  inner = ''.join(f'<li>{html.escape(text)}</li>' for text in texts)
  return f'<ul>{inner}</ul>'


def table(head: Sequence[str], rows: Iterable[Sequence]) -> str:
  """A table; columns of numbers, given as such or as None, stand right.

  Args:
    head: of the columns.
    rows: of text, numbers (told in 4 digits) and None (told as a dash).
  """
  rows = [list(row) for row in rows]
  numeric = [
    all(not isinstance(row[i], str) for row in rows) for i in range(len(head))
  ]

  def cell(tag, value, i):
    mark = ' class="number"' if numeric[i] else ''
    return f'<{tag}{mark}>{html.escape(_told(value))}</{tag}>'

  def line(tag, values):
    return f'<tr>{"".join(cell(tag, x, i) for i, x in enumerate(values))}</tr>'

  body = ''.join(line('td', row) for row in rows)
  return (
    f'<div class="scroll"><table><thead>{line("th", head)}</thead>'
    f'<tbody>{body}</tbody></table></div>'
  )


def _told(value):
  if value is None:
    return '–'
  if isinstance(value, str):
    return value
  if abs(value) >= 1000:
    return f'{value:,.0f}'
  return f'{value:.4g}'


def picture(path: pathlib.Path, alt: str, caption: str = '') -> str:
  """A PNG within the page.

  Args:
    path: of the file.
    alt: what is to be seen, for those who do not see it.
    caption: below it.
  """
  data = base64.b64encode(path.read_bytes()).decode()
  below = f'<figcaption>{html.escape(caption)}</figcaption>' if caption else ''
  return (
    f'<figure><img src="data:image/png;base64,{data}"'
    f' alt="{html.escape(alt)}">{below}</figure>'
  )
