"""Malicious datasets of other formats are rejected, and no code is run."""

import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from tensorboardX.record_writer import masked_crc32c

from tests import untrusted_data
from tests.format_data import (
  make,
  open_source,
  solved,
  to_png,
  write_lerobot,
  write_minari,
  write_shard,
)
from tests.rlds_data import (
  encode_field,
  frame_record,
  rlds_features,
  tensor,
  write_rlds,
)
from tests.untrusted_data import GIB, header, write_bombs
from vid2act_jax.data import limits
from vid2act_jax.types import UserError

sentinel = pytest.fixture(untrusted_data.sentinel)
resource_limits = pytest.fixture(untrusted_data.resource_limits)


class TestTables:
  """Formats whose libraries follow the instructions of a file."""

  def test_ogbench_bombs(self, tmp_path, resource_limits):
    path = tmp_path / 'a.npz'
    for gib, message in ((3, 'claims to hold .* rows'), (0, 'claim to hold')):
      rows = gib * GIB or 1000
      write_bombs(path, key='terminals', gib=gib, count=bool(gib))
      with zipfile.ZipFile(path, 'a') as archive:
        for name, tail in (('observations', (999, 999, 3)), ('actions', (9,))):
          start = header((rows, *tail))
          archive.writestr(f'{name}.npy', start)
          size = len(start) + rows * int(np.prod(tail))
          archive.getinfo(f'{name}.npy').file_size = size
        if not gib:
          archive.writestr('terminals.npy', header((rows,)) + bytes(rows))
      with pytest.raises(UserError, match=f'a.npz: .*{message}.*restore'):
        open_source('ogbench', path)

  def test_hdf5(self, tmp_path, resource_limits):
    h5py = pytest.importorskip('h5py')
    secret = tmp_path / 'secret'
    secret.write_bytes(bytes(range(96)) * 3)
    layout = h5py.VirtualLayout((6, 3, 4, 4), 'u1')
    layout[:] = h5py.VirtualSource(str(secret), 'x', (6, 3, 4, 4))
    key, shape = 'observation', (6, 3, 4, 4)
    outside = [(str(secret), 0, 288)]

    def enlarge(file, rows):
      for name in (key, *file):
        file.pop(name, None)
        tail = (3, 64, 64) if name == key else ()
        file.create_dataset(name, (rows, *tail), 'u1', chunks=(64, *tail))

    changes = {
      'claim to hold 825 GB': lambda f: enlarge(f, 1 << 26),
      'too many to read': lambda f: enlarge(f, 1 << 40),
      'claim to hold 3.2': lambda f: f.create_dataset(
        key, shape, 'u1', maxshape=(None,) * 4, chunks=(1 << 20, 32, 32, 3)
      ),
      'is in another': lambda f: f.create_dataset(
        key, shape, 'u1', external=outside
      ),
      'another file': lambda f: f.create_virtual_dataset(key, layout),
      'in another file': lambda f: f.update(
        {key: h5py.ExternalLink(str(tmp_path / 'other' / '0.hdf5'), key)}
      ),
      'is not an array': lambda f: f.create_group(key),
      'should be numbers': lambda f: f.create_dataset(
        key, (6,), h5py.vlen_dtype(np.uint8)
      ),
    }
    write_shard(tmp_path / 'other' / '0.hdf5', [make()])
    for message, change in changes.items():
      path = write_shard(tmp_path / 'a' / '0.hdf5', [make()], observation=None)
      with h5py.File(path, 'a') as file:
        change(file)
      source = open_source('vd4rl', path.parent)
      with pytest.raises(UserError, match=f'0.hdf5.*{message}.*restore'):
        source.read(0)
      source.close()

  def test_minari_runs_no_code(self, tmp_path, sentinel):
    pytest.importorskip('minari')
    path = write_minari(tmp_path / 'a', [make()] * 2)
    file = path / 'data' / 'metadata.json'
    metadata = json.loads(file.read_text())
    spec = {
      'id': 'x-v0', 'entry_point': 'os:system', 'reward_threshold': None,
      'nondeterministic': False, 'max_episode_steps': None,
      'order_enforce': False, 'disable_env_checker': True,
      'additional_wrappers': [], 'vector_entry_point': None,
      'kwargs': {'command': f'touch {sentinel}'},
    }  # fmt: skip
    bad = {**metadata, 'env_spec': json.dumps(spec)}
    del bad['action_space']
    file.write_text(json.dumps(bad))
    with pytest.raises(UserError, match=f"{file}: missing 'action_space'; add"):
      open_source('minari', path)
    file.write_text(json.dumps({**metadata, 'total_episodes': 10**12}))
    with pytest.raises(UserError, match=f'{file}: claims 1000.*restore'):
      open_source('minari', path)

  def test_minari_sizes(self, tmp_path, resource_limits):
    h5py = pytest.importorskip('h5py')
    pytest.importorskip('minari')
    path = write_minari(tmp_path / 'a', [make(), make(), make()])
    secret = write_shard(tmp_path / '0.hdf5', [make()])
    with h5py.File(path / 'data' / 'main_data.hdf5', 'a') as file:
      del file['episode_0/rewards']
      file['episode_0'].create_dataset(
        'rewards', (1 << 40,), 'f4', chunks=(1024,)
      )
      del file['episode_1/rewards']
      file['episode_1/rewards'] = h5py.ExternalLink(str(secret), 'reward')
      file['episode_2/infos'] = file['episode_2']
    source = open_source('minari', path)
    for index, message in enumerate(
      ('claim to hold', 'another file', 'nested too deeply')
    ):
      with pytest.raises(UserError, match=f'{path}.*{message}.*restore'):
        source.read(index)

  @pytest.mark.parametrize(
    'pattern',
    ['../{file_index}', '/etc/{file_index}', '{file_index:999999999d}']
    + ['{file_index.real}', '{file_index!r}', '{video_key[0]}', '{0}'],
  )
  def test_lerobot_paths(self, tmp_path, pattern, resource_limits):
    path = _lerobot(tmp_path)
    info = path / 'meta' / 'info.json'
    changed = {**json.loads(info.read_text()), 'data_path': pattern}
    info.write_text(json.dumps(changed))
    with pytest.raises(UserError, match=f'{path}.*the path.*restore'):
      open_source('lerobot', path).read(0)

  def test_lerobot_rows(self, tmp_path, monkeypatch, resource_limits):
    def longer(rows):
      return [{**row, 'length': 10**12} for row in rows]

    path = _lerobot(tmp_path / 'a', **{'meta/episodes': longer})
    with pytest.raises(UserError, match='says 1000000000000 .*restore'):
      open_source('lerobot', path).read(0)
    path = _lerobot(tmp_path / 'b')
    monkeypatch.setattr(limits, 'MAX_ROWS', 4)
    with pytest.raises(UserError, match=f'{path}.*too many to read.*restore'):
      open_source('lerobot', path).read(0)

  def test_lerobot_images(self, tmp_path, sentinel):
    """PostScript could run code; an image can be larger than the memory."""
    program = (
      f'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n({sentinel}) run'
    )
    large = bytearray(to_png(np.zeros((16, 16, 3), np.uint8)))
    large[16:24] = struct.pack('>II', 40_000, 40_000)
    large[29:33] = struct.pack('>I', zlib.crc32(large[12:29]))
    for number, data in enumerate((program.encode(), bytes(large))):

      def change(rows, data=data):
        key = 'observation.images.top'
        return [{**r, key: {'bytes': data, 'path': None}} for r in rows]

      path = _lerobot(tmp_path / str(number), data=change)
      with pytest.raises(UserError, match=f'{path}.*(Image|pixels).*restore'):
        open_source('lerobot', path).read(0)

  def test_lerobot_playlists(self, tmp_path):
    pytest.importorskip('av')
    path = _lerobot(tmp_path, video=True)
    (video,) = path.rglob('*.mp4')
    video.rename(video.with_name('other.mp4'))
    video.write_text('ffconcat version 1.0\nfile other.mp4\n')
    with pytest.raises(UserError, match=f'{path}.*Invalid data.*restore'):
      open_source('lerobot', path).read(0)


