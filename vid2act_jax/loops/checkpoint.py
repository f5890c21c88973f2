"""Checkpoints; the only file that knows Orbax.

A folder holds one sub-folder per step, with the state's arrays and a JSON
dictionary, and DONE.json when the stage is complete. Arrays are restored by
name: nothing is guessed, skipped or reshaped.
"""

import base64
import json
import logging
import math
import os
import pathlib
import warnings
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from vid2act_jax import sharding, types
from vid2act_jax.data import files, limits, storage

_DONE = 'DONE.json'
_REPLACED = 'replaced-'  # Prefix of the folder of a step to be replaced.
_MAX_BYTES = 64 << 30  # Of a state; 0.1 GB at the default sizes.
_ARRAY = 'array of type'  # Key that marks an array.
_MAX_LISTED = 30  # Mismatches in a message; the others are counted.
_relaxed: dict[str, Any] = {}  # Changed options of TensorStore.


class Checkpoint:
  """The checkpoints of one stage."""

  def __init__(self, directory, keep=2, warn=warnings.warn, shared=True):
    """Sets the folder; reads and writes nothing yet.

    Args:
      directory: folder of the stage's checkpoints.
      keep: number of newest checkpoints to keep. With two, one is left when a
        crash of the machine damages the other.
      warn: called with the text of a warning.
      shared: whether all processes see the same folder. If not, the first one
        writes, and each reads its own copy.
    """
    self.directory = pathlib.Path(os.path.abspath(directory))
    self._keep = keep
    self._warn = warn
    self._has_copies = not shared
    self._damaged = set()
    self._missing = None  # What the file system lacks; not known yet.
    logging.getLogger('absl').addFilter(_filter_orbax)

  def save(self, step, state, extra):
    """Writes a checkpoint; it is complete on disk when this returns.

    Replaces checkpoints of this step and of later ones, which exist when an
    older one was restored.

    Args:
      step: int, in the unit of the stage.
      state: a tree of arrays; PRNG keys as the arrays of jax.random.key_data.
      extra: a dictionary of JSON values and NumPy arrays, such as counters and
        random state.

    Raises:
      UserError: the folder cannot be written.
    """
    if self._is_copy:
      if jax.process_index():
        sharding.barrier('saved')
        return
      # Orbax writes no arrays that other processes have as well.
      state = jax.tree.map(np.asarray, sharding.local(state))
    try:
      self.directory.mkdir(parents=True, exist_ok=True)
      self.recover()
      self._adapt_to_storage()
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
      if 'file_io_sync' in _relaxed and jax.process_index() == 0:
        storage.sync_tree(self.directory / str(step))
      for path in aside:
        storage.remove_tree(path)
      if self._is_copy:
        sharding.barrier('saved')
    except types.UserError:
      raise
    except Exception as error:  # A full disk raises many types.
      raise types.UserError(
        f'cannot write the checkpoint of step {step} into '
        f'{self.directory}: {_first_line(error)}; make room, or fix the'
        ' permissions, and start again: earlier checkpoints are kept'
      ) from error

  def recover(self):
    """Cleans up after a process that died while it replaced a checkpoint.

    Only for the writer of the folder; `save` also calls it.
    """
    if self._changes_folder:
      for old in self.directory.glob(f'{_REPLACED}*'):
        path = self.directory / old.name.removeprefix(_REPLACED)
        if path.exists():
          storage.remove_tree(old)
        else:
          os.replace(old, path)
    self._barrier('recover')

  def latest(self):
    """The newest step (int), or None without checkpoints."""
    return max(self._steps(), default=None)

  def exists(self):
    """Whether there is a checkpoint, also one that is being replaced.

    Or the stage is complete. Cheaper than `latest`.
    """
    if not self.directory.is_dir():
      return False
    names = [path.name for path in self.directory.iterdir()]
    steps = [name.removeprefix(_REPLACED).isdigit() for name in names]
    return any(steps) or _DONE in names

  def check(self, target):
    """Compares the newest checkpoint with a target, without reading arrays.

    Args:
      target: as in `restore`.

    Raises:
      UserError: there is no checkpoint, or its names, shapes or dtypes are not
        the target's. A damaged one is left to `restore`.
    """
    target = jax.tree.map(_to_target, target)
    with self._open(read_only=True) as manager:
      step = manager.latest_step()
      if step is None:
        raise self._no_checkpoint()
      try:
        saved = manager.item_metadata(step)['state']
      except Exception:  # Damage raises many types.
        return
    if saved:
      self._check(step, saved, target)

  def restore(self, target, partial=False):
    """Reads the newest checkpoint that is not damaged.

    Args:
      target: a tree of arrays or jax.ShapeDtypeStructs with the names, shapes,
        dtypes and optional shardings to restore with; a leaf without a
        sharding goes to the first device.
      partial: whether the checkpoint may have more arrays, which are not read;
        the target then has no lists or tuples.

    Returns:
      state (structured as target), extra (dict), step (int).

    Raises:
      UserError: there is no checkpoint, all are damaged, one declares far
        larger arrays than its files hold, or its names, shapes or dtypes are
        not the target's; lists all differences.
    """
    target = jax.tree.map(_to_target, target)

    read_state = self._read_part if partial else self._read

    def read(manager, step):
      saved = manager.item_metadata(step)['state']
      self._check_size(step, saved)
      self._check(step, saved, target, partial)
      return read_state(manager, step, target)

    return self._read_newest(read)

  def restore_raw(self):
    """Reads the newest checkpoint that is not damaged, without a target.

    Returns:
      state as nested dicts (lists for tuples, None for empty ones) of NumPy
      arrays, extra (dict), step (int).

    Raises:
      UserError: there is no checkpoint, all are damaged, or one declares far
        larger arrays than its files hold.
    """

    def read(manager, step):
      saved = manager.item_metadata(step)['state']
      self._check_size(step, saved)
      target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), saved)
      return self._read(manager, step, target)

    return self._read_newest(read)

  def restore_extra(self):
    """Reads the extra dictionary of the newest checkpoint that has one.

    Raises:
      UserError: there is no checkpoint, or all are damaged.
    """

    def read(manager, step):
      args = ocp.args.Composite(extra=ocp.args.JsonRestore())
      return _unpack(manager.restore(step, args=args)['extra'])

    return self._read_newest(read)

  def finish(self, step, content=None):
    """Marks the stage as complete at a step; content: a JSON dictionary."""
    text = json.dumps({'step': int(step), **(content or {})}, indent=2)
    if jax.process_index() == 0:
      files.make_folder(self.directory)
      files.atomic_write(
        self.directory / _DONE, lambda file: file.write(text.encode())
      )
    sharding.barrier('finished')

  def finished(self):
    """Returns the content of finish(), with 'step'; None if not complete.

    Raises:
      UserError: the file cannot be read.
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
    # Reads a part of what the other handler writes.
    registry.add('state', ocp.args.PyTreeRestore)
    for args in (ocp.args.JsonSave, ocp.args.JsonRestore):
      registry.add('extra', args)
    alone = {}
    if self._is_copy:
      index = jax.process_index()
      alone['multiprocessing_options'] = ocp.options.MultiprocessingOptions(
        primary_host=index,
        active_processes={index},
        barrier_sync_key_prefix=f'process {index}',
      )
      alone['create'] = False  # Orbax requires it.
    return ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else self._keep,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        **alone,
      ),
      handler_registry=registry,
    )

  def _steps(self):
    if not self.directory.is_dir():
      return []
    with self._open(read_only=True) as manager:
      return sorted(manager.all_steps())

  def _set_aside(self, step):
    """Renames the checkpoints that a step replaces; returns the new paths.

    The first process renames, the others wait.
    """
    aside = []
    steps = self._steps()
    for old in steps if self._changes_folder else ():
      if old >= step or old in self._damaged:
        path = self.directory / f'{_REPLACED}{old}'
        storage.remove_tree(path)
        os.replace(self.directory / str(old), path)
        aside.append(path)
    self._damaged.clear()
    self._barrier('set aside')
    return aside

  @property
  def _is_copy(self):
    """Whether other processes have folders of their own."""
    return self._has_copies and jax.process_count() > 1

  @property
  def _changes_folder(self):
    return self._is_copy or jax.process_index() == 0

  def _barrier(self, name):
    """Waits for the processes that share the folder."""
    if not self._is_copy:
      sharding.barrier(name)

  def _adapt_to_storage(self):
    """Tries what the folder's file system lacks, before the first write."""
    if self._missing is not None:
      return
    self._missing = storage.missing(self.directory)
    if {'locks', 'fsync'} & set(self._missing):
      _relax_tensorstore(self._missing)

  def _read_newest(self, read):
    """Returns read(manager, step) of the newest step that is readable."""
    if not (steps := self._steps()):
      raise self._no_checkpoint()
    first: Exception | None = None
    with self._open(read_only=True) as manager:
      for step in reversed(steps):
        try:
          return read(manager, step)
        except (types.UserError, MemoryError, jax.errors.JaxRuntimeError):
          raise  # Devices without memory are no damage.
        except Exception as error:  # Damage raises many types.
          first = first or error
          self._damaged.add(step)
          self._warn(
            f'the checkpoint {self.directory / str(step)} is damaged '
            f'({_first_line(error)}); trying the one before it'
          )
    assert first is not None
    raise types.UserError(
      f'every checkpoint in {self.directory} is damaged (steps '
      f'{", ".join(map(str, steps))}; {_first_line(first)}): if the disk is'
      ' sound, remove the folder to start the stage again'
    ) from first

  def _no_checkpoint(self):
    return types.UserError(
      f'no checkpoint in {self.directory}: run the stage that writes it, or '
      'name another folder'
    )

  def _read_part(self, manager, step, target):
    """Like `_read`, for a target without some arrays of the checkpoint."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(target)
    names = [_name(path) for path, _ in flat]
    # Orbax wants no empty dictionaries where the checkpoint has arrays.
    leaves = dict(zip(names, (leaf for _, leaf in flat), strict=True))
    tree = traverse_util.unflatten_dict(leaves, sep='/')
    args = ocp.args.Composite(
      state=ocp.args.PyTreeRestore(
        tree,
        restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
        partial_restore=True,
      ),
      extra=ocp.args.JsonRestore(),
    )
    restored = manager.restore(step, args=args)
    state = traverse_util.flatten_dict(restored['state'], sep='/')
    state = jax.tree.unflatten(treedef, [state[name] for name in names])
    return state, _unpack(restored['extra']), step

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
    """Raises a UserError if the declared arrays are too large for the files.

    A few bytes can declare any shape, and memory is allocated before they are
    decompressed. The parameters, a third of a state, hardly compress.
    """
    folder, declared = self.directory / str(step), 0
    for leaf in jax.tree.leaves(saved):
      layout = getattr(leaf, 'storage', None)
      chunk = (layout and layout.chunk_shape) or ()
      sizes = (math.prod(leaf.shape), math.prod(chunk))
      declared += max(sizes) * np.dtype(leaf.dtype).itemsize
    parts = filter(pathlib.Path.is_file, files.walk_files(folder))
    stored = sum(path.stat().st_size for path in parts)
    try:
      limits.check_size(declared, stored, _MAX_BYTES)
    except ValueError as error:
      raise types.UserError(
        f'the checkpoint {folder} is not valid: {error}; remove it, '
        'or use another folder'
      ) from error

  def _check(self, step, saved, target, partial=False):
    """Raises a UserError that lists every mismatch of saved and target."""
    saved, target = _by_name(saved), _by_name(target)
    missing = [n for n in target if n not in saved]
    unknown = [n for n in saved if n not in target and not partial]
    mismatches = [f'missing in the checkpoint: {n}' for n in missing]
    mismatches += [f'unknown to this run: {n}' for n in unknown]
    for name in target:
      if name in saved and saved[name] != target[name]:
        mismatches.append(
          f'{name}: {saved[name]} in the checkpoint, {target[name]} in this run'
        )
    if not mismatches:
      return
    if len(mismatches) > _MAX_LISTED:
      mismatches[_MAX_LISTED:] = [f'and {len(mismatches) - _MAX_LISTED} more']
    raise types.UserError(
      f'the checkpoint {self.directory / str(step)} does not fit this '
      'run:\n  '
      + '\n  '.join(mismatches)
      + '\nThe sizes in the config are not those it was trained with: set '
      'them back, or use another folder.'
    )


def _relax_tensorstore(missing):
  """Lets TensorStore do without what a file system lacks, in this process.

  Its locks are for several writers of one file, which Orbax does not have. If
  it cannot sync folders, it must not sync files either; `save` does so.
  """
  from orbax.checkpoint._src.serialization import tensorstore_utils

  if 'locks' in missing:
    _relaxed['file_io_locking'] = {'mode': 'none'}
  if 'fsync' in missing:
    _relaxed['file_io_sync'] = False
  # Orbax has no public option for them.
  for name in '_BASE_TS_CONTEXT', '_DEFAULT_OCDBT_TS_CONTEXT':
    getattr(tensorstore_utils, name).update(_relaxed)


def _pack(value):
  """Encodes the NumPy arrays of a tree as JSON values."""
  if isinstance(value, np.ndarray):
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {_ARRAY: value.dtype.str, 'shape': list(value.shape), 'data': data}
  if isinstance(value, dict):
    return {k: _pack(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_pack(v) for v in value]
  return value


def _unpack(value):
  """Inverts `_pack`; tuples come back as lists."""
  if isinstance(value, dict):
    if _ARRAY in value:
      data = base64.b64decode(value['data'])
      array = np.frombuffer(data, value[_ARRAY]).reshape(value['shape'])
      return array.copy()
    return {k: _unpack(v) for k, v in value.items()}
  return [_unpack(v) for v in value] if isinstance(value, list) else value


def _to_target(leaf):
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:  # The saved one may have devices that do not exist now.
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _by_name(tree):
  """{'params/encoder/kernel': 'f32 [3, 4]'} of a tree's leaves."""
  return {
    _name(path): f'{leaf.dtype} {list(leaf.shape)}'
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _first_line(error):
  lines = str(error).strip().splitlines() or ['no message']
  return f'{type(error).__name__}: {lines[0][:200]}'


def _filter_orbax(record):
  """Drops Orbax's log messages below the level of errors."""
  return 'orbax' not in record.pathname or record.levelno >= logging.ERROR
