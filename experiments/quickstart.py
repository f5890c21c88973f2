"""Transfer in minutes on two CPU cores: walker walk, from walker run.

  bash launch/local.sh

The sources are episodes of shipped policies: walker run, which has the body of
the target, and cheetah run. All stages run; networks and schedule are much
smaller than the paper's. The summary also has the curve of learning from
scratch (--config.variant=dreamerv2), of five seeds.
"""

from experiments import learning_check


def get_config():
  """learning_check.py, shorter and smaller, with transfer from experts."""
  config = learning_check.get_config()
  config.name = 'quickstart'
  config.variant = 'vid2act_guided'
  config.task = 'dmc_walker_walk'
  config.sources = ('dmc_walker_run', 'dmc_cheetah_run')
  config.env.camera = ''
  for sizes in (config.learner.teacher, config.learner.student):
    sizes.update(deter=128, hidden=128)
  config.learner.transfer.vae_hidden = 512
  config.learner.generator.update(steps=2_000, batch=256, frames=20_000)
  config.learner.behavior.horizon = 10
  config.learner.optim.update(actor_lr=3e-4, critic_lr=3e-4)
  # Noise widens the states that a dataset covers.
  config.collect.update(
    policy='state:expert:0.4,state:expert+noise:0.6',
    noise=0.3,
    episodes=120,
    workers=2,
  )
  config.pretrain.update(
    steps=1_500, batch=6, length=14, log_every=50, video_every=750
  )
  config.finetune.update(
    env_steps=7_000,
    prefill=500,
    first_updates=300,
    update_every=2,
    batch=6,
    length=14,
    log_every=25,
    video_every=200,
    save_every=250,
  )
  config.evaluate.update(every=1_000, episodes=3, envs=3)
  return config
