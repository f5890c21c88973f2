"""The config of the sanity runs: small networks, random play, short."""

from experiments import learning_check


def get_config():
  """learning_check.py, with tasks that the sanity tests choose."""
  config = learning_check.get_config()
  config.name = 'sanity'
  config.task = 'dmc_cartpole_balance'
  config.env.update(time_limit=500, camera='')
  config.collect.update(episodes=10, workers=1)
  config.pretrain.update(steps=500, video_every=0, save_every=500)
  config.finetune.update(
    env_steps=2_800,  # 700 agent steps, 400 updates
    prefill=500,
    first_updates=300,
    log_every=50,
    video_every=50,
    save_every=500,
  )
  config.evaluate.update(every=0, episodes=1)
  return config
