"""Devices and hosts: the only file that knows meshes and shardings.

Training is data-parallel: parameters are on every device, a batch's rows are
split over the mesh's one axis. The step is mapped by `jax.shard_map`, so that
what devices tell each other is what the step says (means of gradients, of the
KL and of metrics) and nothing that a compiler found convenient.
"""

import glob
import importlib.util
import os
import sys
import traceback
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from vid2act_jax.types import Batch, FinetuneBatch, UserError

_JOIN_SECONDS = 300  # For all processes to have started.
# Making parameters takes milliseconds, compiling it three seconds so and ten
# with the optimizations (two CPU cores). The bits are the same.
_QUICK = {'xla_backend_optimization_level': 0}
AXIS = 'data'
ROWS = PartitionSpec(AXIS)  # [B, ...]
DOMAIN_ROWS = PartitionSpec(None, AXIS)  # [N, B, ...]


def specs(batch_type: type) -> Any:
  """How a batch is split: a tree that its arrays' specs can be read off.

  Args:
    batch_type: `FinetuneBatch`, or `Batch` for [N, B, ...] of pretraining.
  """
  if batch_type is Batch:
    return DOMAIN_ROWS
  return FinetuneBatch(ROWS, DOMAIN_ROWS, ROWS, DOMAIN_ROWS)


def connect(
  automatic: bool,
  coordinator: str = '',
  num_processes: int | None = None,
  process_id: int | None = None,
  heartbeat_seconds: int = 60,
) -> None:
  """Makes several processes one computation, where there are several.

  To be called before anything else of JAX.

  Args:
    automatic: find the others on a TPU pod, and under Slurm with several tasks.
    coordinator: host and port of process 0; '': automatically or not at all.
    num_processes: how many there are; with a coordinator.
    process_id: which one this is; with a coordinator.
    heartbeat_seconds: after which one that is silent is taken for dead; the
      others end then.

  Raises:
    UserError: a coordinator without the other two, or the others are not found.
  """
  if coordinator and (num_processes is None or process_id is None):
    raise UserError(
      '--coordinator needs --num_processes and --process_id as well'
    )
  told = {
    'coordinator_address': coordinator or None,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  slurm = int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1
  if not (coordinator or (automatic and (slurm or _has_tpu()))):
    return
  try:
    jax.distributed.initialize(
      **told,
      # What is said here counts, also within a job of Slurm.
      cluster_detection_method='deactivate' if coordinator else None,
      initialization_timeout=_JOIN_SECONDS,
      heartbeat_timeout_seconds=heartbeat_seconds,
      shutdown_timeout_seconds=heartbeat_seconds,
    )
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f'cannot join the other processes ({_first_line(error)}); see that all'
      ' of them were started, and that --coordinator can be reached from each,'
      ' or run alone by --distributed=off'
    ) from error


