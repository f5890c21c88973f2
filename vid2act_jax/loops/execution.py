"""How a run executes: what is not in its config."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax

from vid2act_jax import sharding
from vid2act_jax.learner.update import multi_step
from vid2act_jax.loops import config_keys
from vid2act_jax.loops.preemption import PreemptionHandler
from vid2act_jax.loops.progress import announce_compilation
from vid2act_jax.loops.run_storage import FolderStorage
from vid2act_jax.types import DeviceBatch

UPDATE = 'update'
# Keys that differ between the seeds of an experiment.
_SEED_KEYS = 'seed', 'seeds', 'source_dir', 'teacher_from'


def compose(fn: Callable, prepare: Callable[..., tuple] | None) -> Callable:
  """Prepares the arguments of a function but the first; None: leaves them."""
  if prepare is None:
    return fn
  return functools.wraps(fn)(lambda state, *args: fn(state, *prepare(*args)))


class Calls:
  """Compiles and calls the functions of a run that is alone in its process."""

  def compile(
    self,
    name: str,
    fn: Callable,
    jit: Callable[[Callable, int], Callable],
    message: Callable[[str], None] | None = None,
    prepare: Callable[..., tuple] | None = None,
  ) -> Callable:
    """Returns the compiled function.

    Args:
      name: of the function; runs in one process share those of equal names.
        That of an update begins with `UPDATE`.
      fn: a pure function of a state and of other arrays.
      jit: (function, number of runs) -> compiled function. With several runs
        it is that of `seed_calls.join` or, for an update, of `join_update`.
      message: announces the first call, which compiles; None: nothing does.
      prepare: pure, (a run's arguments after the state) -> those of the
        function. Those of several runs are stacked after it. None: they are
        those of the function.
    """
    return announced(jit(compose(fn, prepare), 1), message)

  def leave(self) -> None:
    """The run makes no more calls."""


def announced(fn: Callable, message: Callable[[str], None] | None) -> Callable:
  """Announces the first call, which compiles, unless the message is None."""
  called = message is None

  def call(*args):
    nonlocal called
    if called:
      return fn(*args)
    called = True
    cached = bool(jax.config.jax_compilation_cache_dir)
    with announce_compilation(message, 'the update', cached):
      return fn(*args)

  return call


@dataclasses.dataclass(frozen=True)
class Execution:
  """How a run executes.

  profile: write a trace of some updates, and the seconds by section.
  preemption: checked where a stage can save and stop.
  calls: of the compiled functions.
  devices: (first, number) of those for this run; None: all.
  runs_per_device: number of runs that share them.
  storage: of the run folder.
  """

  profile: bool = False
  preemption: PreemptionHandler = dataclasses.field(
    default_factory=PreemptionHandler
  )
  calls: Calls = dataclasses.field(default_factory=Calls)
  devices: tuple[int, int] | None = None
  runs_per_device: int = 1
  storage: FolderStorage = dataclasses.field(default_factory=FolderStorage)

  def jit(self, config, metadata: dict, kind: str, fn: Callable) -> Callable:
    """Compiles a function that depends on these, but not on the seed.

    Args:
      config: the run's.
      metadata: of its checkpoints.
      kind: of the function.
      fn: (state, array trees) -> array trees.
    """
    jit = lambda fn, unused_num: jax.jit(fn)
    return self.calls.compile(_name(kind, config, metadata), fn, jit)

  def jit_step(
    self,
    config,
    metadata: dict,
    step: Callable,
    batch_type: type,
    message: Callable[[str], None],
    load: Callable[[DeviceBatch], Any] | None = None,
  ) -> tuple[Callable, Callable]:
    """Compiles the step of a stage, for one update and for several.

    Args:
      config: the run's.
      metadata: of its checkpoints.
      step: (state, batch, key, axis_name=None) -> state, metrics.
      batch_type: `Batch` or `FinetuneBatch`.
      message: announces compilations.
      load: gathers the batch from a `DeviceBatch`; None: it is given.
    """
    devices = self.open_devices(config)
    spec = sharding.specs(DeviceBatch if load else batch_type)

    prepare = None
    if load:
      prepare = lambda batch, *args: (load(batch), *args)

    def compile_step(fn, leading_axes):
      def jit(fn, num):
        specs = (spec,) * num if num > 1 else spec
        return devices.jit(fn, specs, leading_axes)

      kind = f'{UPDATE} {batch_type.__name__} {bool(load)} {leading_axes}'
      name = _name(kind, config, metadata)
      return self.calls.compile(name, fn, jit, message, prepare)

    return compile_step(step, 0), compile_step(multi_step(step), 1)

  def open_devices(self, config) -> sharding.Devices:
    """The devices of a run.

    Args:
      config: the run's.

    Raises:
      UserError: there are fewer than config.mesh.data.
    """
    return sharding.Devices(config.mesh.data, self.devices)


def _name(kind, config, metadata):
  """Names a function of these: equal for all seeds."""
  tree = config_keys.exclude(config.to_dict(), _SEED_KEYS)
  return f'{kind} {json.dumps([tree, metadata], sort_keys=True)}'
