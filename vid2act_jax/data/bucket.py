"""Objects of a Cloud Storage bucket, by gcsfs (extra `gcs`)."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import logging
import os
import pathlib
import re
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, NamedTuple

from vid2act_jax.types import UserError

SCHEME = 'gs://'
_URL = re.compile(r'gs://([a-z0-9][-_.a-z0-9]{1,220}[a-z0-9])(?:/(.*))?')
_THREADS = 8  # Transfers at a time.
_WHOLE_BYTES = 64 << 20  # Smaller files are sent in one request.


class Changed(Exception):
  """An object is not of the generation that a conditional write expects."""


class Stored(NamedTuple):
  """An object; md5: hexadecimal, '' if the bucket does not know it."""

  size: int
  md5: str


def is_url(text: str | os.PathLike) -> bool:
  """Whether this names a folder of a bucket, not of a file system."""
  return str(text).startswith(SCHEME)


class Bucket:
  """The objects below a URL; their names are relative to it."""

  def __init__(self, url: str):
    """Checks the URL and the installation; connects to nothing yet.

    Args:
      url: 'gs://BUCKET/FOLDER'.

    Raises:
      UserError: the URL is not valid, or gcsfs is not installed.
    """
    match = _URL.fullmatch(url.rstrip('/'))
    folders = (match[2] or '').split('/') if match else ['']
    if not match or not all(folders) or {'.', '..'} & set(folders):
      raise UserError(
        f'{url}: not a folder of a bucket; write it as gs://BUCKET/FOLDER'
      )
    if not find_spec('gcsfs'):
      raise UserError(f"{url}: gcsfs is not installed; pip install -e '.[gcs]'")
    self.url, self._bucket, self._folder = url.rstrip('/'), match[1], match[2]

  def child(self, name: str) -> Bucket:
    """The objects below a folder."""
    return Bucket(f'{self.url}/{name}')

  def parent(self) -> Bucket | None:
    """The objects below the folder that this one is in; None: the bucket."""
    parent = self.url.rpartition('/')[0]
    return Bucket(parent) if '/' in self._folder else None

  def list(self, folder: str = '') -> dict[str, Stored]:
    """All objects, or those below a folder, by name."""
    prefix = f'{self._bucket}/{self._folder}'
    start = f'{prefix}/{folder}'.rstrip('/')
    with self._explained(), contextlib.suppress(FileNotFoundError):
      self._fs.invalidate_cache()
      found = self._fs.find(start, detail=True)
      return {
        path[len(prefix) + 1 :]: Stored(int(info['size']), _hex(info))
        for path, info in found.items()
        if path.startswith(f'{start}/')
      }
    self._check_exists()
    return {}

  def read(self, name: str) -> tuple[bytes, int] | None:
    """An object's content and generation; None if it does not exist."""
    path = self._path(name)
    with self._explained():
      while True:
        try:
          self._fs.invalidate_cache()
          generation = int(self._fs.info(path)['generation'])
        except FileNotFoundError:
          self._check_exists()
          return None
        # A newer one may have replaced it: then it is asked for again.
        with contextlib.suppress(FileNotFoundError):
          args = {'alt': 'media', 'generation': str(generation)}
          _, data = self._fs.call('GET', self._fs.url(path), **args)
          return data, generation

  def write(self, name: str, data: bytes, expected: int | None = None) -> int:
    """Writes an object; returns its generation.

    Args:
      name: of the object.
      data: its content.
      expected: generation of the object to replace, 0: there is none; None:
        any.

    Raises:
      Changed: the object has another generation.
    """
    args = {'uploadType': 'media', 'name': f'{self._folder}/{name}'}
    if expected is not None:
      args['ifGenerationMatch'] = str(expected)
    path = f'{self._fs._location}/upload/storage/v1/b/{self._bucket}/o'
    with self._explained():
      try:
        return int(
          self._fs.call('POST', path, data=data, json_out=True, **args)[
            'generation'
          ]
        )
      except FileExistsError as error:  # Status 412.
        raise Changed(name) from error

  def upload(self, path: pathlib.Path, name: str) -> None:
    """Uploads a file; an object is only seen when it is whole."""
    with self._explained():
      if path.stat().st_size <= _WHOLE_BYTES:
        # Not `pipe_file`: it sends parts of a text, in which a server may take
        # a last carriage return for an end of line.
        self.write(name, path.read_bytes())
      else:
        self._fs.put_file(str(path), self._path(name))

  def download(self, name: str, path: pathlib.Path) -> bool:
    """Downloads an object to a new file; False if it does not exist."""
    with self._explained():
      try:
        self._fs.get_file(self._path(name), str(path))
      except FileNotFoundError:
        return False
    return True

  def remove(self, names: Iterable[str]) -> None:
    """Removes objects; those that do not exist are none to remove."""

    def remove_one(name):
      with self._explained(), contextlib.suppress(FileNotFoundError):
        self._fs.rm_file(self._path(name))

    for_each(remove_one, names)

  def remove_generation(self, name: str, generation: int) -> None:
    """Removes an object, if it is of this generation; else Changed."""
    key, condition = f'{self._folder}/{name}', str(generation)
    with self._explained():
      try:
        path = 'b/{}/o/{}', self._bucket, key
        self._fs.call('DELETE', *path, ifGenerationMatch=condition)
      except (FileNotFoundError, FileExistsError) as error:
        raise Changed(name) from error

  def _path(self, name):
    return f'{self._bucket}/{self._folder}/{name}'

  @functools.cached_property
  def _fs(self) -> Any:
    # Not gcsfs.GCSFileSystem, which asks for the kind of every bucket.
    from gcsfs.core import GCSFileSystem

    # It logs errors with their tracebacks before it raises them.
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)
    with self._explained():
      return GCSFileSystem(use_listings_cache=False)

  def _check_exists(self):
    """Raises a UserError if there is no such bucket."""
    try:
      self._fs.call('GET', 'b/{}/o', self._bucket, maxResults=1)
    except FileNotFoundError as error:
      raise UserError(self._missing()) from error

  def _missing(self):
    bucket = f'{SCHEME}{self._bucket}'
    return (
      f'{self.url}: there is no bucket {bucket}; create it (gcloud storage'
      f' buckets create {bucket}), or correct --workdir'
    )

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Turns the errors of a bucket into UserErrors."""
    try:
      yield
    except (UserError, Changed):
      raise
    except FileNotFoundError as error:
      if error.errno is not None:  # A local file.
        raise
      raise UserError(self._missing()) from error
    except Exception as error:  # Of gcsfs, google.auth, aiohttp and requests.
      if _is_local(error):
        raise
      text = ' '.join(str(error).split()) or type(error).__name__
      if _is_refused(error):
        raise UserError(
          f'{self.url}: no permission ({text[:200]}); log in (gcloud auth'
          ' application-default login), and give the account the role'
          f' storage.objectAdmin on {SCHEME}{self._bucket}'
        ) from error
      raise UserError(
        f'{self.url}: the bucket cannot be used ({text[:200]}); check the'
        ' network and start again: what was committed is kept'
      ) from error


def for_each(function, items) -> list:
  """Calls a function for all items, several at a time."""
  items = list(items)
  if len(items) < 2:
    return [function(item) for item in items]
  with ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(function, items))


def md5_of(path: pathlib.Path) -> str:
  """The MD5 hash of a file, which buckets record, hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'md5').hexdigest()


