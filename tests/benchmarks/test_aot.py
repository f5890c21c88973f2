"""Tests of the figures that are read from compiled programs."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import aot, hlo

_HLO = """HloModule jit_update, is_scheduled=true

%body.1 (arg.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.1 = (s32[], f32[4]{0}) parameter(0)
  %x.1 = f32[4]{0} get-tuple-element(%arg.1), index=1
  %dot.1 = f32[4]{0} fusion(%x.1), kind=kCustom, calls=%product.1
  %done.1 = ((f32[4]{0}), f32[4]{0}, u32[]) fusion-start(%dot.1), kind=kLoop
  %y.1 = f32[4]{0} fusion-done(%done.1)
  ROOT %out.1 = (s32[], f32[4]{0}) tuple(%arg.1, %y.1)
}

%called.1 (arg.2: f32[4]) -> f32[4] {
  %arg.2 = f32[4]{0} parameter(0)
  ROOT %neg.1 = f32[4]{0} fusion(%arg.2), kind=kLoop, calls=%negate.1
}

ENTRY %main.1 (x.2: f32[4]) -> f32[4] {
  %x.2 = f32[4]{0} parameter(0)
  %start.1 = (s32[], f32[4]{0}) tuple(%x.2, %x.2)
  %loop.1 = (s32[], f32[4]{0}) while(%start.1), condition=%c.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"5"}}
  %conv.1 = (f32[4]{0}, u8[0]{0}) custom-call(%loop.1), custom_call_target="c"
  ROOT %call.1 = f32[4]{0} call(%conv.1), to_apply=%called.1
}
"""


# As a TPU's compiler writes it: the number of trips is in the condition.
_TPU_HLO = """HloModule jit_finetune_step, is_scheduled=true

%moved.1 (p.1: f32[4,2]) -> f32[2,4] {
  %p.1 = f32[4,2]{1,0} parameter(0)
  ROOT %t.1 = f32[2,4]{1,0} transpose(%p.1), dimensions={1,0}
}

%product.1 (p.2: f32[4]) -> f32[4] {
  %p.2 = f32[4]{0} parameter(0)
  %c.2 = f32[4]{0} copy(%p.2)
  ROOT %m.1 = f32[4]{0} multiply(%c.2, %c.2)
}

%condition.1 (arg.1: (s32[], f32[4])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(7)
  %arg.1 = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %limit.1), direction=LT
}

%body.1 (arg.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.2 = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %x.1 = f32[4]{0} get-tuple-element(%arg.2), index=1
  %y.1 = f32[4]{0} fusion(%x.1), kind=kLoop, calls=%product.1, metadata=\
{op_name="jit(finetune_step)/jvp()/while/body/mul"}, backend_config=\
{"window_config":{"estimated_cycles":"100"}}
  ROOT %out.1 = (s32[]{:T(128)}, f32[4]{0}) tuple(%arg.2, %y.1)
}

ENTRY %main.1 (x.2: f32[4,2]) -> f32[4] {
  %x.2 = f32[4,2]{1,0} parameter(0)
  %z.1 = f32[2,4]{1,0} fusion(%x.2), kind=kLoop, calls=%moved.1, metadata=\
{op_name="jit(finetune_step)/jvp(Encoder)/transpose"}, backend_config=\
{"window_config":{"estimated_cycles":"300"}}
  %sum.1 = f32[2,4]{1,0} all-reduce(%z.1), replica_groups={}
  %loop.1 = (s32[]{:T(128)}, f32[4]{0}) while(%z.1), condition=%condition.1, \
body=%body.1
  ROOT %r.1 = f32[4]{0} get-tuple-element(%loop.1), index=1
}
"""


def test_kernels_are_counted():
  program = hlo.Program(_HLO)
  assert program.kernels() == {'kernels': 5 * 2 + 2, 'in_loops': 10}
  assert program.loops == [5]


def test_estimates_of_a_tpu():
  program = hlo.Program(_TPU_HLO)
  assert program.loops == [7]
  assert program.cycles(aot.part_of) == {
    'recurrence': 700, 'encoder': 300, 'other': 0,
  }  # fmt: skip
  # The copy in the loop is part of a product.
  assert program.layout() == {'layout_operations': 1, 'layout_share': 0.3}
  assert program.collectives() == {
    'all-reduce/count': 1, 'all-reduce/bytes': 32,
  }  # fmt: skip


def _run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'benchmarks.aot', *arguments],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )


@pytest.mark.nightly
def test_updates_compile_for_a_tpu():
  """Needs the extra `tpu`. Seeds and gradients on two chips."""
  pytest.importorskip('libtpu')
  small = '--preset', 'learning_check', '--unroll', '1'
  figures = {}
  for name, flags in {
    'one': (), 'two chips': ('--chips', '2'), 'seeds': ('--seeds', '2'),
  }.items():  # fmt: skip
    done = _run(*small, *flags)
    assert done.returncode == 0, done.stderr
    figures[name] = json.loads(done.stdout.splitlines()[0])
  assert figures['one']['cycles'] > 1e6
  collectives = [k for k in figures['two chips'] if k.startswith('all-')]
  assert set(collectives) == {'all-reduce/count', 'all-reduce/bytes'}
  assert not any(k.startswith('all-') for k in figures['seeds'])
  assert 1 < figures['seeds']['cycles'] / figures['one']['cycles'] < 4


def test_an_unknown_topology_is_an_error():
  pytest.importorskip('libtpu')
  done = _run('--topology', 'v9:2x2')
  assert done.returncode == 1 and 'v5e:2x2' in done.stderr
  assert 'Traceback' not in done.stderr
