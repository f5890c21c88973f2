"""Devices and hosts: the only module that uses meshes and shardings.

Training is data-parallel: parameters are replicated on every device, and the
rows of a batch are split over the single axis of the mesh. The step is mapped
by `jax.shard_map`. So its only collectives are those in its own code (means of
gradients, of the KL and of metrics), and the compiler adds none.
"""

import glob
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from vid2act_jax.types import Batch, DeviceBatch, FinetuneBatch, UserError

_INIT_TIMEOUT_SECONDS = 300  # Until all processes have started.
# Initialising parameters takes milliseconds. Compiling it takes three seconds
# with this option and ten without it (two CPU cores). The results are equal.
_FAST_COMPILE = {'xla_backend_optimization_level': 0}
AXIS = 'data'
ROWS = PartitionSpec(AXIS)  # [B, ...]
DOMAIN_ROWS = PartitionSpec(None, AXIS)  # [N, B, ...]


def specs(batch_type: type) -> Any:
  """The partition specs of a batch, as a tree prefix.

  Args:
    batch_type: `FinetuneBatch`, `Batch` for [N, B, ...] of pretraining, or
      `DeviceBatch`.
  """
  if batch_type is DeviceBatch:
    return DeviceBatch(PartitionSpec(), ROWS)
  if batch_type is Batch:
    return DOMAIN_ROWS
  return FinetuneBatch(ROWS, DOMAIN_ROWS, ROWS, DOMAIN_ROWS, DOMAIN_ROWS)


