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
  config.env.action_repeat = 4
  config.env.quality = 'fast'
  # It follows the cart. In the fixed camera's picture the pole is a line of a
  # pixel or two, which so small a network takes far longer to see.
  config.env.camera = '1'
  for sizes in (config.learner.teacher, config.learner.student):
    sizes.update(depth=8, stoch=30, deter=128, hidden=128, units=128)
  config.learner.transfer.vae_hidden = 128
  # Smaller batches, more of them: 128 frames an update instead of 2500.
  config.learner.optim.update(model_lr=1e-3, actor_lr=1e-4, critic_lr=2e-4)
  config.collect.update(method='random', episodes=20)
  config.pretrain.update(
    steps=1_000,
    batch=8,
    length=16,
    log_every=100,
    video_every=500,
    save_every=500,
  )
  config.finetune.update(
    env_steps=60_000,
    prefill=1_500,
    first_updates=800,
    update_every=2,
    batch=8,
    length=16,
    log_every=200,
    video_every=1_000,
    save_every=1_000,
  )
  config.evaluate.every = 10_000
  return config