def abort(error: Exception) -> None:
  """Ends one of several processes whose device has failed it.

  At once: what would be done at a normal end waits for the others, which may
  be what has failed.
  """
  traceback.print_exception(error)
  print(
    f'error: process {jax.process_index()} of {jax.process_count()} cannot go'
    f' on ({_first_line(error)}). If it has lost another one, end those that'
    ' are left and start all again: they go on from the last checkpoint',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def _has_tpu():
  paths = (*glob.glob('/dev/accel*'), *glob.glob('/dev/vfio/[0-9]*'))
  return bool(paths) and importlib.util.find_spec('libtpu') is not None


def _first_line(error):
  return (str(error).strip() or type(error).__name__).splitlines()[0]


class Devices:
  """The devices that share the work, of all hosts.

  Attributes:
    mesh: of one axis, `AXIS`.
    num: how many devices.
    process, processes: which host this is, and how many there are.
  """

  def __init__(self, data: int = -1):
    """Takes the first devices there are.

    Args:
      data: how many, of all hosts together; -1: all. With several hosts, all.

    Raises:
      UserError: there are not so many.
    """
    every = jax.devices()
    self.process, self.processes = jax.process_index(), jax.process_count()
    self.num = len(every) if data == -1 else data
    if not 1 <= self.num <= len(every):
      raise UserError(
        f'config.mesh.data={data}, but there are {len(every)} devices'
        f' ({every[0].device_kind}); -1 takes all'
      )
    if self.processes > 1 and self.num != len(every):
      raise UserError(
        f'config.mesh.data={data}: {self.processes} processes have'
        f' {len(every)} devices, and none may be left out; set it to -1'
      )
    self.mesh = jax.sharding.Mesh(np.array(every[: self.num]), (AXIS,))

  @property
  def replicated(self) -> NamedSharding:
    """On every device."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def is_first(self) -> bool:
    """Whether this process writes what is written once."""
    return self.process == 0

  def rows(self, batch: int, key: str, sources: int = 1) -> slice:
    """This process's part of a batch of so many rows.

    Args:
      batch: rows of all processes together.
      key: of the config, for the message.
      sources: how many such batches the key's number is shared out among.

    Raises:
      UserError: they cannot be split evenly over the devices.
    """
    if batch % self.num:
      least, most = batch // self.num or 1, -(-batch // self.num)
      each = f', {batch} rows of each source,' if sources > 1 else ''
      raise UserError(
        f'{key}={batch * sources}{each} cannot be split over {self.num}'
        f' devices; set it to {least * self.num * sources} or'
        f' {most * self.num * sources}, or use fewer devices'
        ' (config.mesh.data)'
      )
    each = batch // self.processes
    return slice(self.process * each, (self.process + 1) * each)

  def jit(self, step, batch_specs, lead: int = 0):
    """Compiles a pure step for these devices; its state is donated.

    Args:
      step: (state, batch, key, axis_name=None) -> state, metrics.
      batch_specs: of `specs`.
      lead: axes in front of the batch's own.
    """
    if self.num == 1:
      return jax.jit(step, donate_argnums=0)
    whole = PartitionSpec()
    mapped = jax.shard_map(
      lambda state, batch, key: step(state, batch, key, AXIS),
      mesh=self.mesh,
      in_specs=(whole, _behind(lead, batch_specs), whole),
      out_specs=whole,
      # The step makes its means itself, where the method wants them.
      check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)

  def init(self, fn, *args):
    """Compiles and calls what makes a state; the result is on every device."""
    on_cpu = self.mesh.devices.flat[0].platform == 'cpu'
    made = jax.jit(
      fn,
      out_shardings=self.replicated,
      compiler_options=_QUICK if on_cpu else None,
    )
    return made(*args)

  def place(self, shapes):
    """ShapeDtypeStructs of a state, told to be on every device."""
    struct = lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=self.replicated
    )
    return jax.tree.map(struct, shapes)

  def put(self, tree, batch_specs, lead: int = 0):
    """Brings this process's rows to its devices: global arrays.

    Args:
      tree: a batch of NumPy arrays.
      batch_specs: of `specs`.
      lead: axes in front of the batch's own.
    """
    if self.num == 1:
      return jax.device_put(tree, self.mesh.devices.flat[0])
    wanted = _behind(lead, batch_specs)

    def place(spec, part):
      sharding = NamedSharding(self.mesh, spec)
      join = jax.make_array_from_process_local_data
      return jax.tree.map(lambda x: join(sharding, x), part)

    is_spec = lambda x: isinstance(x, PartitionSpec)
    return jax.tree.map(place, wanted, tree, is_leaf=is_spec)


def local(tree):
  """One device's copy of what is on every device: to act and to look with."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)


def device_put_like(tree, other):
  """A tree's arrays where another's are, as what is computed of both will be.

  A step that is given its own results sees no difference then; elsewhere, it
  is compiled once more.
  """
  return jax.device_put(tree, jax.tree.leaves(other)[0].sharding)


def all_sum(values: np.ndarray) -> np.ndarray:
  """The sum over all hosts of an array that each has; in step with them."""
  return gather(values).sum(0)


def gather(values: np.ndarray) -> np.ndarray:
  """Every host's array, [processes, ...]; in step with them."""
  values = np.asarray(values)
  if jax.process_count() == 1:
    return values[None]
  return np.asarray(multihost_utils.process_allgather(values))


def barrier(name: str) -> None:
  """Goes on when all hosts have come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _behind(lead, batch_specs):
  """Specs of arrays that have more axes in front."""
  is_spec = lambda x: isinstance(x, PartitionSpec)
  add = lambda spec: PartitionSpec(*[None] * lead, *spec)
  return jax.tree.map(add, batch_specs, is_leaf=is_spec)
