"""What more devices should bring: tables computed, not measured.

  python -m benchmarks.scaling

Prints docs/scaling.md's tables as markdown. The arguments replace what they
are computed from; `python -m benchmarks.collectives` tells the bytes.
"""

import argparse
import dataclasses
import math

DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROWS = 50  # B on one device.
STEPS = (
  128  # Sequential ones of an update; tests/benchmarks/test_benchmarks.py.
)
# All-reduced in an update, in so many collectives: benchmarks.collectives,
# full size, four domains.
BYTES = {'pretrain': 21_395_340, 'finetune': 29_809_572}
COLLECTIVES = {'pretrain': 2, 'finetune': 3}
# Frames a second that one core steps and renders of quadruped:
# benchmarks.envs, measured.
FRAMES = {'fast': 285, 'standard': 24}
UPDATE_EVERY = 5  # Agent steps, of one frame each.


@dataclasses.dataclass(frozen=True)
class Machine:
  """What is known, or assumed, of devices and what joins them.

  Attributes:
    name: for the heading.
    update: seconds of a full-size update of B = 50 on one device.
    bandwidth: bytes a second between two devices, each way.
    latency: seconds of a message.
    step: seconds that one of the sequential steps takes however few rows.
  """

  name: str
  update: float
  bandwidth: float
  latency: float
  step: float = 20e-6


# Of a full-size update in bfloat16 on one H100, measured: benchmarks/README.md.
_UPDATE, _STEP = 12.5e-3, 25e-6
MACHINES = (
  Machine('CPU hosts of two cores, 10 Gbit/s Ethernet', 11.9, 1.25e9, 50e-6),
  Machine(
    'Accelerators with fast links, 100 GB/s', _UPDATE, 100e9, 5e-6, _STEP
  ),
  Machine(
    'Accelerators, one a host, 25 Gbit/s Ethernet',
    _UPDATE,
    3.1e9,
    20e-6,
    _STEP,
  ),
)


def all_reduce(
  num: int, num_bytes: float, machine: Machine, collectives: int = 1
) -> float:
  """Seconds of a ring's all-reduce, in so many collectives.

  2(n - 1)/n of the bytes pass every link (Patarasuk and Yuan, 2009); the
  latency is that of a tree's log2 n messages, as libraries have it.
  """
  moved = 2 * (num - 1) / num * num_bytes
  waits = collectives * math.log2(num)
  return moved / machine.bandwidth + machine.latency * waits


def batch_kept(num: int) -> int:
  """The least B from 50 on that so many devices can share."""
  return math.ceil(ROWS / num) * num


def update_kept(num: int, machine: Machine, told: float) -> float:
  """Seconds of an update whose rows are shared out.

  Args:
    num: of devices.
    machine: they are of.
    told: seconds of telling each other.
  """
  fixed = STEPS * machine.step
  rows = batch_kept(num) / num
  return fixed + (machine.update - fixed) * rows / ROWS + told


def table(machine: Machine) -> str:
  """Markdown of one machine, a row for each number of devices."""
  lines = [
    '| devices | all-reduce, pretrain | finetune | B kept at | updates are'
    ' faster by | efficiency | B grown to | efficiency |',
    '| --- ' * 8 + '|',
  ]
  for num in DEVICES:
    told = {
      stage: all_reduce(num, BYTES[stage], machine, COLLECTIVES[stage])
      for stage in BYTES
    }
    faster = machine.update / update_kept(num, machine, told['finetune'])
    grown = machine.update / (machine.update + told['finetune'])
    cells = (
      num,
      *(f'{1e3 * told[stage]:.2f} ms' for stage in ('pretrain', 'finetune')),
      batch_kept(num),
      f'{faster:.1f}',
      _percent(faster / num),
      ROWS * num,
      _percent(grown),
    )
    lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
  return '\n'.join(lines)


def _percent(share):
  return f'{share:.0%}' if share >= 0.01 else '<1%'


def acting_table() -> str:
  """Markdown: what stepping environments takes between two updates."""
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
  """All tables, with what each is computed from."""
  parts = []
  for m in machines:
    parts += [
      f'{m.name}: an update of {m.update:g} s on one device,'
      f' {m.bandwidth / 1e9:g} GB/s, {1e6 * m.latency:g} µs a message,'
      f' {1e6 * m.step:g} µs for each of the {STEPS} steps.',
      table(m),
    ]
  parts += [
    f'Acting between two updates ({UPDATE_EVERY} frames of quadruped, all'
    ' environments of all processes together):',
    acting_table(),
  ]
  return '\n\n'.join(parts)


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
  given = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
  if given:
    own = dataclasses.replace(MACHINES[1], name='As given', **given)
    print(report((own,)))
  else:
    print(report())


if __name__ == '__main__':
  main()
