"""All config keys: default, unit and meaning.

The defaults are the paper's sizes and schedule on the DeepMind Control suite.
Experiment files start from this config and change some keys. Every key can be
overridden on the command line: `--config.finetune.env_steps=100000`.
"""

from ml_collections import ConfigDict, config_dict

# The generator's training; see `learner.generator`.
GENERATOR = {
  'steps': 5_000,  # updates
  'batch': 512,  # frames of each source
  'frames': 50_000,  # of each source, sampled once
  'lr': 1e-3,  # learning rate of Adam
  # As transfer.vae_kl. If it is high, actions depend on the state alone, as
  # those that act should.
  'kl': 5.0,
}


def get_config() -> ConfigDict:
  """Returns the full config with its defaults."""
  return ConfigDict(
    {
      'name': 'base',  # default run folder: runs/<name>-<seed>
      'seed': 0,  # of parameters, noise, sampling and environments
      # Several runs in one process, each in WORKDIR/seed_<n>: several seeds, or
      # the number of seeds, from `seed` on. (): a single run. In `source_dir`
      # and `teacher_from`, '{seed}' is then replaced by the seed.
      'seeds': (),
      'task': 'dmc_quadruped_walk',  # target task: <suite>_<domain>_<task>
      'sources': (  # source tasks, in the order of their domain labels; their
        # datasets may have no rewards
        'dmc_cheetah_run',
        'dmc_hopper_stand',
        'dmc_walker_walk',
        'dmc_walker_run',
      ),
      'source_dir': '',  # dataset folder, also gs://BUCKET/FOLDER; '':
      # sources/ in the run folder
      'teacher_from': '',  # a run folder or a public checkpoint (.npz,
      # .safetensors, .pt); with separate teachers, a list of run folders,
      # 'RUN,RUN,...', one for each source; '': the teacher of this run
      'stages': ('collect', 'pretrain', 'finetune'),  # executed in this order
      # A preset for the fields of learner.transfer: the method, a baseline or
      # an ablation (docs/variants.md):
      #   vid2act         the method as in its public code
      #   vid2act_paper   the plain reading of the paper
      #   vid2act_guided  transfer by initialisation, rehearsal and actions
      #   dreamerv2       no sources, no transfer
      #   finetune        the student is initialised from the teacher; no other
      #                   transfer
      #   action_free     the student is stacked on a model pretrained without
      #                   actions (APV); no other transfer
      #   no_distill      no feature distillation loss
      #   no_replay       no action VAE; the policy input is only the state
      #   uniform         similarity weights of 1/N
      #   frozen_weights  similarity weights stay at their initial values
      #   single:<task>   transfer from one source only
      'variant': 'vid2act',
      'env': _env(),
      'learner': _learner(),
      'replay': {  # replay buffers on disk; 12.3 KB per frame
        'source_gb': 3.1,  # capacity per source dataset, 1e9 bytes
        'online_gb': 6.2,  # capacity for the target task, 1e9 bytes; the
        # oldest episodes are removed first
        'keep_all': False,  # keep the episode files of removed episodes
        'cross_episodes': False,  # chunks may span episode boundaries
        # Share of each source dataset's episodes that training never samples:
        # at least one if it is not 0. `analysis teacher` judges on them.
        'held_out': 0.0,
        # Folder of the buffers, and of the copy of a run in a bucket; '': the
        # run folder, and the user's cache.
        'scratch': '',
        # Device memory for a copy of all frames of a run, 1e9 bytes: batches
        # are then gathered there. Where they need more, as with several hosts,
        # they are sampled on the host. -1: on accelerators 40% of the memory,
        # shared by the `seeds` of a device, on CPU 0.
        'device_gb': -1.0,
        # Precision of the cached embeddings of the frozen teacher: 'float16',
        # 'float32', or 'none': no cache, computed in every update. For sources
        # the cache replaces the images. For the target it is stored in
        # addition to them, beyond the capacity: 2 KB per source and frame
        # (float16).
        'embeddings': 'float16',
      },
      'logger': {
        # Where metrics and videos go: 'jsonl', which is always needed,
        # 'tensorboard', and 'wandb' (needs the extra wandb).
        'backends': ('jsonl', 'tensorboard'),
      },
      'mesh': {
        'data': -1,  # devices for data parallelism; -1: all devices, or with
        # `seeds` those that are left for each group of seeds
        'seed': -1,  # groups of devices that `seeds` are spread over; -1: all
      },
      # Maximum number of consecutive updates with non-finite losses or
      # gradients. They are skipped; one more stops the run.
      'skip_limit': 20,
      'collect': _collect(),
      'pretrain': _pretrain(),
      'finetune': _finetune(),
      'evaluate': {
        # Env steps between evaluations; 0: only at the end. Four environments
        # train side by side: evaluations are at most a tenth of the time.
        'every': 50_000,
        'episodes': 10,  # episodes per evaluation; 0: no evaluations
        'envs': 10,  # episodes side by side, in one call of the policy
      },
    }
  )


