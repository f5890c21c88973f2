"""Transfer that outlasts the guidance: cartpole swing-up on two CPU cores.

  python -m experiments.run --config=experiments/cartpole_transfer.py
  python -m experiments.run --config=experiments/cartpole_transfer.py \
    --config.variant=dreamerv2 --workdir=runs/cartpole_scratch

The sources are episodes of shipped policies: the same task at 0.75 gravity, and
pendulum swing-up. Up to about 30k env steps the policy keeps to actions that
are generated from them, and then learns more: docs/results.md, "Longer runs".
"""

from experiments import learning_check


def get_config():
  """learning_check.py, with transfer from experts, for 60k env steps."""
  config = learning_check.get_config()
  config.name = 'cartpole_transfer'
  config.variant = 'vid2act_guided'
  config.sources = (
    'dmc_cartpole_swingup@gravity=0.75',
    'dmc_pendulum_swingup',
  )
  config.learner.transfer.vae_hidden = 512
  # Noise widens the states that a dataset covers.
  config.collect.update(
    policy='state:expert:0.4,state:expert+noise:0.6', noise=0.3, episodes=240
  )
  config.pretrain.update(steps=4_000, batch=6, length=20, save_every=1_000)
  config.finetune.env_steps = 60_000
  config.evaluate.every = 5_000
  return config
