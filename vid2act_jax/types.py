"""The records that travel between the parts; shapes stand on the fields.

B batch, L sequence length, N source domains, A action size, F = stoch + deter.
"""

from typing import Any

import flax.struct
import jax

Params = Any  # A tree of arrays.
Metrics = dict[str, jax.Array]


class UserError(Exception):
  """A mistake the user can mend: the message names the thing and the way out.

  `experiments.run` prints it in one line and exits with status 1.
  """


@flax.struct.dataclass
class Batch:
  """Chunks of episodes; a leading [N] axis when of N source domains."""

  image: jax.Array | None  # u8 [B, L, 64, 64, 3]
  action: jax.Array  # f32 [B, L, A], the action that LED TO the frame
  reward: jax.Array  # f32 [B, L]
  is_first: jax.Array  # bool [B, L], the state before is forgotten
  # f32 [B, L], 0 at a true end, else 1; read where ends are learned
  discount: jax.Array | None = None


@flax.struct.dataclass
class Latent:
  """The recurrent state of a world model."""

  stoch: jax.Array  # f32 [..., stoch]
  deter: jax.Array  # f32 [..., deter]


@flax.struct.dataclass
class Normal:
  """A diagonal Gaussian."""

  mean: jax.Array  # f32 [..., D]
  std: jax.Array  # f32 [..., D]


@flax.struct.dataclass
class Carry:
  """What the policy remembers between two frames of E environments."""

  student: Latent  # [E, ...]
  teacher: Latent | None  # [N, E, ...], each domain's own state
  action: jax.Array  # f32 [E, A], the last action taken
  base: Latent | None = None  # [E, ...], of the model under a stacked student


@flax.struct.dataclass
class LearnerState:
  """All that learning changes; donated to the step and replaced by it."""

  step: jax.Array  # i32 [], updates done
  params: dict[str, Params]  # one tree per optimizer
  opt: dict[str, Any]  # the optimizers' states, same keys as params
  slow_critic: (
    Params  # the critic the returns bootstrap from; {} in pretraining
  )
  teacher: Params  # frozen; {} without transfer and in pretraining


@flax.struct.dataclass
class FinetuneBatch:
  """What one update of the finetuning sees."""

  target: Batch  # [B, L, ...], of the online replay
  sources: Batch | None  # [N, B, L, ...], one batch a domain; None: no replay
  # The frozen teacher's embeddings, where they are kept: then the sources need
  # no images. Any float type; None: they are computed from the images.
  target_embed: jax.Array | None = None  # [B, L, N, E], under every label
  source_embed: jax.Array | None = None  # [N, B, L, E], under its own label
