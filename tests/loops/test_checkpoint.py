"""Checkpoints: round trips, strictness by name, damage, markers."""

import pathlib
import shutil
import subprocess
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from vid2act_jax import types
from vid2act_jax.loops import checkpoint

# Orbax closes an event loop before a failed read reports to it.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@flax.struct.dataclass
class _State:
  step: jax.Array
  params: dict
  opt: tuple
  teacher: dict


def _state(width=3, scale=1.0):
  params = {
    'encoder': {
      'kernel': scale * jnp.arange(4.0 * width).reshape(4, width),
      'bias': jnp.zeros(width, jnp.bfloat16),
    }
  }
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
  return _State(jnp.int32(7), params, optimizer.init(params), {})


def _structs(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def _assert_same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def _damage(folder):
  """Truncates every data file of a step to half its size."""
  count = 0
  for path in pathlib.Path(folder).glob('state/**/d/*'):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    count += 1
  assert count


@pytest.mark.parametrize('structs', [False, True])
def test_round_trip(tmp_path, structs):
  state = _state()
  extra = {'env_steps': 12, 'rng': [1, 2**63], 'name': 'a'}
  checkpoint.Checkpoint(tmp_path / 'teacher').save(7, state, extra)
  target = _structs(state) if structs else _state(scale=0)
  loader = checkpoint.Checkpoint(tmp_path / 'teacher')
  assert loader.latest() == 7
  loader.check(target)
  restored, restored_extra, step = loader.restore(target)
  _assert_same(restored, state)
  assert (restored_extra, step) == (extra, 7)


def test_raw_gives_plain_arrays(tmp_path):
  saver = checkpoint.Checkpoint(tmp_path)
  saver.save(1, _state(), {})
  state, extra, step = saver.restore_raw()
  kernel = state['params']['encoder']['kernel']
  assert isinstance(kernel, np.ndarray) and (extra, step) == ({}, 1)
  np.testing.assert_array_equal(kernel, np.arange(12).reshape(4, 3))
  assert state['opt'][1][0]['count'] == 0


def test_keeps_the_newest(tmp_path):
  saver = checkpoint.Checkpoint(tmp_path, keep=2)
  assert saver.latest() is None
  for step in (10, 20, 30):
    saver.save(step, _state(scale=step), {'n': step})
    saver.finish(step)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'20', '30', 'DONE.json'}
  assert saver.restore(_state())[1:] == ({'n': 30}, 30)


def test_same_and_later_steps_are_replaced(tmp_path):
  saver = checkpoint.Checkpoint(tmp_path)
  for step, n in ((10, 1), (20, 2), (20, 3), (15, 4)):
    saver.save(step, _state(), {'n': n})
    assert saver.restore(_state())[1:] == ({'n': n}, step)
  assert {path.name for path in tmp_path.iterdir()} == {'10', '15'}


@pytest.mark.parametrize('method', ['restore', 'check'])
def test_every_mismatch_is_listed(tmp_path, method):
  saver = checkpoint.Checkpoint(tmp_path)
  saver.save(5, _state(width=3), {})
  target = _state(width=4).replace(step=jnp.float32(0))
  del target.params['encoder']['bias']
  target.params['decoder'] = {'bias': jnp.zeros(2)}
  with pytest.raises(types.UserError) as caught:
    getattr(saver, method)(target)
  lines = [line.strip() for line in str(caught.value).splitlines()]
  assert str(tmp_path / '5') in lines[0]
  assert set(lines[1:-1]) == {
    'missing in the checkpoint: params/decoder/bias',
    'unknown to this run: params/encoder/bias',
    'step: int32 [] in the checkpoint, float32 [] in this run',
    *(
      f'{name}: {dtype} {a} in the checkpoint, {dtype} {b} in this run'
      for name, dtype, a, b in (
        ('params/encoder/kernel', 'float32', [4, 3], [4, 4]),
        ('opt/1/0/mu/encoder/kernel', 'float32', [4, 3], [4, 4]),
        ('opt/1/0/nu/encoder/kernel', 'float32', [4, 3], [4, 4]),
        ('opt/1/0/mu/encoder/bias', 'bfloat16', [3], [4]),
        ('opt/1/0/nu/encoder/bias', 'bfloat16', [3], [4]),
      )
    ),
  }
  assert 'sizes in the config' in lines[-1]


def test_long_mismatch_list_ends_with_a_count(tmp_path):
  saver = checkpoint.Checkpoint(tmp_path)
  saver.save(1, {'a': jnp.zeros(1)}, {})
  target = {'a': jnp.zeros(1), **{f'b{i}': jnp.zeros(1) for i in range(50)}}
  with pytest.raises(types.UserError, match='and 20 more') as caught:
    saver.restore(target)
  assert len(str(caught.value).splitlines()) == 33


def test_missing_folder_is_named_and_not_created(tmp_path):
  absent = tmp_path / 'absent'
  saver = checkpoint.Checkpoint(absent)
  for read in (
    saver.restore_raw,
    lambda: saver.check(_state()),
    lambda: saver.restore(_state()),
  ):
    with pytest.raises(types.UserError, match=f'no checkpoint in {absent}'):
      read()
  assert saver.latest() is None and saver.finished() is None
  assert not absent.exists()


@pytest.mark.parametrize(
  'error',
  [jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory'),
   MemoryError()],
)  # fmt: skip
def test_a_device_without_memory_is_no_damage(tmp_path, monkeypatch, error):
  """The checkpoint before it would need as much."""
  warnings = []
  saver = checkpoint.Checkpoint(tmp_path, warn=warnings.append)
  for step in (10, 20):
    saver.save(step, _state(), {})

  def fail(*unused_args, **unused_kwargs):
    raise error

  monkeypatch.setattr(ocp.CheckpointManager, 'restore', fail)
  with pytest.raises(type(error)):
    saver.restore(_state())
  monkeypatch.undo()
  assert not warnings and saver.restore(_state())[2] == 20


