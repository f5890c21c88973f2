"""Does it learn? Cartpole swing-up from pixels on two CPU cores.

  python -m experiments.run --config=experiments/learning_check.py \
    --config.learner.variant=dreamerv2 --workdir=runs/learning_check_dreamerv2
  python -m experiments.run --config=experiments/learning_check.py

An evaluation return of at least 400 is asked for (random: about 30 to 70).
"""

from experiments import base


def get_config():
  """base.py with small networks and batches, and a faster picture."""
  config = base.get_config()
  config.name = 'learning_check'
  config.task = 'dmc_cartpole_swingup'
  config.sources = ('dmc_cartpole_balance', 'dmc_pendulum_swingup')
  config.env.action_repeat = 8
  config.env.quality = 'fast'
  for sizes in (config.learner.teacher, config.learner.student):
    sizes.update(depth=8, stoch=30, deter=128, hidden=128, units=128)
  config.learner.transfer.vae_hidden = 128
  config.learner.optim.update(model_lr=8e-4, actor_lr=3e-4, critic_lr=3e-4)
  config.learner.behavior.discount = 0.98  # Eight env steps an agent step.
  config.collect.update(method='random', episodes=20)
  config.pretrain.update(
    steps=1500, batch=16, length=16, log_every=100, video_every=500,
    save_every=500,
  )  # fmt: skip
  config.finetune.update(
    env_steps=100_000, prefill=625, update_every=2, batch=16, length=16,
    log_every=100, video_every=1000, save_every=1000,
  )  # fmt: skip
  config.evaluate.update(every=10_000)
  return config