def local_folder(url: str, base: str = '', label: str = '') -> pathlib.Path:
  """Where a process keeps its copy of a folder of a bucket.

  Args:
    url: of the folder.
    base: folder of the copies; '': in the user's cache.
    label: differs between the processes of one machine.

  Raises:
    UserError: there is no home folder, or `base` is in a bucket.
  """
  if is_url(base):
    raise UserError(
      f'config.replay.scratch={base}: must be on a file system of this machine'
    )
  if not base:
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    base = f'{base}/vid2act_jax/buckets'
  url = url.rstrip('/')
  digest = hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
  name = f'{url.rpartition("/")[2]}-{digest}{label}'
  try:
    return pathlib.Path(base).expanduser().absolute() / name
  except RuntimeError as error:
    raise UserError(
      f'{url}: there is no home folder for its copy; set'
      ' --config.replay.scratch to a local folder'
    ) from error


def rename(text: str, folder: pathlib.Path, url: str) -> str:
  """Replaces the name of a copy in a text by that of the folder copied."""
  return re.sub(rf'{re.escape(str(folder))}(?![\w-]|\.\w)', lambda _: url, text)


def to_json(value) -> bytes:
  """Encodes a small object."""
  return (json.dumps(value, indent=1) + '\n').encode()


def _is_local(error: Exception) -> bool:
  """Whether it is of the local file system: connections have numbers, too."""
  import aiohttp  # With gcsfs.

  network = aiohttp.ClientError, ConnectionError, TimeoutError, socket.gaierror
  local = isinstance(error, OSError) and error.errno is not None
  return local and not isinstance(error, network)


def _is_refused(error):
  code = str(getattr(error, 'code', ''))
  names = 'Forbidden', 'Anonymous', 'DefaultCredentials', 'RefreshError'
  text = f'{type(error).__name__} {error}'
  return code in ('401', '403') or any(name in text for name in names)


def _hex(info):
  value = info.get('md5Hash')
  return base64.b64decode(value).hex() if value else ''
