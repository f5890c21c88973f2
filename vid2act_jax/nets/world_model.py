"""The world model: its networks together, and its scans over time.

All functions are pure: parameters and noise come in as arguments. Scans run
outside `apply`, over time-major arrays.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from vid2act_jax.nets import dists, heads, image, rssm
from vid2act_jax.nets.scan import ScanSpec, scan
from vid2act_jax.types import Latent, Normal, Params


def map_chunks(fn, chunk: int, *args):
  """Applies `fn` to [M, ...] arrays, `chunk` rows at a time; 0: all at once.

  On a CPU the layers of one chunk stay in the caches, and the peak of the
  memory falls. When `chunk` does not divide M, the largest divisor of M below
  it is taken.
  """
  rows = args[0].shape[0]
  if not chunk or chunk >= rows:
    return fn(*args)
  out = jax.lax.map(lambda xs: fn(*xs), split_chunks(chunk, args))
  return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), out)


def split_chunks(chunk: int, tree):
  """Arrays [M, ...] -> [M / chunk, chunk, ...]; see `map_chunks`."""
  rows = jax.tree.leaves(tree)[0].shape[0]
  chunk = min(chunk, rows) or rows
  chunk = max(c for c in range(1, chunk + 1) if rows % c == 0)
  return jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_chunks(fn, chunk: int, params, x, data):
  """Sums `fn(params, x, data)` over its [M] rows, `chunk` rows at a time.

  As `map_chunks`, with the gradient of a chunk made right after its value, so
  that nothing of it is stored; not with respect to `data`.

  Args:
    fn: (params, x [m, ...], data [m, ...]) -> [m].
    chunk: rows at a time; 0: all at once.
    params: a tree.
    x: [M, ...].
    data: [M, ...].
  """
  each = map_chunks(lambda x, data: fn(params, x, data), chunk, x, data)
  return each.sum()


def _sum_chunks_forward(fn, chunk, params, x, data):
  grad_fn = jax.value_and_grad(
    lambda params, x, data: fn(params, x, data).sum(), argnums=(0, 1)
  )

  def step(carry, xs):
    value, (params_grad, x_grad) = grad_fn(params, *xs)
    return jax.tree.map(jnp.add, carry, (value, params_grad)), x_grad

  zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
  split = split_chunks(chunk, (x, data))
  (value, params_grad), x_grad = jax.lax.scan(step, zero, split)
  return value, (params_grad, x_grad.reshape(x.shape))


def _sum_chunks_backward(fn, chunk, residuals, cotangent):
  del fn, chunk
  params_grad, x_grad = residuals
  scale = lambda grad: (cotangent * grad).astype(grad.dtype)
  return jax.tree.map(scale, params_grad), scale(x_grad), None


sum_chunks.defvjp(_sum_chunks_forward, _sum_chunks_backward)


def run(
  learned: ScanSpec, *frozen: ScanSpec, unroll: int = 0
) -> list[tuple[Latent, Any]]:
  """`scan` for what `WorldModel.prepare` gave.

  Args:
    learned: the track that gradients reach.
    *frozen: tracks of the same length that none reaches.
    unroll: see `scan`.

  Returns:
    For each track its states and posteriors, [B, L, ...].
  """
  results = scan(learned, *frozen, unroll=unroll)
  return jax.tree.map(lambda x: x.swapaxes(0, 1), results)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Widths of one world model."""

  depth: int  # channels of the first convolution
  stoch: int  # Gaussian latents
  deter: int  # recurrent units
  hidden: int  # hidden units of the recurrent model
  units: int  # hidden units of the heads, the actor and the critic
  reward_layers: int  # hidden layers of the heads on features: reward, ends


