"""A whole finetuning: environment steps a second, and where the time goes.

  python -m benchmarks.end_to_end
  python -m benchmarks.end_to_end --config.env.parallel=True

Runs the quickstart (or what --config names) in a temporary folder, with its
datasets and teacher made first, and tells the shares of the finetuning. Each
update is waited for, so that its time is told as its own. `unavoidable_share`
is what stepping, acting, updating and evaluating take of all but setting up and
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
from vid2act_jax.loops.logger import read_metrics

_CONFIG = config_flags.DEFINE_config_file(
  'config', 'experiments/quickstart.py', 'The experiment file.'
)
_UNAVOIDABLE = ('stepping', 'acting', 'updating', 'evaluating')


def main(_):
  """Measures and tells."""
  config = _CONFIG.value
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / 'run'
    runs.init_workdir(workdir, config)
    stages.run_collect(config, workdir)
    stages.run_pretrain(config, workdir)
    stages.run_finetune(config, workdir, profile=True)
    parts = workdir / 'profile' / 'finetune' / stages.PARTS
    seconds = json.loads(parts.read_text())
    last = read_metrics(workdir, 'finetune')[-1]
  # What is done once, however long a run.
  once = ('compiling', 'setting up')
  whole = sum(v for k, v in seconds.items() if k not in once)
  unavoidable = sum(seconds.get(name, 0) for name in _UNAVOIDABLE)
  figures = {
    'arguments': ' '.join(sys.argv[1:]),
    'env_steps': last['step'],
    'seconds': whole,
    'env_steps_per_s': last['step'] / whole,
    'unavoidable_share': unavoidable / whole,
    **{f'{name}_s': value for name, value in seconds.items()},
  }
  measure.tell({**figures, **measure.machine()})


if __name__ == '__main__':
  flags.FLAGS.set_default('logtostderr', True)
  app.run(main)
