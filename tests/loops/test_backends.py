"""Backends of the logger, and what is checked before a run starts."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from experiments import debug
from vid2act_jax.loops import backends, config_checks, logger, setup, video
from vid2act_jax.types import UserError

KEY = '0123456789abcdef0123456789abcdef01234567'


def _frames(length, height=64, width=64):
  frames = np.zeros((length, height, width, 3), np.uint8)
  frames[..., 0] = np.linspace(0, 250, width).astype(np.uint8)
  frames[..., 1] = np.arange(length, dtype=np.uint8)[:, None, None] * 20
  return frames


@pytest.mark.parametrize(
  'names,message',
  [
    (('tensorboard',), "lacks 'jsonl': .*read metrics.jsonl; set --config"),
    ((), "lacks 'jsonl'"),
    (('jsonl', 'mlflow'), "has 'mlflow'; the backends are jsonl, tensorboard"),
  ],
)
def test_wrong_backends_are_found_before_the_start(tmp_path, names, message):
  config = debug.get_config()
  config.logger.backends = names
  with pytest.raises(UserError, match=message):
    config_checks.check_config(config.lock(), tmp_path)


def test_a_missing_package_names_its_extra(monkeypatch):
  monkeypatch.setattr(backends, 'find_spec', lambda name: None)
  backends.check(['jsonl'])
  with pytest.raises(
    UserError, match=r"wandb is not .*install -e '\.\[wandb\]"
  ):
    backends.check(['jsonl', 'wandb'])


def test_a_new_backend_is_one_class_and_one_line(tmp_path, monkeypatch):
  calls = []

  class Memory(backends.Backend):
    package, extra = 'json', 'none'

    def scalars(self, step, line, values):
      calls.append((self.log.stage, step, line, values))

    def video(self, step, line, name, path, frames):
      calls.append((name, path.name, frames.shape))

    def close(self):
      calls.append('closed')

  monkeypatch.setitem(backends.BACKENDS, 'memory', Memory)
  config = debug.get_config()
  config.logger.backends = 'jsonl', 'memory'
  backends.check(config.logger.backends)
  with setup.open_log(config, tmp_path, 'finetune', None, {}) as log:
    log.scalars(4, {'a': 1})
    log.video(5, 'eval', _frames(2))
    log.strip(5, 'open_loop', _frames(1)[0])
  assert calls == [
    ('finetune', 4, 1, {'a': 1.0}),
    (
      'eval',
      f'finetune-eval-000000005{video.default_suffix()}',
      (2, 64, 64, 3),
    ),
    'closed',
  ]
  assert not (tmp_path / 'tensorboard').exists()
  assert len(logger.read_metrics(tmp_path)) == 1


@pytest.mark.parametrize('suffix', video.SUFFIXES)
def test_videos_round_trip(tmp_path, suffix):
  if suffix == '.mp4':
    pytest.importorskip('av')
  frames = _frames(5, 65, 33)
  path = tmp_path / f'a{suffix}'
  path.write_bytes(video.encode(frames, suffix))
  found = video.read(path)[:, :130:2, :66:2].astype(int)
  assert found.shape == frames.shape
  assert np.abs(found - frames).mean() < 8
  large = video.encode(_frames(1, 201, 10), suffix)
  path.write_bytes(large)
  assert video.read(path).shape in [(1, 201, 10, 3), (1, 202, 10, 3)]


def test_without_pyav_videos_are_gifs(tmp_path, monkeypatch):
  for suffix in '.mp4', '.gif':
    (tmp_path / f'a{suffix}').touch()
  monkeypatch.setitem(sys.modules, 'av', None)
  assert video.default_suffix() == '.gif'
  video.check_suffix(tmp_path / 'a.gif')
  with pytest.raises(UserError, match=r"install -e '\.\[video\]'; or name it"):
    video.check_suffix(tmp_path / 'a.mp4')
  with pytest.raises(UserError, match='name it a.mp4 or a.gif'):
    video.check_suffix(tmp_path / 'a.avi')


def test_the_newest_videos_of_both_kinds_are_kept(tmp_path, monkeypatch):
  for suffix, steps in (('.gif', range(4)), ('.mp4', range(4, 8))):
    if suffix == '.mp4':
      pytest.importorskip('av')
    monkeypatch.setattr(video, 'default_suffix', lambda suffix=suffix: suffix)
    with logger.Logger(tmp_path, 'finetune', 3, None, ('jsonl',)) as log:
      for step in steps:
        log.video(step, 'eval', _frames(2))
  names = sorted(x.name for x in (tmp_path / 'videos').iterdir())
  assert [x[-5:] for x in names] == [
    '3.gif',
    *(f'{i}.mp4' for i in range(4, 8)),
  ]
  # Those after the checkpoint are removed.
  logger.Logger(tmp_path, 'finetune', 5, None, ('jsonl',)).close()
  assert len(list((tmp_path / 'videos').iterdir())) == 3


@pytest.fixture
def wandb(monkeypatch):
  """The real package, without a network."""
  package = pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_API_KEY', KEY)
  for name in 'WANDB_PROJECT', 'WANDB_NAME', 'WANDB_RUN_GROUP':
    monkeypatch.delenv(name, raising=False)
  return package


def _read_log(data):
  """The records of a file of wandb: a log in the format of LevelDB."""
  position, part = 7, b''  # After the file's own header.
  while position + 7 <= len(data):
    if 32768 - position % 32768 < 7:  # No header fits the rest of a block.
      position += 32768 - position % 32768
      continue
    size = int.from_bytes(data[position + 4 : position + 6], 'little')
    kind = data[position + 6]  # 1: whole; 2, 3, 4: first, inner, last part.
    part += data[position + 7 : position + 7 + size]
    position += 7 + size
    if kind in (1, 4):
      yield part
      part = b''


def _records(workdir):
  """The records of each start of a run, from the package's own files."""
  from wandb.proto.wandb_internal_pb2 import Record

  paths = sorted(workdir.glob('wandb/offline-run-*/*.wandb'))
  return [[*map(Record.FromString, _read_log(x.read_bytes()))] for x in paths]


