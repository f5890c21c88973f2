"""Data types shared by all parts, with the shapes of their fields.

B batch, L sequence length, N source domains, A action size, F = stoch + deter.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax

Params = Any  # A tree of arrays.
Metrics = dict[str, jax.Array]


class UserError(Exception):
  """An error that the user can fix; its message says what to change.

  With several arguments it is a list of problems. `experiments.run` prints it
  and exits with status 1.
  """

  def __str__(self) -> str:
    if len(self.args) < 2:
      return super().__str__()
    items = (f'\n- {text}'.replace('\n', '\n  ') for text in self.args)
    return f'{len(self.args)} problems:' + ''.join(items)


class Problems(list[str]):
  """The texts of user errors, each once, to report all of them at once."""

  def add(self, *texts: str) -> None:
    """Adds the texts that are not in the list yet."""
    self.extend(text for text in dict.fromkeys(texts) if text not in self)

  @contextlib.contextmanager
  def collect(self) -> Iterator[None]:
    """Adds the `UserError` that ends the block; the caller goes on."""
    try:
      yield
    except UserError as error:
      self.add(*map(str, error.args))

  def raise_all(self) -> None:
    """Raises a `UserError` with all problems, if there are any."""
    if self:
      raise UserError(*self)


class Batch(flax.struct.PyTreeNode):
  """Chunks of episodes; with a leading [N] axis for N source domains."""

  image: jax.Array | None  # u8 [B, L, 64, 64, 3]
  action: jax.Array  # f32 [B, L, A], the action that preceded the frame
  reward: jax.Array  # f32 [B, L]
  is_first: jax.Array  # bool [B, L], the recurrent state is reset
  # f32 [B, L], 0 at a terminal state, else 1; for the discount head
  discount: jax.Array | None = None


class Latent(flax.struct.PyTreeNode):
  """The recurrent state of a world model."""

  stoch: jax.Array  # f32 [..., stoch]
  deter: jax.Array  # f32 [..., deter]


class Normal(flax.struct.PyTreeNode):
  """A diagonal Gaussian."""

  mean: jax.Array  # f32 [..., D]
  std: jax.Array  # f32 [..., D]


class Carry(flax.struct.PyTreeNode):
  """The recurrent state of the policy in E environments."""

  student: Latent  # [E, ...]
  teacher: Latent | None  # [N, E, ...], a separate state for each domain
  action: jax.Array  # f32 [E, A], the previous action
  base: Latent | None = None  # [E, ...], of the base of a stacked student
  # [K - 1, N, E, ...], the teacher's states predicted 1 to K - 1 steps ahead;
  # with distillation of states predicted over K steps
  predicted: Latent | None = None
  evidence: jax.Array | None = None  # f32 [N, E], for weights by evidence
  guided: jax.Array | None = None  # bool [E], generated actions act


class LearnerState(flax.struct.PyTreeNode):
  """The training state; donated to the step and replaced by it."""

  step: jax.Array  # i32 [], number of updates
  params: dict[str, Params]  # one tree per optimizer
  opt: dict[str, Any]  # the optimizers' states, same keys as params
  slow_critic: Params  # the target critic of the returns; {} in pretraining
  teacher: Params  # frozen; {} without transfer and in pretraining
  # f32 [N], running mean of the similarity weights; with rehearsal of the most
  # similar domain
  similarity: jax.Array | None = None


class FinetuneBatch(flax.struct.PyTreeNode):
  """The batches of one finetuning update."""

  target: Batch  # [B, L, ...], from the online replay buffer
  # [N, B, L, ...], one batch per domain; None without action replay
  sources: Batch | None
  # Cached embeddings of the frozen teacher; with them the sources need no
  # images. Any float type; None: they are computed from the images.
  target_embed: jax.Array | None = None  # [B, L, N, E], under every label
  source_embed: jax.Array | None = None  # [N, B, L, E], under its own label
  # [N, R, L, ...]; R of these sequences join the batch of the student's world
  # model, with rehearsal
  rehearsal: Batch | None = None
  rehearsal_domain: jax.Array | None = None  # i32 [R]; set by the step


class DeviceBatch(flax.struct.PyTreeNode):
  """A batch of chunks of replays in device memory, which the update gathers."""

  # By kind ('target', 'sources', 'rehearsal'), of each replay: its columns.
  columns: dict[str, Any]
  starts: dict[str, Any]  # i32 [..., B], slots of the chunks' first records
