"""Checkpoints; the only file that knows Orbax.

A folder holds one sub-folder per step kept, with the state's arrays and a
dictionary of JSON, and DONE.json once the stage has ended. A step is restored
by name: nothing is guessed, skipped or reshaped.
"""

import base64
import json
import logging
import math
import os
import pathlib
import shutil
import warnings

import jax
import numpy as np
import orbax.checkpoint as ocp

from vid2act_jax import sharding, types
from vid2act_jax.data import files, limits

_DONE = 'DONE.json'
_REPLACED = 'replaced-'  # What the name of a step put aside begins with.
_MOST_BYTES = 64 << 30  # Of a state; at the default sizes, 0.1 GB.
_ARRAY = 'array of type'  # Key that tells an array from a dictionary.
_MAX_TOLD = 30  # Mismatches named one by one; the others are counted.


class Checkpoint:
  """The checkpoints of one stage."""

  def __init__(self, directory, keep=2, say=warnings.warn):
    """Names the folder; nothing is read or written yet.

    Args:
      directory: of the stage's checkpoints.
      keep: how many of the newest to keep; two, so that one damaged by a
        machine that died leaves another.
      say: takes the text of a warning.
    """
    self.directory = pathlib.Path(os.path.abspath(directory))
    self._keep = keep
    self._say = say
    self._damaged = set()
    logging.getLogger('absl').addFilter(_is_not_chatter)

  def save(self, step, state, extra):
    """Writes a checkpoint; it is complete on disk when this returns.

    Checkpoints of this step and of later ones, as they are left when an older
    one was restored, are replaced.

    Args:
      step: int, in the stage's own unit.
      state: a tree of arrays; random keys as jax.random.key_data gives them.
      extra: a dictionary of what JSON can hold and of NumPy arrays: counters,
        random state.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
      self.directory.mkdir(parents=True, exist_ok=True)
      self.recover()
      aside = self._set_aside(step)
      with self._open(read_only=False) as manager:
        manager.save(
          int(step),
          args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            extra=ocp.args.JsonSave(_pack(dict(extra))),
          ),
          force=True,
        )
      for path in aside:
        shutil.rmtree(path)
    except types.UserError:
      raise
    except Exception as error:  # A full disk, too, shows itself in many kinds.
      raise types.UserError(
        f'cannot write the checkpoint of step {step} into '
        f'{self.directory}: {_first_line(error)}; make room, or mend the'
        ' permissions, and start again: what was saved before is there'
      ) from error

  def recover(self):
    """Makes good what a death between two checkpoints of one step has left.

    For the writer of the folder alone; `save` calls it, too.
    """
    if jax.process_index() == 0:
      for old in self.directory.glob(f'{_REPLACED}*'):
        place = self.directory / old.name.removeprefix(_REPLACED)
        if place.exists():
          shutil.rmtree(old)
        else:
          os.replace(old, place)
    sharding.barrier('recover')

  def latest(self):
    """The newest step there is (int), or None."""
    return max(self._steps(), default=None)

  def restore(self, target):
    """Reads the newest checkpoint that is whole.

    Args:
      target: a tree of arrays or jax.ShapeDtypeStructs with the names, shapes,
        types and, where they have one, shardings to restore with; a leaf
        without a sharding goes to the first device.

    Returns:
      state (structured as target), extra (dict), step (int).

    Raises:
      UserError: there is no checkpoint, none is whole, it claims to hold far
        more than its files do, or its names, shapes or types are not the
        target's; all the differences are listed.
    """
    target = jax.tree.map(_to_target, target)

    def read(manager, step):
      saved = manager.item_metadata(step)['state']
      self._check_size(step, saved)
      self._check(step, saved, target)
      return self._read(manager, step, target)

    return self._newest(read)

  def restore_raw(self):
    """Reads the newest checkpoint that is whole, whatever it holds.

    Returns:
      state as nested dicts (lists for tuples, None for empty ones) of NumPy
      arrays, extra (dict), step (int).

    Raises:
      UserError: there is no checkpoint, none is whole, or it claims to hold
        far more than its files do.
    """

    def read(manager, step):
      saved = manager.item_metadata(step)['state']
      self._check_size(step, saved)
      target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), saved)
      return self._read(manager, step, target)

    return self._newest(read)

  def finish(self, step, content=None):
    """Marks the stage as done at a step; content: a dictionary of JSON."""
    text = json.dumps({'step': int(step), **(content or {})}, indent=2)
    if jax.process_index() == 0:
      files.make_folder(self.directory)
      files.atomic_write(
        self.directory / _DONE, lambda file: file.write(text.encode())
      )
    sharding.barrier('finished')

  def finished(self):
    """What finish() wrote, with 'step'; None when the stage is not done.

    Raises:
      UserError: it cannot be read.
    """
    path = self.directory / _DONE
    try:
      return limits.read_json(path) if path.exists() else None
    except (OSError, ValueError) as error:
      raise types.UserError(
        f'{path} cannot be read ({error}); remove it and run the stage again'
      ) from error

  def _open(self, read_only):
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for args in (ocp.args.StandardSave, ocp.args.StandardRestore):
      registry.add('state', args)
    for args in (ocp.args.JsonSave, ocp.args.JsonRestore):
      registry.add('extra', args)
    return ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else self._keep,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
      ),
      handler_registry=registry,
    )

  def _steps(self):
    if not self.directory.is_dir():
      return []
    with self._open(read_only=True) as manager:
      return sorted(manager.all_steps())

  def _set_aside(self, step):
    """Renames what a checkpoint of a step replaces; the new paths.

    The first of several processes does it, the others wait.
    """
    aside = []
    steps = self._steps()
    for old in steps if jax.process_index() == 0 else ():
      if old >= step or old in self._damaged:
        path = self.directory / f'{_REPLACED}{old}'
        shutil.rmtree(path, ignore_errors=True)
        os.replace(self.directory / str(old), path)
        aside.append(path)
    self._damaged.clear()
    sharding.barrier('set aside')
    return aside

  def _newest(self, read):
    """The result of read(manager, step) for the newest step it can read."""
    if not (steps := self._steps()):
      raise types.UserError(
        f'no checkpoint in {self.directory}: run the stage that makes it, or '
        'name another folder'
      )
    first = None
    with self._open(read_only=True) as manager:
      for step in reversed(steps):
        try:
          return read(manager, step)
        except types.UserError:
          raise
        except Exception as error:  # Damage shows itself in many kinds.
          first = first or error
          self._damaged.add(step)
          self._say(
            f'the checkpoint {self.directory / str(step)} is damaged '
            f'({_first_line(error)}); trying the one before it'
          )
    raise types.UserError(
      f'every checkpoint in {self.directory} is damaged (steps '
      f'{", ".join(map(str, steps))}): remove the folder to start the stage '
      'again'
    ) from first

  def _read(self, manager, step, target):
    restored = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(target),
        extra=ocp.args.JsonRestore(),
      ),
    )
    return restored['state'], _unpack(restored['extra']), step

  def _check_size(self, step, saved):
    """Raises a UserError where arrays claim what is not in the files.

    A few bytes can claim any shape, and memory is taken for it before they are
    unpacked. The parameters, a third of a state, hardly compress.
    """
    folder, claimed = self.directory / str(step), 0
    for leaf in jax.tree.leaves(saved):
      storage = getattr(leaf, 'storage', None)
      chunk = (storage and storage.chunk_shape) or ()
      sizes = (math.prod(leaf.shape), math.prod(chunk))
      claimed += max(sizes) * np.dtype(leaf.dtype).itemsize
    held = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())
    try:
      limits.check_size(claimed, held, _MOST_BYTES)
    except ValueError as error:
      raise types.UserError(
        f'the checkpoint {folder} is not of this program: {error}; remove it, '
        'or use another folder'
      ) from error

  def _check(self, step, saved, target):
    """Raises a UserError that lists all that keeps saved from target."""
    saved, target = _by_name(saved), _by_name(target)
    told = [f'missing in the checkpoint: {n}' for n in target if n not in saved]
    told += [f'unknown to this run: {n}' for n in saved if n not in target]
    for name in target:
      if name in saved and saved[name] != target[name]:
        told.append(
          f'{name}: {saved[name]} in the checkpoint, {target[name]} in this run'
        )
    if not told:
      return
    if len(told) > _MAX_TOLD:
      told[_MAX_TOLD:] = [f'and {len(told) - _MAX_TOLD} more']
    raise types.UserError(
      f'the checkpoint {self.directory / str(step)} does not fit this '
      'run:\n  '
      + '\n  '.join(told)
      + '\nThe sizes in the config are not those it was trained with: set '
      'them back, or use another folder.'
    )


def _pack(value):
  """What JSON can hold, of a tree with NumPy arrays in it."""
  if isinstance(value, np.ndarray):
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {_ARRAY: value.dtype.str, 'shape': list(value.shape), 'data': data}
  if isinstance(value, dict):
    return {k: _pack(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_pack(v) for v in value]
  return value


def _unpack(value):
  """The inverse of `_pack`; tuples have become lists."""
  if isinstance(value, dict):
    if _ARRAY in value:
      data = base64.b64decode(value['data'])
      array = np.frombuffer(data, value[_ARRAY]).reshape(value['shape'])
      return array.copy()
    return {k: _unpack(v) for k, v in value.items()}
  return [_unpack(v) for v in value] if isinstance(value, list) else value


def _to_target(leaf):
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:  # Not the saved one: its devices may not be here.
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _by_name(tree):
  """{'params/encoder/kernel': 'f32 [3, 4]'} of a tree's leaves."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      f'{leaf.dtype} {list(leaf.shape)}'
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _first_line(error):
  lines = str(error).strip().splitlines() or ['no message']
  return f'{type(error).__name__}: {lines[0][:200]}'


def _is_not_chatter(record):
  """Lets pass what is not Orbax telling each of its steps."""
  return 'orbax' not in record.pathname or record.levelno >= logging.ERROR
