"""HTML pages from templates of this folder: one file each, without scripts."""

import base64
import pathlib

import jinja2


def render(template: str, **values) -> str:
  """Returns the page of a template; all text of the values is escaped."""
  env = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return env.get_template(template).render(**values).strip() + '\n'


def data_url(png: bytes) -> str:
  """Returns a URL that holds an image, for a page without other files."""
  return f'data:image/png;base64,{base64.b64encode(png).decode()}'
