"""Runs of several seeds in one process, next to runs of a single seed."""

import functools
import shutil

import jax
import numpy as np
import pytest

from benchmarks import collectives
from experiments import debug, run
from tests import kill_runs, small
from tests.test_sharding import run_simulated
from vid2act_jax import learner
from vid2act_jax.analysis import load_runs
from vid2act_jax.loops import interaction, runs, seed_calls, seeds
from vid2act_jax.loops.checkpoint import Checkpoint
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.logger import read_metrics
from vid2act_jax.loops.preemption import Preempted, PreemptionHandler
from vid2act_jax.types import UserError

pytestmark = [
  pytest.mark.usefixtures('share_compiled_steps'),
  pytest.mark.slow,
]


def config_with(*named, **changes):
  config = debug.get_config()
  config.seeds = named
  config.update_from_flattened_dict(changes)
  return config.lock()


def vectorize(monkeypatch):
  """Joins the calls as on an accelerator."""
  group = seeds.Group
  monkeypatch.setattr(
    seeds, 'Group', lambda num, vectorized, *args: group(num, True, *args)
  )


class StopsAfter(PreemptionHandler):
  """Preempts the runs after a number of checks, those of all seeds."""

  def __init__(self, checks):
    super().__init__()
    self._remaining = checks

  def check(self, all_hosts=False):
    self._remaining -= 1
    if self._remaining < 0:
      raise Preempted('test')


def test_the_folder_of_a_seed_is_that_of_a_run_alone(
  finished, tmp_path, capsys
):
  run.run(config_with(0, 3), tmp_path)
  assert kill_runs.differences(finished, tmp_path / 'seed_0') == []
  assert kill_runs.differences(finished, tmp_path / 'seed_3') != []
  one, other = (
    runs.read_config_dict(f) for f in (finished, tmp_path / 'seed_0')
  )
  assert one == other
  assert runs.read_config_dict(tmp_path / 'seed_3')['seed'] == 3
  out = capsys.readouterr().out
  assert 'seed 3: finetune  100/100 env steps' in out
  found, _ = load_runs.find([tmp_path])
  assert sorted(path.name for path in found) == ['seed_0', 'seed_3']


def test_stopped_seeds_resume_exactly(finished, tmp_path):
  stops = 0
  for checks in (60, 20, 75, 10_000):
    try:
      run.run(config_with(0, 3), tmp_path, Execution(False, StopsAfter(checks)))
    except Preempted:
      stops += 1
  assert stops == 3
  assert kill_runs.differences(finished, tmp_path / 'seed_0') == []


@pytest.mark.parametrize(
  'device_gb', [0, pytest.param(1, marks=pytest.mark.nightly)]
)
def test_vectorized_seeds_learn_what_a_run_alone_learns(
  finished, tmp_path, monkeypatch, device_gb
):
  vectorize(monkeypatch)
  run.run(config_with(0, 3, **{'replay.device_gb': device_gb}), tmp_path)
  expected, found = (
    Checkpoint(folder / runs.TEACHER).restore_raw()[0]['params']['model']
    for folder in (finished, tmp_path / 'seed_0')
  )
  compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
  for name, leaves in _flat(expected).items():
    compare(_flat(found)[name], leaves, err_msg=name)
  returns = [
    [r['random/return'] for r in read_metrics(f) if 'random/return' in r]
    for f in (finished, tmp_path / 'seed_0')
  ]
  assert returns[0] == returns[1]
  for seed in (0, 3):
    assert Checkpoint(tmp_path / f'seed_{seed}' / runs.STUDENT).finished()


def _flat(tree, prefix=''):
  if not isinstance(tree, dict):
    return {prefix: tree}
  parts = (_flat(v, f'{prefix}/{k}') for k, v in tree.items())
  return {k: v for part in parts for k, v in part.items()}


def test_a_seed_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
  vectorize(monkeypatch)
  step = interaction.Interaction.step

  def die(self, state, send):
    if self._seed == 3 and self.counters.steps == 30:
      raise UserError('the simulator has crashed')
    return step(self, state, send)

  monkeypatch.setattr(interaction.Interaction, 'step', die)
  message = '1 of the seeds failed.*seed_3: the simulator has crashed'
  with pytest.raises(UserError, match=message):
    run.run(config_with(0, 3), tmp_path)
  # The other one went on, next to copies of its own.
  assert Checkpoint(tmp_path / 'seed_0' / runs.STUDENT).finished()
  assert not Checkpoint(tmp_path / 'seed_3' / runs.STUDENT).finished()


def test_seeds_share_datasets(tmp_path):
  changes = {'source_dir': str(tmp_path / 'data'), 'stages': ('collect',)}
  run.run(config_with(0, 3, **changes), tmp_path / 'runs')
  assert sorted(path.name for path in (tmp_path / 'data').iterdir()) == [
    'probe_count',
    'probe_wide',
  ]
  assert not (tmp_path / 'runs' / 'seed_3' / 'sources').exists()


def test_a_wrong_config_is_reported_once(tmp_path, capsys):
  with pytest.raises(UserError, match="^config.variant='x' is unknown"):
    run.run(config_with(0, 3, variant='x'), tmp_path)
  assert not capsys.readouterr().out and not any(tmp_path.iterdir())


def test_folders_that_are_in_use(finished, tmp_path):
  with pytest.raises(UserError, match='is the folder of a single run'):
    run.run(config_with(0, 1), finished)
  # The run of a seed is used where its config fits, and refused where not.
  shutil.copytree(finished, tmp_path / 'seed_0')
  run.run(config_with(1), tmp_path)
  assert kill_runs.differences(finished, tmp_path / 'seed_0') == []
  with pytest.raises(UserError, match='seed_0 holds a run of another'):
    run.run(config_with(1, **{'learner.behavior.horizon': 4}), tmp_path)


def test_seeds_on_devices_of_their_own(finished, tmp_path):
  """Two seeds on four devices: two devices each, one with mesh.data=1."""
  for data in (1, 2):
    run_simulated(
      4,
      'experiments.run',
      '--config=experiments/debug.py',
      f'--workdir={tmp_path / str(data)}',
      f'--config.source_dir={finished / "sources"}',
      '--config.seeds=2',
      f'--config.mesh.data={data}',
      "--config.stages=('pretrain',)",
      '--config.pretrain.batch=4',
    )
  states = [
    Checkpoint(tmp_path / folder / runs.TEACHER).restore_raw()[0]['params']
    for folder in ('1/seed_0', '2/seed_0', '1/seed_1')
  ]
  small.assert_close(states[0], states[1], 1e-4)
  assert small.differ(states[0], states[2])


def test_a_joined_update_has_no_collectives():
  agent = learner.build_agent(small.config(), 2, (1, 3))
  states = jax.tree.map(lambda x: np.stack([x, x]), small.state_of(agent))
  batches, keys = (small.finetune_batch(agent),) * 2, (jax.random.key(0),) * 2
  joined = small.jit(seed_calls.join_update(agent.finetune_step, 2))
  args = states, batches, (keys, np.array([True, True]))
  program = joined.lower(*args).compile().as_text()
  assert collectives.read(program) == {}
