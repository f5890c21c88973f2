"""A Cloud Storage emulator in this process, with conditional writes.

gcp-storage-emulator ignores `ifGenerationMatch`, which leases need, and fails
at empty uploads.
"""

import contextlib
import http
from collections.abc import Callable
from urllib import parse

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound

from vid2act_jax.data.bucket import Bucket
from vid2act_jax.data.mirror import Mirror

BUCKET = 'bucket'


def is_file_upload(url: str) -> bool:
  """Whether a request uploads a file, not a manifest or a lease."""
  return 'uploadType=' in url and '.vid2act' not in url


class Emulator:
  """The running emulator.

  fail: (method, URL) -> status of the answer, or None to handle the request.
  """

  def __init__(self, storage, port):
    """Sets the storage of the server at a port."""
    self.storage, self.url = storage, f'http://localhost:{port}'
    self.fail: Callable[[str, str], int | None] = lambda method, url: None

  def names(self, folder='') -> list[str]:
    """The objects below a folder."""
    items, _ = self.storage.get_file_list(BUCKET, folder)
    return sorted(item['name'] for item in items)

  def read(self, name) -> bytes:
    """The content of an object."""
    return self.storage.get_file(BUCKET, name)

  def remove(self, name) -> None:
    """Removes an object."""
    self.storage.delete_file(BUCKET, name)

  def commit(self, folder, url) -> None:
    """Makes a folder the content of a run in the bucket."""
    mirror = Mirror(Bucket(url), folder)
    mirror._read_manifest(resumes=False)
    mirror.commit(mirror.upload())

  def write(self, name, data) -> None:
    """Replaces an object's content."""
    self.storage.create_file(
      BUCKET, name, data, self.storage.get_file_obj(BUCKET, name)
    )


def _handler(holder):
  class Handler(server.RequestHandler):
    """Refuses requests whose condition does not hold, or that should fail."""

    def _refused(self, method):
      status = holder['emulator'].fail(method, self.path)
      if status is None and not self._holds():
        status = 412
      if status is None:
        return False
      length = int(self.headers.get('Content-Length') or 0)
      self.rfile.read(length)
      self.send_response(status, http.HTTPStatus(status).phrase)
      self.send_header('Content-Length', '0')
      self.end_headers()
      return True

    def _holds(self):
      url = parse.urlparse(self.path)
      query = parse.parse_qs(url.query)
      if 'ifGenerationMatch' not in query:
        return True
      name = query.get('name', [url.path.rpartition('/o/')[2]])[0]
      try:
        found = self.storage.get_file_obj(BUCKET, parse.unquote(name))
        generation = found['generation']
      except NotFound:
        generation = '0'
      return query['ifGenerationMatch'] == [generation]

    def do_GET(self):
      self._refused('GET') or super().do_GET()

    def do_POST(self):
      self._refused('POST') or super().do_POST()

    def do_DELETE(self):
      self._refused('DELETE') or super().do_DELETE()

  return Handler


@contextlib.contextmanager
def emulate(monkeypatch):
  """Runs an emulator with a bucket, also for children of this process."""
  holder = {}
  monkeypatch.setattr(server, 'RequestHandler', _handler(holder))
  read = server._read_data
  monkeypatch.setattr(server, '_read_data', lambda *args: read(*args) or b'')
  # Of connections that wait; clients open several.
  monkeypatch.setattr(server.server.HTTPServer, 'request_queue_size', 64)
  running = server.create_server('localhost', 0, True, default_bucket=BUCKET)
  with running:
    port = running._api._httpd.server_address[1]
    holder['emulator'] = Emulator(running._storage, port)
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', holder['emulator'].url)
    monkeypatch.setenv('NO_GCE_CHECK', 'true')  # Asks no other server.
    yield holder['emulator']