def _run_once(folder, seed, resume_step, values):
  config = debug.get_config()
  config.seed = seed
  config.logger.backends = 'jsonl', 'wandb'
  lines = {} if resume_step is None else {'lines': 1}
  for stage in 'pretrain', 'finetune':
    with setup.open_log(config, folder, stage, resume_step, lines) as log:
      log.scalars(3, {'similarity/a': 0.25, **values})
      log.video(3, 'eval', _frames(2))
      log.strip(3, 'open_loop', _frames(1)[0])
  backends.finish(folder)


def test_wandb_without_a_network(tmp_path, wandb):
  backends.check(['jsonl', 'wandb'])
  folders = [tmp_path / 'several' / f'seed_{i}' for i in range(2)]
  threads = [
    threading.Thread(target=_run_once, args=(x, i, None, {'train/kl': 2.0}))
    for i, x in enumerate(folders)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  _run_once(folders[0], 0, 3, {'train/kl': 3.0})  # Resumed.
  ids = set()
  for folder, num_starts in zip(folders, (2, 1), strict=True):
    starts = _records(folder)
    assert len(starts) == num_starts  # One for both stages.
    runs = [x.run for records in starts for x in records if x.HasField('run')]
    ids.add(json.loads((folder / 'wandb.json').read_text())['id'])
    assert {x.run_id for x in runs} <= ids
    assert runs[0].run_group == 'several'
    assert runs[0].display_name == f'several/{folder.name}'
    items = [
      item
      for record in starts[0]
      if record.HasField('history')
      for item in record.history.item
    ]
    values = {
      x.key or '/'.join(x.nested_key): json.loads(x.value_json) for x in items
    }
    assert values['finetune/train/kl'] == 2 and values['similarity/a'] == 0.25
    assert values['finetune/step'] == 3
    assert values['videos/finetune-eval/_type'] == 'video-file'
    for name in 'eval', 'open_loop-strip':
      path = values[f'videos/finetune-{name}/path']
      assert len([*folder.glob(f'wandb/offline-run-*/files/{path}')]) == 1
  assert len(ids) == 2
  for path in tmp_path.rglob('*'):
    assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
  'changes,message',
  [
    ({}, 'there is no API key'),
    ({'WANDB_MODE': 'nowhere'}, "Input should be 'online', 'offline'"),
  ],
)
def test_wandb_that_cannot_log(tmp_path, wandb, changes, message):
  """In a process of its own: the package remembers a key."""
  code = (
    'from vid2act_jax.loops import backends\n'
    'try:\n  backends.check(["jsonl", "wandb"])\n'
    'except Exception as error:\n  print(type(error).__name__, error)\n'
  )
  env = {'HOME': str(tmp_path), 'PYTHONPATH': ':'.join(sys.path), **changes}
  done = subprocess.run(
    [sys.executable, '-c', code], env=env, capture_output=True, text=True
  )
  assert done.stdout.startswith('UserError config.logger.backends has wandb')
  assert message in done.stdout and 'WANDB_MODE=offline' in done.stdout


def test_a_damaged_id(tmp_path, wandb):
  (tmp_path / 'wandb.json').write_text('{"id"')
  with pytest.raises(UserError, match='wandb.json cannot be read.*remove it'):
    logger.Logger(tmp_path, 'finetune', None, None, ('jsonl', 'wandb'))
