"""A bench of transfer: six targets, each with three sources of known relation.

  python -m experiments.grid --study=experiments/studies/bench.py \
    --base=experiments/studies/bench.py --jobs=2

A related source has the target's body: another task, or other physics. A
half-related one has another body with similar motion. An unrelated one has
neither. The related source comes first. All datasets are collected with state
policies (docs/data.md), and the seeds of a target share a teacher. A run takes
4 to 9 minutes on one CPU core, a teacher about 15. To run a part, select runs
by name: --only 'cheetah*' '*dreamerv2*'.
"""

from experiments import learning_check

# Target, and its related, half-related and unrelated source.
TARGETS = {
  'cartpole': (
    'dmc_cartpole_swingup@camera=1',
    'dmc_cartpole_swingup@camera=1,gravity=0.75',
    'dmc_pendulum_swingup',
    'dmc_cheetah_run',
  ),
  'cheetah': (
    'dmc_cheetah_run',
    'dmc_cheetah_run@gravity=0.75',
    'dmc_walker_run',
    'dmc_pendulum_swingup',
  ),
  'pendulum': (  # A sparse reward.
    'dmc_pendulum_swingup',
    'dmc_pendulum_swingup@gravity=0.75',
    'dmc_cartpole_swingup@camera=1,gravity=0.75',
    'dmc_walker_run',
  ),
  'walker': (
    'dmc_walker_walk',
    'dmc_walker_run',
    'dmc_cheetah_run',
    'dmc_pendulum_swingup',
  ),
  # Held out: no setting was chosen on these.
  'ball_in_cup': (  # A sparse reward.
    'dmc_ball_in_cup_catch',
    'dmc_ball_in_cup_catch@gravity=0.75',
    'dmc_pendulum_swingup',
    'dmc_cheetah_run',
  ),
  'hopper': (
    'dmc_hopper_stand',
    'dmc_hopper_stand@gravity=0.75',
    'dmc_walker_run',
    'dmc_pendulum_swingup',
  ),
}
TEACHER_SEEDS = 1  # Of a target: most of the cost is in the teachers.
# Noise widens the states that a dataset covers.
POLICY = 'state:expert:0.4,state:expert+noise:0.6'
# What each arm changes: presets, then single fields of `learner.transfer`.
ARMS = {
  'dreamerv2': {'variant': 'dreamerv2'},
  'vid2act': {},
  'paper': {'variant': 'vid2act_paper'},
  'guided': {'variant': 'vid2act_guided'},
  # Initialisation alone, pretrained with and without actions.
  'finetune': {'variant': 'finetune'},
  'finetune_no_actions': {
    'variant': 'finetune',
    'learner.transfer.pretrain_actions': False,
  },
  'stacked': {
    'variant': 'action_free',
    'learner.transfer.pretrain_actions': True,
  },
  'stacked_no_actions': {'variant': 'action_free'},
  # Fields of vid2act, one at a time.
  'states_prior': {'learner.transfer.states': 'prior'},
  'states_rollout': {'learner.transfer.states': 'rollout:5'},
  'distance_sum': {'learner.transfer.distance': 'sum'},
  'to_teacher': {'learner.transfer.direction': 'to_teacher'},
  'evidence': {'learner.transfer.weights': 'evidence'},
  'no_floor': {'learner.transfer.importance_floor': 0.0},
  'generator_selected': {'learner.transfer.generator': 'selected'},
  'generator_frozen': {'learner.transfer.generator_until': 0.5},
  'guidance_prior': {'learner.transfer.guidance': 'feature+prior'},
  'guidance_jump': {'learner.transfer.guidance': 'feature+jump_start'},
  'start_teacher': {'learner.transfer.start': 'teacher'},
  'rehearsal': {'learner.transfer.rehearsal': 0.33},
}


def get_config():
  """learning_check.py, shorter and smaller."""
  config = learning_check.get_config()
  config.name = 'bench'
  config.env.camera = ''
  config.task, *sources = TARGETS['cheetah']
  config.sources = tuple(sources)
  for sizes in (config.learner.teacher, config.learner.student):
    sizes.update(deter=128, hidden=128)
  config.learner.transfer.vae_hidden = 512
  config.learner.behavior.horizon = 12
  config.learner.optim.update(actor_lr=3e-4, critic_lr=3e-4)
  config.collect.update(policy=POLICY, noise=0.3, episodes=240, workers=1)
  config.pretrain.update(steps=5_000, batch=9, length=20, save_every=1_000)
  config.finetune.update(
    env_steps=9_600,
    prefill=500,
    first_updates=500,
    batch=4,
    length=24,
    log_every=100,
    video_every=0,
    save_every=500,
  )
  config.evaluate.update(every=1_600, episodes=5, envs=5)
  return config


def get_study(config):
  """A job for each target and arm."""
  del config
  return {
    f'{target}_{arm}': {
      'variant': 'vid2act',
      'task': tasks[0],
      'sources': tasks[1:],
      **changes,
    }
    for target, tasks in TARGETS.items()
    for arm, changes in ARMS.items()
  }
