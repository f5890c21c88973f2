"""The full method in minutes on two CPU cores, with real tasks.

  bash launch/local.sh

Cartpole swing-up, with two small datasets of random actions on other tasks.
Networks and schedule are much smaller than the paper's: this shows that all
stages work and what they produce, not the method's performance.
"""

from experiments import learning_check


def get_config():
  """learning_check.py, shorter and smaller."""
  config = learning_check.get_config()
  config.name = 'quickstart'
  for sizes in (config.learner.teacher, config.learner.student):
    sizes.update(deter=128, hidden=128)
  config.collect.episodes = 6
  config.pretrain.update(
    steps=500, batch=6, length=12, log_every=25, video_every=250
  )
  config.finetune.update(
    env_steps=7_000,
    prefill=750,
    first_updates=200,
    update_every=2,
    batch=6,
    length=12,
    log_every=25,
    video_every=200,
    save_every=250,
  )
  config.evaluate.update(every=1_000, episodes=3)
  return config