def set_tiny_networks(learner: ConfigDict) -> None:
  """Shrinks the networks, in place: steps compile and run in seconds.

  Args:
    learner: the `learner` section of a config.
  """
  for sizes in (learner.teacher, learner.student):
    sizes.update(depth=2, stoch=6, deter=16, hidden=16, units=16)
  learner.cpu_chunk = 0  # Compiles sooner.
  learner.transfer.vae_hidden = 16
  learner.generator.update(steps=20, batch=32, frames=200)
  learner.behavior.horizon = 5


def _env():
  return ConfigDict(
    {
      'size': 64,  # image side in pixels; the networks require 64
      'action_repeat': 2,  # env steps per agent step
      'time_limit': 1000,  # env steps per episode
      'camera': '',  # camera name or number; '': the task's default
      'quality': 'standard',  # 'fast': no shadows, reflections, multisampling
      'num': 4,  # number of environments for acting
      # Each in its own worker process, which renders while the device learns.
      'parallel': True,
      # Workers that die or time out are replaced:
      'timeout': 120.0,  # seconds for a step or a reset
      'replacements': 5,  # replacements of a worker without a complete episode;
      # one more stops the run
    }
  )


def _sizes():
  return {
    'depth': 32,  # channels of the first convolution; the others scale with it
    'stoch': 50,  # size of the Gaussian latent
    'deter': 200,  # size of the recurrent state
    'hidden': 200,  # hidden units of the RSSM
    'units': 400,  # hidden units of the reward head, actor and critic
    'reward_layers': 2,  # hidden layers of the reward and continue heads
  }


def _learner():
  return ConfigDict(
    {
      'teacher': _sizes(),
      'student': _sizes(),  # may differ from the teacher
      'transfer': _transfer(),
      'behavior': {
        'horizon': 15,  # imagined states per trajectory
        'discount': 0.99,  # per agent step
        'lambda_': 0.95,  # λ of the λ-return
        'entropy': 1e-4,  # weight of the actor's entropy (nats)
        'slow_period': 100,  # updates between copies to the slow target critic
        'actor_layers': 4,  # hidden layers
        'critic_layers': 3,  # hidden layers
      },
      'scales': {  # loss weights of the world model
        'kl': 1.0,  # of posterior to prior
        'image': 1.0,  # squared error of the decoded image, summed over pixels
        'reward': 2.0,  # of the reward head
        # The student's continue head, for tasks with terminal states. Also set
        # replay.cross_episodes: otherwise few chunks have a terminal state.
        # 0: no continue head; the discount is constant.
        'discount': 0.0,
        'distillation': 1.0,  # of the teacher's features
        'vae': 1.0,  # of the action VAE
      },
      'kl': {
        'balance': 0.8,  # KL balancing: weight of the prior's term
        'free': 1.0,  # free nats, applied to the batch mean
      },
      'optim': {  # three Adam optimizers with clipping by global norm
        'model_lr': 3e-4,  # learning rate of world model and transfer modules
        'actor_lr': 8e-5,  # learning rate
        'critic_lr': 8e-5,  # learning rate
        'eps': 1e-5,  # of Adam, of all three
        'model_clip': 100.0,  # maximum norm of the gradient
        'actor_clip': 100.0,  # maximum norm of the gradient
        'critic_clip': 100.0,  # maximum norm of the gradient
      },
      # Training of a generator of source actions at the end of pretraining, on
      # the states of the finished teacher (transfer.generator_start).
      'generator': dict(GENERATOR),
      'dtype': 'float32',  # compute dtype, or 'bfloat16'; parameters, states
      # and losses are always float32
      # Precision of float32 matrix products and convolutions: 'default',
      # JAX's, which is bfloat16 on a TPU, TF32 on a GPU and float32 on a CPU;
      # 'high', three bfloat16 passes on a TPU; 'highest', float32.
      'matmul_precision': 'default',
      # 'native' (GPU), 'blocked' (TPU) or 'subpixel' (CPU); 'auto': by device.
      'conv': 'auto',
      # Unrolled time steps per scan iteration, with weight gradients batched
      # over time; 0: plain scan; -1: 10 on GPU, 1 on TPU, 0 on CPU.
      'unroll': -1,
      'cpu_chunk': 20,  # images per encoder or decoder call on CPU; 0: all
    }
  )


