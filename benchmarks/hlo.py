"""Reads compiled programs: what they execute, and the compiler's estimates."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import collectives

# They only name values; nothing is executed.
_FREE = {
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast',
  'after-all', 'fusion-done', 'copy-done', 'async-done', 'partition-id',
}  # fmt: skip
# They move data and compute nothing.
_LAYOUT = {'copy', 'copy-start', 'transpose', 'pad', 'reshape'}
_IN_LAYOUT_FUSION = {*_LAYOUT, *_FREE, 'convert', 'slice'}
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(
  r'^\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\('
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_LIMIT = re.compile(r' s32\[\]\S* constant\((\d+)\)')


class Executed(NamedTuple):
  """An instruction, as often as the program executes it."""

  opcode: str
  line: str  # HLO
  times: int
  in_loop: bool
  computation: list[str]  # of a fusion, its lines; else []

  @property
  def cycles(self) -> int:
    """The compiler's estimate for all executions; 0 without one."""
    found = _CYCLES.search(self.line)
    return self.times * int(found[1]) if found else 0

  @property
  def is_layout(self) -> bool:
    """Whether it only changes where data is."""
    if self.opcode != 'fusion':
      return self.opcode in _LAYOUT
    kinds = {_opcode(line) for line in self.computation} - {None}
    return kinds <= _IN_LAYOUT_FUSION and bool(kinds & _LAYOUT)

  @property
  def source(self) -> str:
    """Path of the JAX operation that it comes from, or ''."""
    found = _SOURCE.search(self.line)
    return found[1] if found else ''


class Program:
  """A compiled program."""

  def __init__(self, hlo: str):
    """hlo: its text, `compiled.as_text()`."""
    self._computations: dict[str, list[str]] = {}
    self._entry, lines = '', []
    for line in hlo.splitlines():
      if found := _COMPUTATION.match(line):
        lines = self._computations[found[2]] = []
        self._entry = found[2] if found[1] else self._entry
      else:
        lines.append(line)
    self.loops: list[int] = []  # Trips of each loop, once for each execution.
    self.executed = list(self._walk(self._entry, 1, False))

  def _walk(self, name, times, in_loop) -> Iterator[Executed]:
    for line in self._computations[name]:
      opcode = _opcode(line)
      if opcode is None or opcode in _FREE:
        continue
      if opcode == 'while':
        trips = self._trips(line)
        self.loops += [trips] * times
        yield from self._walk(_called(line, 'body'), times * trips, True)
      elif opcode == 'call':
        yield from self._walk(_called(line, 'to_apply'), times, in_loop)
      else:
        fused = opcode == 'fusion' and self._computations.get(
          _called(line, 'calls'), []
        )
        yield Executed(opcode, line, times, in_loop, fused or [])

  def _trips(self, line) -> int:
    if found := _TRIPS.search(line):
      return int(found[1])
    # The loop ends at the only number that its condition has.
    condition = self._computations[_called(line, 'condition')]
    limits = {int(n) for text in condition for n in _LIMIT.findall(text)}
    return limits.pop() if len(limits) == 1 else 1

  def kernels(self) -> dict[str, int]:
    """Number of executed instructions: on a GPU, of kernels.

    Returns:
      kernels, in total; in_loops, those inside loops.
    """
    count = lambda rows: sum(x.times for x in rows)
    inner = (x for x in self.executed if x.in_loop)
    return {'kernels': count(self.executed), 'in_loops': count(inner)}

  def layout(self) -> dict[str, float]:
    """Operations that only move data, and their share of the cycles."""
    rows = [x for x in self.executed if x.is_layout]
    total = sum(x.cycles for x in self.executed)
    share = sum(x.cycles for x in rows) / total if total else 0.0
    return {
      'layout_operations': sum(x.times for x in rows),
      'layout_share': share,
    }

  def cycles(self, part_of) -> dict[str, int]:
    """Estimated cycles by part; part_of: `Executed.source` -> part."""
    out: collections.Counter[str] = collections.Counter()
    for row in self.executed:
      out[part_of(row.source)] += row.cycles
    return dict(out.most_common())

  def collectives(self) -> dict[str, int]:
    """Count and bytes of the collectives, by kind."""
    out: collections.Counter[str] = collections.Counter()
    for row in self.executed:
      for kind, sizes in collectives.read(row.line).items():
        out[f'{kind}/count'] += row.times
        out[f'{kind}/bytes'] += row.times * sum(sizes)
    return dict(out)


def _opcode(line: str) -> str | None:
  found = _INSTRUCTION.match(line)
  return found[1] if found else None


def _called(line: str, key: str) -> str:
  found = re.search(rf'{key}=%?([\w.\-]+)', line)
  return found[1] if found else ''
