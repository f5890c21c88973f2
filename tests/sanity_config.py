"""The config of the sanity runs: small networks, random data, few steps."""

from experiments.studies import balance


def get_config():
  """balance.py, with random data; the sanity tests choose the sources."""
  config = balance.get_config()
  config.name = 'sanity'
  config.env.update(
    time_limit=500, camera=''
  )  # probe_noise has only the default camera.
  config.learner.behavior.horizon = 5
  config.collect.update(policy='random', episodes=10, workers=1)
  config.pretrain.update(steps=400, video_every=0, save_every=400)
  config.finetune.update(
    env_steps=6_000,  # 1500 agent steps, 700 updates
    prefill=500,
    first_updates=200,
    log_every=25,
    video_every=25,
    save_every=500,
  )
  config.evaluate.update(every=0, episodes=1)
  return config
