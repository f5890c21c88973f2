"""The paper's claim at full size: transfer to quadruped walk and run.

  python -m experiments.grid --study=experiments/studies/quadruped.py \
    --base=experiments/dmc_quadruped.py --gpus 0 1 2 3

Quadruped walk and run, the full method and DreamerV2, to 402k env steps. The
paper claims +50% (walk) and +100% (run) over DreamerV2; published returns are
in experiments/dmc_quadruped.py. 4 runs and 1 teacher per seed, 4 datasets. The
same command resumes the study; with more --seeds it adds runs.
"""

TASKS = 'dmc_quadruped_walk', 'dmc_quadruped_run'
VARIANTS = 'dreamerv2', 'vid2act'


def get_study(config):
  """A job for each task and variant."""
  del config
  return {
    f'{task.removeprefix("dmc_")}_{variant}': {
      'task': task,
      'variant': variant,
      'finetune.env_steps': 402_000,
    }
    for task in TASKS
    for variant in VARIANTS
  }