class TestRlds:
  def test_records(self, tmp_path, resource_limits):
    """Claims of sizes: of a record, of the parts of an example, of arrays."""
    pytest.importorskip('google_crc32c')
    path = write_rlds(tmp_path, [solved(6, 1)])
    (shard,) = path.glob('*.tfrecord*')
    whole = shard.read_bytes()
    length = struct.pack('<Q', 1 << 60)
    size = struct.pack('<I', masked_crc32c(length))
    nested = b''
    for _ in range(3000):
      nested = encode_field(1, nested)
    for data, message in (
      (length + size + whole, 'truncated'),
      (frame_record(b'\x0a\xff\xff\xff\xff\x0f'), 'damaged'),
      (frame_record(nested), 'holds no frames|damaged'),
    ):
      shard.write_bytes(data)
      with pytest.raises(UserError, match=f'{path}.*({message}).*restore'):
        open_source('rlds', path).read(0)

  @pytest.mark.parametrize('side', [16, 100_000])
  def test_zlib_bombs(self, tmp_path, resource_limits, side):
    pytest.importorskip('google_crc32c')
    feature = tensor('uint8', side, side, 3, encoding='zlib')
    bomb = [zlib.compress(bytes(9_000_000))] * 6
    path = write_rlds(
      tmp_path,
      [solved(6, 0), solved(6, 1)],
      features={'observation/image': feature},
      **{'observation/image': bomb},
    )
    message = 'claim to hold' if side > 16 else 'damaged'
    with pytest.raises(UserError, match=f'{path}.*{message}.*restore'):
      open_source('rlds', path).read(1)

  def test_images_and_features(self, tmp_path, sentinel):
    pytest.importorskip('google_crc32c')
    program = (
      f'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n({sentinel}) run'
    )
    images = {'observation/image': [program.encode()] * 6}
    path = write_rlds(tmp_path, [solved(6, 0), solved(6, 1)], **images)
    with pytest.raises(UserError, match=f'{path}.*Image.*restore'):
      open_source('rlds', path).read(1)
    nested = rlds_features({'/'.join('a' * 40): {}})
    steps = {'sequence': {'feature': nested}}
    document = {'featuresDict': {'features': {'steps': steps}}}
    for text in (
      json.dumps(document),
      '{"featuresDict": ' * 10_000,
      '{"featuresDict": []}',
      '{"featuresDict": {"features": {"steps": {"sequence": 3}}}}',
    ):
      (path / 'features.json').write_text(text)
      with pytest.raises(UserError, match='features.json: damaged.*restore'):
        open_source('rlds', path)


def _lerobot(path, video=False, **changes):
  pytest.importorskip('pyarrow')
  return write_lerobot(path, [solved(6, 1)], video=video, **changes)