@pytest.mark.parametrize('kind', ['data', 'metadata', 'extra'])
def test_damaged_newest_falls_back_with_a_warning(tmp_path, kind):
  warnings = []
  saver = checkpoint.Checkpoint(tmp_path, warn=warnings.append)
  for step in (10, 20):
    saver.save(step, _state(scale=step), {'n': step})
  if kind == 'data':
    _damage(tmp_path / '20')
  elif kind == 'metadata':
    (tmp_path / '20' / 'state' / '_METADATA').write_text('')
  else:
    (tmp_path / '20' / 'extra' / 'metadata').write_text('{"n"')
  state, extra, step = saver.restore(_structs(_state()))
  assert (extra, step) == ({'n': 10}, 10)
  _assert_same(state, _state(scale=10))
  assert len(warnings) == 1 and str(tmp_path / '20') in warnings[0]
  assert (tmp_path / '20').is_dir()  # Reading removes nothing.
  saver.save(15, _state(), {})
  assert saver.latest() == 15
  assert {path.name for path in tmp_path.iterdir()} == {'10', '15'}


def test_all_damaged_is_an_error(tmp_path):
  saver = checkpoint.Checkpoint(tmp_path, warn=lambda text: None)
  saver.save(3, _state(), {})
  _damage(tmp_path / '3')
  with pytest.raises(types.UserError, match='every checkpoint .* damaged'):
    saver.restore(_state())


def test_incomplete_checkpoint_is_ignored(tmp_path):
  saver = checkpoint.Checkpoint(tmp_path)
  saver.save(3, _state(), {})
  (tmp_path / '4.orbax-checkpoint-tmp-12').mkdir()
  assert saver.latest() == 3
  saver.save(5, _state(), {})
  assert {path.name for path in tmp_path.iterdir()} == {'3', '5'}


def test_finished_marker(tmp_path):
  saver = checkpoint.Checkpoint(tmp_path / 'student')
  saver.finish(9, {'eval_return': 3.5})
  loader = checkpoint.Checkpoint(tmp_path / 'student')
  assert loader.finished() == {'step': 9, 'eval_return': 3.5}


def test_unwritable_folder_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(types.UserError, match=str(tmp_path / 'file')):
    checkpoint.Checkpoint(tmp_path / 'file').save(1, _state(), {})


def test_orbax_logs_and_warns_nothing(tmp_path, caplog, recwarn):
  saver = checkpoint.Checkpoint(tmp_path)
  saver.save(1, _state(), {})
  saver.restore(_structs(_state()))
  assert [r for r in caplog.records if 'orbax' in r.pathname] == []
  assert len(recwarn) == 0


_FULL_DISK = """
import resource, signal, sys
import numpy as np
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.types import UserError

checkpoint = Checkpoint(sys.argv[1])
rng = np.random.default_rng(0)
state = lambda value: {'w': rng.normal(size=(300, 300)) * 0 + value}
checkpoint.save(1, state(1.0), {})
checkpoint.save(2, state(2.0), {})
# A limit on the size of files acts like a full disk.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
for step in (2, 3):
  try:
    checkpoint.save(step, {'w': rng.normal(size=(300, 300))}, {})
  except UserError as error:
    print(error)
  else:
    sys.exit('the write did not fail')
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
loader = Checkpoint(sys.argv[1])
loader.recover()
restored, _, step = loader.restore_raw()
assert step == 2 and (restored['w'] == 2).all(), (step, restored)
loader.save(3, state(3.0), {})
assert loader.restore_raw()[2] == 3
"""


def test_full_disk_keeps_the_last_checkpoint(tmp_path):
  command = [sys.executable, '-c', _FULL_DISK, str(tmp_path / 'full')]
  process = subprocess.run(command, capture_output=True, text=True)
  assert process.returncode == 0, process.stderr
  first, second = process.stdout.splitlines()
  assert 'checkpoint of step 2' in first and 'step 3' in second
  assert 'make room' in first


def test_crash_while_a_checkpoint_is_replaced(tmp_path):
  """The old one was renamed, the new one does not exist yet."""
  saver = checkpoint.Checkpoint(tmp_path)
  saver.save(4, {'w': np.ones(3)}, {})
  (tmp_path / '4').rename(tmp_path / 'replaced-4')
  loader = checkpoint.Checkpoint(tmp_path)
  loader.recover()
  assert loader.restore_raw()[2] == 4
  # Or the new one exists, and the old one is not removed yet.
  shutil.copytree(tmp_path / '4', tmp_path / 'replaced-4')
  loader.recover()
  assert [p.name for p in tmp_path.iterdir()] == ['4']


def test_arrays_in_the_extra_dictionary(tmp_path):
  saver = checkpoint.Checkpoint(tmp_path)
  extra = {
    'n': 3,
    'carry': [np.float32([0.1, -2]), np.zeros((0, 2), np.uint8)],
    'deep': {'flag': np.array([True, False])},
  }
  saver.save(1, {'w': np.ones(2)}, extra)
  restored = saver.restore_raw()[1]
  assert restored['n'] == 3
  for left, right in (
    *zip(restored['carry'], extra['carry'], strict=True),
    (restored['deep']['flag'], extra['deep']['flag']),
  ):
    assert left.dtype == right.dtype and left.shape == right.shape
    np.testing.assert_array_equal(left, right)