def _transfer():
  unset = config_dict.placeholder
  return ConfigDict(
    {
      'vae_hidden': 750,  # hidden units of the action VAE
      'guidance_size': 50,  # size of the guidance vector
      'vae_kl': 0.5,  # weight of the VAE's KL; its reconstruction has 1
      # The fields of a variant. None: as in config.variant.
      #
      # Frozen teachers: 'mixture', one model of all sources; 'separate', one
      # model for each source; 'none'.
      'teachers': unset(str),
      # States that are compared and distilled: 'posterior'; 'prior', predicted
      # one step ahead; 'rollout:<k>', predicted k steps ahead by the teachers.
      'states': unset(str),
      # Distance of features: 'mean' or 'sum' of the squared differences.
      'distance': unset(str),
      # 'to_student': the teacher's features, mapped, predict the student's;
      # 'to_teacher': the student's, mapped, predict the teacher's; 'none': no
      # gradient reaches the student.
      'direction': unset(str),
      # Similarity weights: 'learned'; 'evidence', by how well each teacher
      # predicts the target's frames, without a network; 'uniform', 1/N;
      # 'frozen', as initialised; 'single:<task>', all on one source.
      'weights': unset(str),
      'temperature': unset(float),  # of weights by evidence, in nats
      'importance_floor': unset(float),  # minimum weight in distillation
      # The generator of source actions, a VAE, learns from 'all' sources or
      # from the 'selected' one, with the largest weight.
      'generator': unset(str),
      # 'fresh', or 'pretrained' at the end of pretraining (needs
      # direction=to_teacher).
      'generator_start': unset(str),
      'generator_until': unset(float),  # share of the training; then frozen
      # Use of the generated actions, one or several joined by +: 'feature',
      # the policy reads their hidden layer; 'prior', the actor is drawn to
      # them; 'jump_start', they act in early episodes; 'residual', the policy
      # corrects them. Or 'none'.
      'guidance': unset(str),
      # Number of updates in which the jump start fades to 0, and the prior to a
      # thousandth of its initial weight; it goes on fading.
      'guidance_updates': unset(int),
      'prior_scale': unset(float),  # initial weight in the actor's loss
      'prior_std': unset(float),  # of the prior, around generated actions
      'jump_start_share': unset(float),  # of the first episodes
      # The student's initialisation: 'fresh'; 'teacher', the pretrained model;
      # 'stacked', on top of the pretrained model (APV).
      'start': unset(str),
      'pretrain_actions': unset(bool),  # pretraining reads source actions
      # Share of source sequences in the student's world-model batch.
      'rehearsal': unset(float),
      'rehearsal_domains': unset(str),  # 'all', or 'selected': most similar
    }
  )


def _collect():
  return ConfigDict(
    {
      # 'agent': the replay buffer of an agent that learns the task from
      # scratch; 'checkpoint:RUN': the agent of a run folder; a mixture of
      # behaviors with weights: 'scripted:0.5,noisy:0.3,random:0.2', or of
      # state policies: 'state:expert:0.5,state:medium:0.3,random:0.2', also
      # 'state:FILE.npz'; 'auto': the latter where state policies are shipped
      # (python -m vid2act_jax.behaviours list), otherwise 'agent' for
      # DeepMind Control, the former for Meta-World, 'random' for the rest.
      'policy': 'auto',
      'episodes': 200,  # per dataset; 'agent': the whole replay buffer instead
      'agent_env_steps': 250_000,  # env steps of the agent's training ('agent')
      'noise': 0.5,  # standard deviation of the action noise of 'noisy'
      # and of 'state:...+noise'
      'workers': 0,  # collecting processes; 0: one per core
    }
  )


def _pretrain():
  return ConfigDict(
    {
      'steps': 200_000,  # updates
      'batch': 50,  # sequences, split evenly between the sources (rounded up)
      'length': 50,  # frames per sequence
      'updates_per_call': 1,  # updates per compiled call; more: less Python
      # overhead, more memory
      'log_every': 500,  # updates
      'video_every': 10_000,  # updates; 0: never
      'save_every': 5_000,  # updates
    }
  )


def _finetune():
  return ConfigDict(
    {
      'env_steps': 500_000,  # length of the training, including the prefill
      'prefill': 2_500,  # agent steps with random actions
      'first_updates': 100,  # updates right after the prefill
      'update_every': 5,  # agent steps between updates
      'batch': 50,  # sequences from the target, and from each source
      'length': 50,  # frames per sequence
      'updates_per_call': 1,  # updates per compiled call, if as many are due
      'log_every': 500,  # updates
      'video_every': 5_000,  # updates; 0: never
      'save_every': 2_000,  # updates
    }
  )
