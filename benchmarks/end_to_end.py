"""A whole finetuning: environment steps per second, and a time profile.

  python -m benchmarks.end_to_end
  python -m benchmarks.end_to_end --config.env.parallel=True

Runs the quickstart (or --config) in a temporary folder, with its datasets and
teacher created first. Reports the sections of the finetuning. It waits for each
update, so that the time is attributed to it. `unavoidable_share` is the share
of stepping, acting, updating and evaluating in the time without setting up and
compiling.
"""

import json
import pathlib
import sys
import tempfile

from absl import app, flags
from ml_collections import config_flags

from benchmarks import measure
from vid2act_jax.loops import runs, stages
from vid2act_jax.loops.execution import Execution
from vid2act_jax.loops.logger import read_metrics
from vid2act_jax.loops.profile import PARTS

_CONFIG = config_flags.DEFINE_config_file(
  'config', 'experiments/quickstart.py', 'The experiment file.'
)
_UNAVOIDABLE = ('stepping', 'acting', 'updating', 'evaluating')


def main(_):
  """Runs the stages and reports the profile."""
  config = _CONFIG.value
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / 'run'
    runs.init_workdir(workdir, config)
    stages.run_collect(config, workdir)
    stages.run_pretrain(config, workdir)
    stages.run_finetune(config, workdir, Execution(profile=True))
    parts = workdir / 'profile' / 'finetune' / PARTS
    seconds = json.loads(parts.read_text())
    last = read_metrics(workdir, 'finetune')[-1]
  # One-time costs, independent of the length of the run.
  one_time = ('compiling', 'setting up')
  total = sum(v for k, v in seconds.items() if k not in one_time)
  unavoidable = sum(seconds.get(name, 0) for name in _UNAVOIDABLE)
  figures = {
    'arguments': ' '.join(sys.argv[1:]),
    'env_steps': last['step'],
    'seconds': total,
    'env_steps_per_s': last['step'] / total,
    'unavoidable_share': unavoidable / total,
    **{f'{name}_s': value for name, value in seconds.items()},
  }
  measure.report({**figures, **measure.machine()})


if __name__ == '__main__':
  flags.FLAGS.set_default('logtostderr', True)
  app.run(main)
