"""All stages on probe environments, in seconds: a smoke test.

python -m experiments.run --config=experiments/debug.py
"""

from experiments import base
from vid2act_jax.config import set_tiny_networks


def get_config():
  """base.py with tiny networks and a short schedule."""
  config = base.get_config()
  config.name = 'debug'
  config.task = 'probe_action'
  config.sources = ('probe_wide', 'probe_count')
  config.env.update(action_repeat=1, time_limit=20, num=1, parallel=False)
  set_tiny_networks(config.learner)
  config.collect.update(episodes=3, workers=1)
  config.pretrain.update(
    steps=6, batch=4, length=10, log_every=2, video_every=3, save_every=3
  )
  config.finetune.update(
    env_steps=100,
    prefill=40,
    first_updates=4,
    batch=4,
    length=10,
    log_every=2,
    video_every=5,
    save_every=5,
  )
  config.evaluate.update(every=40, episodes=2)
  return config
