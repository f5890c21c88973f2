"""Base config for studies in minutes: cartpole balance, small networks.

  python -m experiments.grid --study=experiments/studies/transfer.py \
    --base=experiments/studies/balance.py --jobs=2

One source is the same task with stronger gravity, the other has another body. A
run takes about 15 minutes on one CPU core (measured: 13 and 15 minutes).
"""

from experiments import learning_check


def get_config():
  """learning_check.py with an easier task and smaller updates."""
  config = learning_check.get_config()
  config.name = 'balance'
  config.task = 'dmc_cartpole_balance'
  config.sources = 'dmc_cartpole_balance@gravity=1.5', 'dmc_pendulum_swingup'
  config.learner.behavior.horizon = 10
  config.collect.update(policy='agent', agent_env_steps=15_000)
  config.pretrain.update(steps=600, batch=4, length=24, save_every=600)
  config.finetune.update(
    env_steps=16_000,
    prefill=750,
    batch=4,
    length=24,
    log_every=50,
    video_every=100,
  )
  config.evaluate.update(every=4_000, episodes=4)
  return config