def find_process(
  automatic: bool,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> tuple[int, int]:
  """This process's index and the number of processes, without connecting.

  Of a Slurm job, each process then uses the GPU of its task alone. Call it
  before any other function of JAX.

  Args:
    automatic: detect the processes of a Slurm job with several tasks.
    num_processes: their number; None: automatic, or one process.
    process_id: the index of this process; with their number.

  Raises:
    UserError: only one of both numbers is given, or they do not fit.
  """
  if (num_processes is None) != (process_id is None):
    raise UserError('--num_processes and --process_id need each other')
  if num_processes is not None and process_id is not None:
    if not 0 <= process_id < num_processes:
      raise UserError(
        f'--process_id={process_id}: with --num_processes={num_processes} it'
        f' must be from 0 to {num_processes - 1}'
      )
    return process_id, num_processes
  tasks = int(os.environ.get('SLURM_STEP_NUM_TASKS', 1))
  if not automatic or tasks == 1:
    return 0, 1
  # As `jax.distributed.initialize` does.
  jax.config.update('jax_cuda_visible_devices', os.environ['SLURM_LOCALID'])
  return int(os.environ['SLURM_PROCID']), tasks


def connect(
  automatic: bool,
  coordinator: str = '',
  num_processes: int | None = None,
  process_id: int | None = None,
  heartbeat_seconds: int = 60,
) -> None:
  """Initialises `jax.distributed` if there are several processes.

  Call it before any other function of JAX.

  Args:
    automatic: detect the processes of a TPU pod or of a Slurm job with several
      tasks.
    coordinator: host and port of process 0; '': automatic, or one process.
    num_processes: the number of processes; with a coordinator.
    process_id: the index of this process; with a coordinator.
    heartbeat_seconds: without a heartbeat for this long a process counts as
      dead, and the others exit.

  Raises:
    UserError: `coordinator` without the other two, or the other processes do
      not respond.
  """
  if coordinator and (num_processes is None or process_id is None):
    raise UserError(
      '--coordinator needs --num_processes and --process_id as well'
    )
  kwargs = {
    'coordinator_address': coordinator or None,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  slurm = int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1
  if not (coordinator or (automatic and (slurm or _has_tpu()))):
    return
  try:
    jax.distributed.initialize(
      **kwargs,
      # Flags take precedence, also inside a Slurm job.
      cluster_detection_method='deactivate' if coordinator else None,
      initialization_timeout=_INIT_TIMEOUT_SECONDS,
      heartbeat_timeout_seconds=heartbeat_seconds,
      shutdown_timeout_seconds=heartbeat_seconds,
    )
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f'cannot join the other processes ({_first_line(error)}); check that all'
      ' of them were started and that each can reach --coordinator, or run a'
      ' single process with --distributed=off'
    ) from error


def abort(error: Exception) -> None:
  """Exits one of several processes after a device error.

  Immediately: a normal exit waits for the other processes, which may be the
  ones that failed.
  """
  traceback.print_exception(error)
  print(
    f'error: process {jax.process_index()} of {jax.process_count()} cannot'
    f' continue ({_first_line(error)}). If another process has died, stop the'
    ' remaining ones and start all again: they resume from the last checkpoint',
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
  """The devices of all hosts that training runs on.

  Attributes:
    mesh: with a single axis, `AXIS`.
    num: the number of devices.
    process_index: the index of this process (host).
    process_count: the number of processes.
  """

  def __init__(
    self,
    data: int = -1,
    group: tuple[int, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Selects the first devices.

    Args:
      data: their number, over all hosts; -1: all. Several hosts use all.
      group: (first, number) of the devices to select from; None: all.
      devices: of a topology, to compile for; None: those that are present.

    Raises:
      UserError: there are fewer devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    if group:
      devices = devices[group[0] :][: group[1]]
    self.process_index = jax.process_index()
    self.process_count = jax.process_count()
    self.num = len(devices) if data == -1 else data
    if not 1 <= self.num <= len(devices):
      raise UserError(
        f'config.mesh.data={data}, but there are {len(devices)} devices'
        f' ({devices[0].device_kind}); set it to -1 to use all'
      )
    if self.process_count > 1 and self.num != len(devices):
      raise UserError(
        f'config.mesh.data={data}: {self.process_count} processes have'
        f' {len(devices)} devices and must use all of them; set it to -1'
      )
    self.mesh = jax.sharding.Mesh(np.array(devices[: self.num]), (AXIS,))

  @property
  def replicated(self) -> NamedSharding:
    """The sharding of arrays that are replicated on every device."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def is_main_process(self) -> bool:
    """Whether this is process 0, which writes the shared files."""
    return self.process_index == 0

  def rows(self, batch: int, key: str, sources: int = 1) -> slice:
    """The rows of a global batch that belong to this process.

    Args:
      batch: the number of rows of all processes.
      key: of the config, for the message.
      sources: the number of batches that the key's value is divided into.

    Raises:
      UserError: the batch is not divisible by the number of devices.
    """
    if batch % self.num:
      least, most = batch // self.num or 1, -(-batch // self.num)
      each = f', {batch} rows of each source,' if sources > 1 else ''
      fewer = ''
      if self.process_count == 1:  # Several use all devices.
        num = max(n for n in range(1, self.num) if batch % n == 0)
        fewer = f'set --config.mesh.data={num}, or in a new folder '
      raise UserError(
        f'{key}={batch * sources}{each} cannot be split over {self.num}'
        f' devices; {fewer}set it to {least * self.num * sources} or'
        f' {most * self.num * sources}'
      )
    each = batch // self.process_count
    return slice(self.process_index * each, (self.process_index + 1) * each)

  def jit(self, step, batch_specs, leading_axes: int = 0):
    """Compiles a pure step for these devices; its state is donated.

    Args:
      step: (state, batch, key, axis_name=None) -> state, metrics.
      batch_specs: from `specs`.
      leading_axes: number of additional axes before those of the batch.
    """
    if self.num == 1:
      return jax.jit(step, donate_argnums=0)
    replicated = PartitionSpec()
    mapped = jax.shard_map(
      lambda state, batch, key: step(state, batch, key, AXIS),
      mesh=self.mesh,
      in_specs=(
        replicated,
        _prepend_axes(leading_axes, batch_specs),
        replicated,
      ),
      out_specs=replicated,
      # The step itself averages over the axis where it is needed.
      check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)

  def init(self, fn, *args):
    """Compiles and calls an init function; its result is replicated."""
    on_cpu = self.mesh.devices.flat[0].platform == 'cpu'
    init_fn = jax.jit(
      fn,
      out_shardings=self.replicated,
      compiler_options=_FAST_COMPILE if on_cpu else None,
    )
    return init_fn(*args)

  def replicated_structs(self, shapes):
    """ShapeDtypeStructs of a state with the replicated sharding."""
    return self.structs(shapes, PartitionSpec())

  def structs(self, shapes, batch_specs):
    """ShapeDtypeStructs of a batch; batch_specs: from `specs`."""

    def convert(spec, subtree):
      sharding = NamedSharding(self.mesh, spec)
      struct = lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding
      )
      return jax.tree.map(struct, subtree)

    is_spec = lambda x: isinstance(x, PartitionSpec)
    return jax.tree.map(convert, batch_specs, shapes, is_leaf=is_spec)

  def device_put(self, tree, batch_specs, leading_axes: int = 0):
    """Moves this process's rows to its devices, as global arrays.

    Args:
      tree: a batch of NumPy arrays.
      batch_specs: from `specs`.
      leading_axes: number of additional axes before those of the batch.
    """
    if self.num == 1:
      return jax.device_put(tree, self.mesh.devices.flat[0])
    full_specs = _prepend_axes(leading_axes, batch_specs)

    def put(spec, subtree):
      sharding = NamedSharding(self.mesh, spec)
      make_array = jax.make_array_from_process_local_data
      return jax.tree.map(lambda x: make_array(sharding, x), subtree)

    is_spec = lambda x: isinstance(x, PartitionSpec)
    return jax.tree.map(put, full_specs, tree, is_leaf=is_spec)


def local(tree):
  """The first local device's copy of replicated arrays."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)


def device_put_like(tree, other):
  """Moves a tree to the sharding of another tree.

  The results of a step on both trees have that sharding, too. With another
  one, a step that is called with its own results would compile a second time.
  """
  return jax.device_put(tree, jax.tree.leaves(other)[0].sharding)


def is_ready(tree) -> bool:
  """Whether the devices have computed the results of the call that made it."""
  return jax.tree.leaves(tree)[0].is_ready()


def all_sum(values: np.ndarray) -> np.ndarray:
  """The sum of an array over all hosts; blocks until all have called it."""
  return all_gather(values).sum(0)


def all_gather(values: np.ndarray) -> np.ndarray:
  """Every host's array, [processes, ...]; blocks until all have called it."""
  values = np.asarray(values)
  if jax.process_count() == 1:
    return values[None]
  return np.asarray(multihost_utils.process_allgather(values))


def barrier(name: str) -> None:
  """Blocks until all hosts have called it."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _prepend_axes(num, batch_specs):
  """Specs of arrays that have `num` more leading axes."""
  is_spec = lambda x: isinstance(x, PartitionSpec)
  add = lambda spec: PartitionSpec(*[None] * num, *spec)
  return jax.tree.map(add, batch_specs, is_leaf=is_spec)