@dataclasses.dataclass(frozen=True)
class _Observe:
  """A step with a frame, after all that can be computed ahead of it.

  Equal for models whose recurrent parts have equal sizes; see `scan`.
  """

  rssm: rssm.RSSM  # its `recurrence`

  def __call__(self, params, latent, x) -> tuple[Latent, Normal]:
    """The next state, and the posterior it was drawn from.

    Args:
      params: of the recurrence.
      latent: the state before, [M, ...].
      x: projected action and embedding f32 [M, hidden], is_first bool [M],
        noise f32 [M, stoch].
    """
    pre_action, pre_embed, is_first, noise = x
    latent = jax.tree.map(
      lambda x: jnp.where(is_first[..., None], 0, x), latent
    )
    apply = lambda *args, method: self.rssm.apply(
      {'params': params}, *args, method=method
    )
    deter = apply(latent, pre_action, method='advance')
    post = apply(deter, pre_embed, method='posterior')
    return Latent(dists.sample(post, noise), deter), post


@dataclasses.dataclass(frozen=True)
class WorldModel:
  """Networks of one world model; parameters are {encoder, rssm, ...} trees."""

  sizes: Sizes
  action_dim: int
  num_domains: int = 0  # > 0: conditioned on a domain label
  form: str = 'native'  # of the convolutions
  chunk: int = 0  # images at a time through encoder and decoder; 0: all
  dtype: str = 'float32'  # computed in; states and outputs are float32
  given: int = 0  # > 0: it has no encoder, and is given embeddings of this size
  unroll: int = 0  # of scans over time; see `scan`
  ends: bool = False  # whether it predicts where episodes end

  @property
  def feat_dim(self) -> int:
    """F = stoch + deter."""
    return self.sizes.stoch + self.sizes.deter

  @property
  def encoder(self) -> image.Encoder:
    """Image -> embedding."""
    return image.Encoder(
      self.sizes.depth, self.num_domains, self.form, self.dtype
    )

  @property
  def rssm(self) -> rssm.RSSM:
    """The recurrent part."""
    s = self.sizes
    return rssm.RSSM(
      s.stoch,
      s.deter,
      s.hidden,
      self.given or self.encoder.embed_dim,
      self.action_dim,
      self.num_domains,
      self.dtype,
    )

  @property
  def decoder(self) -> image.Decoder:
    """Feature -> image."""
    return image.Decoder(self.sizes.depth, self.form, self.dtype)

  @property
  def reward(self) -> heads.ScalarHead:
    """Feature -> reward."""
    layers, units = self.sizes.reward_layers, self.sizes.units
    return heads.ScalarHead(layers, units, self.dtype)

  @property
  def discount(self) -> heads.ScalarHead:
    """Feature -> logit of the discount; where it predicts ends."""
    return self.reward

  def init(self, key: jax.Array) -> Params:
    """Fresh parameters."""
    keys = jax.random.split(key, 4)
    label = jnp.zeros(1, int) if self.num_domains else None
    frame = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    embed = jnp.zeros((1, self.given or self.encoder.embed_dim))
    action = jnp.zeros((1, self.action_dim))
    feat = jnp.zeros((1, self.feat_dim))
    params = {
      'rssm': self.rssm.init(keys[1], embed, action, label)['params'],
      'decoder': self.decoder.init(keys[2], feat)['params'],
      'reward': self.reward.init(keys[3], feat)['params'],
    }
    if not self.given:
      encoder = self.encoder.init(keys[0], frame, label)
      params['encoder'] = encoder['params']
    if self.ends:
      head = self.discount.init(jax.random.fold_in(key, 4), feat)
      params['discount'] = head['params']
    return params

  def initial(self, *rows: int) -> Latent:
    """The zero state."""
    return Latent(
      jnp.zeros((*rows, self.sizes.stoch)),
      jnp.zeros((*rows, self.sizes.deter)),
    )

  def embed(self, params, images, label=None) -> jax.Array:
    """Images u8 [B, L, 64, 64, 3], label i32 [B] or None -> [B, L, E]."""
    rows = images.shape[:2]
    flat = [images.reshape(-1, *images.shape[2:])]
    if self.num_domains:
      flat.append(jnp.repeat(label, rows[1]))
    fn = lambda *xs: self.encoder.apply({'params': params['encoder']}, *xs)
    return map_chunks(fn, self.chunk, *flat).reshape(*rows, -1)

  def observe(
    self, params, embed, action, is_first, noise, label=None
  ) -> tuple[Latent, Normal]:
    """Runs the posterior along sequences, from the zero state.

    Args:
      params: this model's parameters.
      embed: f32 [B, L, E].
      action: f32 [B, L, A], each the one that led to its frame.
      is_first: bool [B, L]; where set, state and action before are forgotten.
      noise: f32 [B, L, stoch], standard normal.
      label: i32 [B], the domain; None without domains.

    Returns:
      States and posteriors, [B, L, ...].
    """
    track = self.prepare(params, embed, action, is_first, noise, label)
    return run(track, unroll=self.unroll)[0]

  def prepare(
    self, params, embed, action, is_first, noise, label=None
  ) -> ScanSpec:
    """What `observe` would run along, of the same arguments."""
    action = jnp.where(is_first[..., None], 0, action)
    if label is not None:
      label = jnp.broadcast_to(label[:, None], action.shape[:2])
    pre_action = self._rssm(params, 'project_action', action, label)
    pre_embed = self._rssm(params, 'project_embed', embed)
    xs = (pre_action, pre_embed, is_first, noise)
    xs = jax.tree.map(lambda x: x.swapaxes(0, 1), xs)

    step, part = self._recurrence(params)
    return ScanSpec(step, part, self.initial(action.shape[0]), xs)

  def observe_step(
    self, params, latent, embed, action, is_first, noise, label=None
  ) -> tuple[Latent, Normal]:
    """One step of `observe`, for [B, ...] arrays and an explicit state."""
    action = jnp.where(is_first[..., None], 0, action)
    pre_action = self._rssm(params, 'project_action', action, label)
    pre_embed = self._rssm(params, 'project_embed', embed)
    step, part = self._recurrence(params)
    return step(part, latent, (pre_action, pre_embed, is_first, noise))

  def _recurrence(self, params):
    rssm = self.rssm
    return _Observe(rssm.recurrence), rssm.recurrence_params(params['rssm'])

  def prior(self, params, deter: jax.Array) -> Normal:
    """Prior over [..., stoch] given the recurrent state [..., deter]."""
    return self._rssm(params, 'prior', deter)

  def imagine_step(
    self, params, latent, action, noise, label=None
  ) -> tuple[Latent, Normal]:
    """One step without a frame: the next state [..., ] and its prior."""
    pre_action = self._rssm(params, 'project_action', action, label)
    deter = self._rssm(params, 'advance', latent, pre_action)
    prior = self.prior(params, deter)
    return Latent(dists.sample(prior, noise), deter), prior

  def decode(self, params, feat: jax.Array) -> jax.Array:
    """[..., F] -> mean image [..., 64, 64, 3] in units of u8/255 - 0.5."""
    first = self.decode_first(params, feat.reshape(-1, feat.shape[-1]))
    fn = lambda x: self.decode_rest(params, x)
    out = map_chunks(fn, self.chunk, first)
    return out.reshape(*feat.shape[:-1], *out.shape[1:])

  def decode_first(self, params, feat: jax.Array) -> jax.Array:
    """[M, F] -> what `decode_rest` goes on with: fast for all M at once."""
    return self._decoder(params, 'first', feat)

  def decode_rest(self, params, x: jax.Array) -> jax.Array:
    """-> mean image [M, 64, 64, 3]: fast for `chunk` at a time."""
    return self._decoder(params, 'rest', x)

  def predict_reward(self, params, feat: jax.Array) -> jax.Array:
    """[..., F] -> mean reward [...]."""
    return self.reward.apply({'params': params['reward']}, feat)

  def predict_discount(self, params, feat: jax.Array) -> jax.Array:
    """[..., F] -> logit [...] of the discount: that no true end is here."""
    return self.discount.apply({'params': params['discount']}, feat)

  def _decoder(self, params, method, x):
    return self.decoder.apply({'params': params['decoder']}, x, method=method)

  def _rssm(self, params, method, *args):
    return self.rssm.apply({'params': params['rssm']}, *args, method=method)


def feature(latent: Latent) -> jax.Array:
  """s = [z, h]: [..., F]."""
  return jnp.concatenate([latent.stoch, latent.deter], -1)
