"""Does it learn? Cartpole swing-up from pixels on two CPU cores.

  python -m experiments.run --config=experiments/learning_check.py \
    --config.variant=dreamerv2 --workdir=runs/learning_check_dreamerv2
  python -m experiments.run --config=experiments/learning_check.py

An evaluation return of at least 400 is asked for (random: about 30 to 70).
Seed 0 had 477 after 60k env steps without transfer (24 minutes), and with it
403 after 60k and 435 after 70k (55 minutes beside other work).
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
  # pixel or two, and small networks had not learned it after 2,000 updates.
  config.env.camera = '1'
  for sizes in (config.learner.teacher, config.learner.student):
    sizes.update(depth=8, stoch=30, units=128)
  config.learner.transfer.vae_hidden = 128
  # Smaller batches, more of them: 150 frames an update instead of 2500. Long
  # ones, for the first frames of a chunk are those the model knows least of.
  config.learner.optim.update(model_lr=1e-3, critic_lr=2e-4)
  config.collect.update(policy='random', episodes=20)
  config.pretrain.update(
    steps=1_000,
    batch=5,
    length=30,
    log_every=100,
    video_every=500,
    save_every=500,
  )
  config.finetune.update(
    env_steps=200_000,
    prefill=1_500,
    first_updates=300,
    update_every=2,
    batch=5,
    length=30,
    log_every=200,
    video_every=1_000,
    save_every=1_000,
  )
  config.evaluate.every = 10_000
  return config
