"""Every key of an experiment: its default, its unit and its meaning.

The defaults are the paper's sizes and schedule on the DeepMind Control suite.
An experiment file takes this config and changes what differs; every key can be
overridden on the command line: `--config.finetune.env_steps=100000`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The full config with its defaults."""
  return ConfigDict(
    {
      'name': 'base',  # names the default run folder
      'seed': 0,  # of parameters, noise, sampling and environments
      'task': 'dmc_quadruped_walk',  # the target: <suite>_<domain>_<task>
      'sources': (  # tasks of the source datasets, in the order of the labels
        'dmc_cheetah_run',
        'dmc_hopper_stand',
        'dmc_walker_walk',
        'dmc_walker_run',
      ),
      'source_dir': '',  # folder of the datasets; '': sources/ in the run's
      'teacher_from': '',  # a run folder or a public checkpoint's file (.npz,
      # .safetensors, .pt); '': this run's own
      'stages': ('collect', 'pretrain', 'finetune'),  # run in this order
      # What of the method is used:
      #   vid2act         all of it
      #   dreamerv2       nothing of the sources
      #   finetune        the student starts as the teacher; no more transfer
      #   action_free     the student is stacked on a model pretrained without
      #                   actions (APV); no more transfer
      #   no_distill      the student's features are not drawn to the teacher's
      #   no_replay       no action VAE, the policy reads the state alone
      #   uniform         similarity weights of 1/N
      #   frozen_weights  similarity weights as initialised
      #   single:<task>   transfer from one of the sources alone
      'variant': 'vid2act',
      'env': _env(),
      'learner': _learner(),
      'replay': {  # frames held for sampling, on disk: 12.3 KB each
        'source_gb': 3.1,  # bound for each source dataset, 1e9 bytes
        'online_gb': 6.2,  # bound for the target task; the oldest leave
        'keep_all': False,  # keep their episodes' files when they leave
        'cross_episodes': False,  # chunks may run on into the next episode
        'scratch': '',  # folder to hold them in; '': the run's
        # The frozen teacher's embeddings are computed once and held, as
        # 'float16' or 'float32': in place of the sources' images, and of the
        # target beside them and on top of the bound, 2 KB a source and frame
        # (float16). 'none': computed in every update.
        'embeddings': 'float16',
      },
      'mesh': {
        'data': -1,  # devices that share the batches; -1: all there are
      },
      # Updates in a row whose losses or gradients may be not finite. They are
      # skipped; one more, and the run stops.
      'skip_limit': 20,
      'collect': _collect(),
      'pretrain': _pretrain(),
      'finetune': _finetune(),
      'evaluate': {
        'every': 3_000,  # env steps between evaluations; 0: at the end alone
        'episodes': 10,  # a mean is taken over so many
        'envs': 1,  # environments at once
      },
    }
  )


def _env():
  return ConfigDict(
    {
      'size': 64,  # pixels a side; the networks are made for 64
      'action_repeat': 2,  # env steps an agent step takes
      'time_limit': 1000,  # env steps an episode
      'camera': '',  # camera name or number; '': the task's own
      'quality': 'standard',  # 'fast': no shadows, reflections, multisampling
      'num': 1,  # environments acted in at once
      'parallel': False,  # each in a process of its own
      # Such a process is replaced when it dies, or when it takes longer:
      'timeout': 120.0,  # seconds for a step or a reset
      'replacements': 5,  # without an episode ended between; then it stops
    }
  )


def _sizes():
  return {
    'depth': 32,  # channels of the first convolution; the others scale
    'stoch': 50,  # Gaussian latents
    'deter': 200,  # recurrent units
    'hidden': 200,  # hidden units of the recurrent model
    'units': 400,  # hidden units of the reward head, actor and critic
    'reward_layers': 2,  # hidden layers of the reward head, and that of ends
  }


def _learner():
  return ConfigDict(
    {
      'teacher': _sizes(),
      'student': _sizes(),  # may differ from the teacher's
      'transfer': {
        'vae_hidden': 750,  # hidden units of the action VAE
        'guidance': 50,  # size of the vector the policy reads
        'importance_floor': 0.1,  # least weight of a domain in distillation
        'vae_kl': 0.5,  # of the VAE's KL against its reconstruction
      },
      'behavior': {
        'horizon': 15,  # imagined states a trajectory
        'discount': 0.99,  # per agent step
        'lambda_': 0.95,  # of the λ-return
        'entropy': 1e-4,  # of the actor's entropy (nats) against the return
        'slow_period': 100,  # updates between copies of the critic
        'actor_layers': 4,  # hidden layers
        'critic_layers': 3,  # hidden layers
      },
      'scales': {  # of the losses in the model's total
        'kl': 1.0,
        'image': 1.0,
        'reward': 2.0,
        # Of the student's prediction of where episodes truly end, as failures
        # do (set replay.cross_episodes, too: else chunks seldom reach an end);
        # 0: it makes none, and values states as if life went on.
        'discount': 0.0,
        'distillation': 1.0,
        'vae': 1.0,
      },
      'kl': {
        'balance': 0.8,  # share of the term that trains the prior
        'free': 1.0,  # nats without gradient, on the batch's mean
      },
      'optim': {  # three Adams; gradients clipped to a global norm
        'model_lr': 3e-4,  # world model and transfer modules
        'actor_lr': 8e-5,
        'critic_lr': 8e-5,
        'eps': 1e-5,
        'model_clip': 100.0,
        'actor_clip': 100.0,
        'critic_clip': 100.0,
      },
      'dtype': 'float32',  # of computation, or 'bfloat16'; parameters, states
      # and losses are float32 in either case
      'conv': 'auto',  # 'native' or 'subpixel'; 'auto': subpixel on CPU
      # Steps in time that are compiled in a row, with a gradient parallel in
      # time; 0: one by one. -1: 10 on GPU and TPU, 0 on CPU.
      'unroll': -1,
      'cpu_chunk': 20,  # images at a time through the networks on CPU; 0: all
    }
  )


def _collect():
  return ConfigDict(
    {
      # 'agent': the replay of an agent that learns the task from scratch;
      # 'checkpoint:RUN': the agent of a run folder; behaviours with their
      # weights: 'scripted:0.5,noisy:0.3,random:0.2'; or 'auto': 'agent' for
      # DeepMind Control, the mixture above for Meta-World, 'random' else.
      'policy': 'auto',
      'episodes': 200,  # a dataset ('agent': its replay, however long)
      'agent_env_steps': 250_000,  # training of the agent ('agent')
      'noise': 0.5,  # standard deviation of 'noisy', in units of the action
      'workers': 0,  # processes that play; 0: one a core
    }
  )


def _pretrain():
  return ConfigDict(
    {
      'steps': 200_000,  # updates
      'batch': 50,  # sequences, shared out among the sources (rounded up)
      'length': 50,  # frames a sequence
      'updates_per_call': 1,  # more: less waiting for Python, more memory
      'log_every': 500,  # updates
      'video_every': 10_000,  # updates
      'save_every': 5_000,  # updates
    }
  )


def _finetune():
  return ConfigDict(
    {
      'env_steps': 500_000,  # length of the training, prefill included
      'prefill': 2_500,  # agent steps of random actions
      'first_updates': 100,  # updates after the prefill
      'update_every': 5,  # agent steps between updates
      'batch': 50,  # sequences, of the target and of each source
      'length': 50,  # frames a sequence
      'updates_per_call': 1,  # more: where so many are due at once
      'log_every': 500,  # updates
      'video_every': 5_000,  # updates
      'save_every': 2_000,  # updates
    }
  )
