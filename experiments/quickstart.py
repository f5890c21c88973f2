"""The whole method in minutes on two CPU cores, with real tasks.

  bash launch/local.sh

Cartpole swing-up, with two small datasets of other tasks played at random.
Networks and schedule are far below the paper's: it shows that everything works
and what it looks like, not how well the method does.
"""

from experiments import learning_check


def get_config():
  """learning_check.py, shorter and smaller."""
  config = learning_check.get_config()
  config.name = 'quickstart'
  config.collect.episodes = 8
  config.pretrain.update(
    steps=500, batch=8, length=12, log_every=50, video_every=250,
    save_every=250,
  )  # fmt: skip
  config.finetune.update(
    env_steps=16_000, prefill=500, update_every=2, batch=8, length=12,
    log_every=50, video_every=250, save_every=250,
  )  # fmt: skip
  config.evaluate.update(every=4_000, episodes=4)
  return config
