"""A task with terminal states: gymnasium's CartPole from pixels.

  pip install -e '.[gym]'
  python -m experiments.run --config=experiments/gym_cartpole.py

Without sources and with a continue head. Seed 0 reached the maximum return of
500 in every evaluation from 10k env steps on (random policy: 19). Without the
continue head it also had 500 at 10k, but learned slightly more slowly.
"""

from experiments import learning_check


def get_config():
  """learning_check.py without transfer and with a continue head."""
  config = learning_check.get_config()
  config.name = 'gym_cartpole'
  config.task = 'gym_CartPole-v1'
  config.variant = 'dreamerv2'
  config.sources = ()
  config.env.update(action_repeat=2, time_limit=500, camera='')
  # Episodes are shorter than a chunk, and the agent must learn from their
  # terminal states.
  config.replay.cross_episodes = True
  config.learner.scales.discount = 5.0
  config.finetune.update(env_steps=20_000, prefill=1_000)
  config.evaluate.update(every=2_000, episodes=3, envs=3)
  return config
