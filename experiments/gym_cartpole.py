"""A task that ends by failing: gymnasium's CartPole from pixels.

  pip install -e '.[gym]'
  python -m experiments.run --config=experiments/gym_cartpole.py

Without sources, and with ends that are predicted. Seed 0 had the 500 that are
to be had in each evaluation from 10k env steps on (random: 19); so it had at
10k without the prediction, a little later on the way there.
"""

from experiments import learning_check


def get_config():
  """learning_check.py without transfer, with ends that are predicted."""
  config = learning_check.get_config()
  config.name = 'gym_cartpole'
  config.task = 'gym_CartPole-v1'
  config.variant = 'dreamerv2'
  config.sources = ()
  config.env.update(action_repeat=2, time_limit=500, camera='')
  # Episodes are shorter than what is learned from at a time, and their ends
  # are what there is to learn.
  config.replay.cross_episodes = True
  config.learner.scales.discount = 5.0
  config.finetune.update(env_steps=20_000, prefill=1_000)
  config.evaluate.every = 2_000
  return config
