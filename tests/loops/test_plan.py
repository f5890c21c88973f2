"""What --print_config and --dry_run print."""

import json
import os
import pathlib
import re
import subprocess
import sys

from experiments import debug, quickstart
from tests.episode_data import DESCRIPTION, fill
from vid2act_jax import config as config_lib
from vid2act_jax.data import dataset
from vid2act_jax.loops import config_help, config_keys, plan, runs, timing
from vid2act_jax.loops.checkpoint import Checkpoint

ROOT = pathlib.Path(__file__).parents[2]


def config_with(**overrides):
  config = debug.get_config()
  config.update_from_flattened_dict(
    {key.replace('__', '.'): value for key, value in overrides.items()}
  )
  return config.lock()


def write_run(folder, config, seconds=2.0, start=0):
  """Writes a run whose updates and env steps take so many seconds each."""
  runs.init_workdir(folder, config)
  rows = [
    {'stage': stage, 'step': start + step, 'time': seconds * step}
    for stage in ('pretrain', 'finetune')
    for step in (2, 4)
  ]
  (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n')


def test_every_key_has_a_meaning():
  meanings = config_help.read_meanings()
  keys = config_keys.leaves(config_lib.get_config().to_dict())
  assert [key for key in keys if not meanings[key]] == []
  assert meanings['env.timeout'].endswith('seconds for a step or a reset')
  assert meanings['pretrain.steps'] == 'updates'
  assert meanings['learner.student.deter'] == 'size of the recurrent state'
  assert meanings['sources'].endswith(
    'labels; their datasets may have no rewards'
  )
  assert 'vid2act_paper   the plain' in meanings['variant'].splitlines()[2]
  # A comment belongs to one key alone.
  assert meanings['stages'] == 'executed in this order'


def test_the_config_explains_itself():
  config = quickstart.get_config()
  config.learner.transfer.rehearsal = 0.5
  text = config_help.describe(config)
  lines = text.splitlines()
  keys = config_keys.leaves(config.to_dict())
  for key, value in keys.items():
    assert sum(f' config.{key} = {value!r}' in line for line in lines) == 1, key
  assert '* config.env.action_repeat = 4  (default: 2)' in lines
  assert '  config.env.time_limit = 1000' in lines
  index = lines.index('  config.env.time_limit = 1000')
  assert lines[index + 1] == '      env steps per episode'
  # Fields that the variant sets.
  assert (
    "config.learner.transfer.weights = None  (config.variant: 'evid" in text
  )
  assert '* config.learner.transfer.rehearsal = 0.5  (default: None)' in lines


def test_plan_of_a_new_run(tmp_path):
  text = plan.describe(config_with(), tmp_path / 'run')
  for part in (
    'collect: probe_wide: 3 episodes by random, new, into ',
    'pretrain: 6 updates on probe_wide, probe_count, new',
    'finetune: 100 env steps of probe_action, 16 updates, 3 evaluations, new',
    'device memory, pretrain: parameters ',
    # Frames of 12.3 KB: three episodes of 21 of each source.
    'source replays 1.6 MB',
    'time: pretrain and finetune not known; measure with',
    '--workdir=' + str(tmp_path / 'measure'),
  ):
    assert part in text, part
  assert not any(tmp_path.iterdir())


def test_plan_of_a_run_that_has_begun(tmp_path):
  config = config_with(source_dir=str(tmp_path / 'data'))
  for name, dim in (('probe_wide', 5), ('probe_count', 2)):
    folder = tmp_path / 'data' / name
    fill(folder, [30, 30], size=64, action_dim=dim)
    description = {
      **DESCRIPTION, 'action_dim': dim, 'size': 64, 'action_repeat': 1
    }  # fmt: skip
    dataset.write_metadata(folder, name, {}, description, True)
  workdir = tmp_path / 'runs' / 'a'
  write_run(workdir, config)
  Checkpoint(workdir / runs.TEACHER).finish(6)
  before = sorted(tmp_path.rglob('*'))
  text = plan.describe(config, workdir)
  assert sorted(tmp_path.rglob('*')) == before
  assert 'collect: probe_wide: exists, 2 episodes' in text
  assert 'pretrain: nothing to do' in text
  # 96 of 100 env steps are left, of two seconds.
  assert f'time: finetune about 3m12s (as {workdir})' in text


def test_time_of_runs_like_it(tmp_path):
  """Of the same config, but for seed and length; a resumed clock counts."""
  write_run(tmp_path / 'other', config_with(finetune__batch=5))
  longer = config_with(seed=1, finetune__env_steps=9_000)
  write_run(tmp_path / 'b' / 'seed_1', longer, 3.0, start=100)
  with open(tmp_path / 'b' / 'seed_1' / 'metrics.jsonl', 'a') as file:
    for row in ({'step': 104, 'time': 1}, {'step': 106, 'time': 1 + 3 * 2}):
      file.write(json.dumps({'stage': 'finetune', **row}) + '\n')
  text = timing.describe(config_with(stages=('finetune',)), tmp_path / 'new')
  assert re.match(r'time: finetune about 5m00s \(as .*b/seed_1\)$', text)
  (tmp_path / 'b' / 'seed_1' / runs.CONFIG).write_text('{')
  text = timing.describe(config_with(stages=('finetune',)), tmp_path / 'new')
  flag = re.search(r'--config.finetune.env_steps=(\d+)', text)
  # Enough for three logs: 40 steps of prefill, and two more updates.
  assert int(flag[1]) == 50


def test_plan_of_several_seeds(tmp_path):
  text = plan.describe(config_with(seeds=(0, 3)), tmp_path)
  assert text.count('run folder: ') == 2
  assert f'run folder: {tmp_path / "seed_3"}' in text
  assert 'for each of 2 seeds:' in text


def test_a_dry_run_writes_nothing(tmp_path, tmp_path_factory):
  """Not even the cache of compilations."""
  command = [sys.executable, '-B', '-m', 'experiments.run', '--dry_run']
  environment = {
    **os.environ,
    'XDG_CACHE_HOME': str(tmp_path),
    'MPLCONFIGDIR': str(tmp_path_factory.mktemp('matplotlib')),
  }
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  done = subprocess.run(
    [
      *command,
      '--config=experiments/debug.py',
      f'--workdir={tmp_path / "run"}',
    ],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.endswith('nothing was written\n')
  assert not any(tmp_path.iterdir())
