"""The logger: its files, and what a resumed stage removes."""

import json
import math
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from vid2act_jax import types
from vid2act_jax.loops import logger, progress, video


def _frames(length, size=64):
  ramp = np.arange(size, dtype=np.uint8)
  frames = np.zeros((length, size, size, 3), np.uint8)
  frames[..., 0] = ramp
  frames[..., 1] = np.arange(length, dtype=np.uint8)[:, None, None] * 20
  return frames


def _events(folder):
  """The (step, value) pairs of every event file in a folder."""
  pairs = []
  for path in sorted(folder.glob('events*')):
    data = path.read_bytes()
    while data:  # u64 length, u32 crc, the record, u32 crc.
      size = int.from_bytes(data[:8], 'little')
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      pairs += [(event.step, value) for value in event.summary.value]
      data = data[16 + size :]
  return pairs


def test_scalars_go_to_file_and_tensorboard(tmp_path):
  with logger.Logger(tmp_path, 'finetune') as log:
    log.scalars(3, {'train/kl': np.float32(0.5), 'eval/return': 7})
  (record,) = logger.read_metrics(tmp_path)
  assert record.pop('time') >= 0
  assert record == {
    'stage': 'finetune',
    'step': 3,
    'train/kl': 0.5,
    'eval/return': 7.0,
  }
  pairs = _events(tmp_path / 'tensorboard' / 'finetune')
  assert {(s, v.tag, v.simple_value) for s, v in pairs} == {
    (3, 'finetune/train/kl', 0.5),
    (3, 'finetune/eval/return', 7.0),
  }


def test_not_finite_values_stay_json(tmp_path):
  with logger.Logger(tmp_path, 'pretrain') as log:
    log.scalars(1, {'a': float('nan'), 'b': float('inf'), 'c': 1.0})
  text = (tmp_path / 'metrics.jsonl').read_text()
  record = json.loads(text, parse_constant=pytest.fail)
  assert (record['a'], record['b'], record['c']) == (None, None, 1.0)
  (record,) = logger.read_metrics(tmp_path, 'pretrain')
  assert math.isnan(record['a']) and math.isnan(record['b'])
  # It is still JSON after the next stage has rewritten it.
  logger.Logger(tmp_path, 'finetune').close()
  assert (tmp_path / 'metrics.jsonl').read_text() == text


def test_resume_removes_later_lines_and_continues_the_time(tmp_path):
  with logger.Logger(tmp_path, 'pretrain') as log:
    log.scalars(500, {'x': 1})
  with logger.Logger(tmp_path, 'finetune') as log:
    log._start -= 100  # As if it ran for 100 seconds.
    for step in (10, 20, 30):
      log.scalars(step, {'x': step})
  with open(tmp_path / 'metrics.jsonl', 'a', encoding='utf-8') as file:
    file.write('{"stage": "finetune", "step": 4')  # Killed while writing.
  with logger.Logger(tmp_path, 'finetune', resume_step=20) as log:
    log.scalars(30, {'x': -30})
  records = logger.read_metrics(tmp_path)
  assert [(r['stage'], r['step'], r['x']) for r in records] == [
    ('pretrain', 500, 1),
    ('finetune', 10, 10),
    ('finetune', 20, 20),
    ('finetune', 30, -30),
  ]
  times = [r['time'] for r in records[1:]]
  assert times == sorted(times) and 100 <= times[-1] < 110


def test_new_start_removes_only_its_stage(tmp_path):
  for stage in ('pretrain', 'finetune', 'finetune'):
    with logger.Logger(tmp_path, stage) as log:
      log.scalars(1, {'x': 1})
      log.video(900, 'eval', _frames(2))
  assert len(logger.read_metrics(tmp_path, 'finetune')) == 1
  assert len(logger.read_metrics(tmp_path, 'pretrain')) == 1
  assert len(list((tmp_path / 'tensorboard' / 'finetune').iterdir())) == 1
  logger.Logger(tmp_path, 'finetune').close()
  names = [p.name for p in (tmp_path / 'videos').iterdir()]
  assert [x.split('.')[0] for x in names] == ['pretrain-eval-000000900']


def test_the_largest_step_removes_nothing(tmp_path):
  for _ in range(2):
    with logger.Logger(tmp_path, 'collect', resume_step=sys.maxsize) as log:
      log.scalars(1, {'x': 1})
  assert len(logger.read_metrics(tmp_path)) == 2


def test_damage_inside_the_file_is_an_error(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"stage": "a"}\nnonsense\n')
  with pytest.raises(types.UserError, match='line 2 is not JSON'):
    logger.read_metrics(tmp_path)


def test_unwritable_folder_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(types.UserError, match='file.*--workdir'):
    logger.Logger(tmp_path / 'file' / 'run', 'collect')


def test_videos_are_gifs_and_the_newest_are_kept(tmp_path, monkeypatch):
  monkeypatch.setattr(video, 'default_suffix', lambda: '.gif')
  with logger.Logger(tmp_path, 'finetune') as log:
    log.video(1, 'eval_random', _frames(2))
    for step in range(8):
      log.video(step * 1000, 'eval', _frames(4))
  names = sorted(p.name for p in (tmp_path / 'videos').glob('*-eval-*'))
  assert names == [
    f'finetune-eval-{step:09d}.gif' for step in range(3000, 8000, 1000)
  ]
  with Image.open(tmp_path / 'videos' / names[-1]) as gif:
    assert gif.n_frames == 4 and gif.size == (128, 128)
    gif.seek(3)
    pixel = np.asarray(gif.convert('RGB'))[10, 100]
  np.testing.assert_allclose(pixel, [50, 60, 0], atol=8)
  images = [
    value.image
    for _, value in _events(tmp_path / 'tensorboard' / 'finetune')
    if value.tag == 'finetune/eval'
  ]
  assert len(images) == 8
  assert images[0].encoded_image_string.startswith(b'GIF8')


def test_strip_is_written_unchanged(tmp_path):
  image = _frames(1)[0]
  with logger.Logger(tmp_path, 'pretrain') as log:
    path = log.strip(3, 'openloop', image)
  assert path == tmp_path / 'strips' / 'pretrain-openloop.png'
  np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


def test_plain_lines_are_few_and_complete(tmp_path, capsys, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
  with logger.Logger(tmp_path, 'finetune') as log:
    for step in range(0, 1001):
      clock[0] = step * 0.03
      log.progress(step, 1000, 'env steps', last_return=123.44)
    log.progress(1000, 1000, 'env steps')
    log.message('done [x]')
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 5  # At 0, 10, 20 and 30 s (the end), and the message.
  assert lines[1].startswith('finetune  334/1,000 env steps  33%  33.3/s  ')
  assert lines[1].endswith('20s left  last return 123.4')
  assert lines[3].startswith('finetune  1,000/1,000 env steps  100%')
  assert lines[4] == 'done [x]'


def test_live_line_on_a_terminal(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('TTY_COMPATIBLE', '1')
  monkeypatch.setenv('COLUMNS', '120')
  with logger.Logger(tmp_path, 'finetune') as log:
    log.progress(1, 10, 'updates', last_return=5.0)
    log.message('[0] message')
    log.progress(10, 10, 'updates', last_return=6.0)
  out = capsys.readouterr().out
  assert '[0] message\n' in out
  assert '10/10 updates' in out and 'last return 6' in out
