"""Expected speed-up with more devices: tables computed, not measured.

  python -m benchmarks.scaling

Prints the tables of docs/scaling.md as markdown. The arguments replace the
assumptions for accelerators with fast links; `python -m benchmarks.collectives`
measures the bytes.
"""

import argparse
import dataclasses
import math

DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROWS = 50  # B on one device.
# Sequential steps of an update; tests/benchmarks/test_benchmarks.py.
STEPS = 128
# All-reduced bytes of an update and the number of collectives, at full size
# with four domains: benchmarks.collectives.
BYTES = {'pretrain': 21_395_340, 'finetune': 29_809_572}
COLLECTIVES = {'pretrain': 2, 'finetune': 3}
# Frames per second of quadruped on one core, with rendering; measured by
# benchmarks.envs.
FRAMES = {'fast': 257, 'standard': 23}
UPDATE_EVERY = 5  # Agent steps, with one frame each.


@dataclasses.dataclass(frozen=True)
class Machine:
  """Measured or assumed figures of devices and their network.

  Attributes:
    name: the column's title.
    update: seconds of a full-size update with B = 50 on one device.
    bandwidth: bytes per second between two devices, in each direction.
    latency: seconds of a message.
    step: minimum seconds of a sequential step, with few rows.
  """

  name: str
  update: float
  bandwidth: float
  latency: float
  step: float = 20e-6


# Of a full-size update in bfloat16 on one H100, measured: benchmarks/README.md.
_UPDATE, _STEP = 12.6e-3, 25e-6
MACHINES = (
  Machine('CPU hosts of two cores', 11.9, 1.25e9, 50e-6),
  Machine('accelerators, fast links', _UPDATE, 100e9, 5e-6, _STEP),
  Machine(
    'accelerators, Ethernet',
    _UPDATE,
    3.1e9,
    20e-6,
    _STEP,
  ),
)


def all_reduce(
  num: int, num_bytes: float, machine: Machine, collectives: int = 1
) -> float:
  """Seconds of a ring all-reduce, split into a number of collectives.

  Each link transfers 2(n - 1)/n of the bytes (Patarasuk and Yuan, 2009). The
  latency is that of log2 n messages in a tree, as in common libraries.
  """
  moved = 2 * (num - 1) / num * num_bytes
  waits = collectives * math.log2(num)
  return moved / machine.bandwidth + machine.latency * waits


def batch_kept(num: int) -> int:
  """The smallest B of at least 50 that is divisible by `num` devices."""
  return math.ceil(ROWS / num) * num


def update_kept(num: int, machine: Machine, communication: float) -> float:
  """Seconds of an update whose rows are split over devices.

  Args:
    num: the number of devices.
    machine: their figures.
    communication: seconds of the all-reduce.
  """
  fixed = STEPS * machine.step
  rows = batch_kept(num) / num
  return fixed + (machine.update - fixed) * rows / ROWS + communication


def table(machines=MACHINES) -> str:
  """Markdown table: a row for each number of devices, a column a machine.

  A cell is the speed-up with B kept and, in brackets, the efficiency with B
  grown in proportion to the devices.
  """
  lines = [
    '| devices | batch kept at | '
    + ' | '.join(machine.name for machine in machines)
    + ' |',
    '| --- ' * (2 + len(machines)) + '|',
  ]
  for num in DEVICES[1:]:
    cells = [str(num), str(batch_kept(num))]
    for machine in machines:
      communication = all_reduce(
        num, BYTES['finetune'], machine, COLLECTIVES['finetune']
      )
      faster = machine.update / update_kept(num, machine, communication)
      grown = machine.update / (machine.update + communication)
      cells.append(f'{faster:.1f} ({grown:.0%})')
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def assumptions(machines=MACHINES) -> str:
  """Markdown table of the figures that `table` is computed from."""
  lines = [
    '| | ' + ' | '.join(machine.name for machine in machines) + ' |',
    '| --- ' * (1 + len(machines)) + '|',
  ]
  for name, cell in (
    ('update on one device', lambda m: f'{1e3 * m.update:g} ms'),
    (f'each of {STEPS} sequential steps', lambda m: f'{1e6 * m.step:g} µs'),
    ('bandwidth', lambda m: f'{m.bandwidth / 1e9:g} GB/s'),
    ('latency', lambda m: f'{1e6 * m.latency:g} µs'),
    *(
      (
        f'all-reduce of {stage}, 4 devices',
        lambda m, stage=stage: (
          f'{1e3 * all_reduce(4, BYTES[stage], m, COLLECTIVES[stage]):.2f} ms'
        ),
      )
      for stage in BYTES
    ),
  ):
    lines.append(f'| {name} | ' + ' | '.join(map(cell, machines)) + ' |')
  return '\n'.join(lines)


def acting_table() -> str:
  """Markdown table of the time of environment steps between two updates."""
  lines = [
    '| environments, a core each | '
    + ' | '.join(f'`{quality}`' for quality in FRAMES)
    + ' |',
    '| --- ' * (1 + len(FRAMES)) + '|',
  ]
  for num in (1, 4, 16, 64):
    seconds = [UPDATE_EVERY / (rate * num) for rate in FRAMES.values()]
    cells = [str(num), *(f'{1e3 * s:.1f} ms' for s in seconds)]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def report(machines=MACHINES) -> str:
  """All tables: the assumptions, the speed-up, the time of acting."""
  return '\n\n'.join(
    [
      assumptions(machines),
      'Speed-up of finetuning with the batch size kept (in brackets, the'
      ' efficiency when it grows with the devices):',
      table(machines),
      f'Acting between two updates ({UPDATE_EVERY} frames of quadruped, all'
      ' environments of all processes together):',
      acting_table(),
    ]
  )


def main():
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, text in (
    ('update', 'seconds of an update on one device'),
    ('bandwidth', 'bytes a second between two devices'),
    ('latency', 'seconds of a message'),
    ('step', 'seconds of a sequential step'),
  ):
    parser.add_argument(f'--{name}', type=float, help=text)
  args = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
  if args:
    machine = dataclasses.replace(MACHINES[1], name='custom', **args)
    print(report((machine,)))
  else:
    print(report())


if __name__ == '__main__':
  main()
