"""The world model: its networks and its scans over time.

All functions are pure: parameters and noise are arguments. Scans run outside of
`apply`, over time-major arrays.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vid2act_jax.nets import dists, heads, image, rssm
from vid2act_jax.nets.apply import apply
from vid2act_jax.ops import conv
from vid2act_jax.ops.blocked_image import BlockedImage
from vid2act_jax.ops.chunks import map_chunks, sum_chunks
from vid2act_jax.ops.scan import ScanSpec, scan
from vid2act_jax.rng import Rng
from vid2act_jax.types import Latent, Normal, Params


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Widths of one world model."""

  depth: int  # channels of the first convolution
  stoch: int  # Gaussian latents
  deter: int  # recurrent units
  hidden: int  # hidden units of the recurrent model
  units: int  # hidden units of the heads, the actor and the critic
  reward_layers: int  # hidden layers of the reward and the discount head


@dataclasses.dataclass(frozen=True)
class Compute:
  """How a model is computed, which does not change its function."""

  dtype: str = 'float32'  # of the products; states and outputs are float32
  precision: str = 'default'  # of float32 products; 'default': JAX's setting
  conv_impl: str = 'native'  # of the convolutions; see `ops.conv`
  chunk: int = 0  # images at a time through encoder and decoder; 0: all
  unroll: int = 0  # of scans over time; see `ops.scan`


@dataclasses.dataclass(frozen=True)
class _Observe:
  """A posterior step; its projections are computed before the scan.

  Equal for models whose recurrent parts have equal sizes; see `scan`.
  """

  rssm: rssm.RSSM  # the `recurrence` of the model's

  def __call__(self, params, latent, x) -> tuple[Latent, Normal]:
    """Returns the next state and the posterior it was sampled from.

    Args:
      params: of the recurrence.
      latent: the previous state, [M, ...].
      x: projected action and embedding f32 [M, hidden], is_first bool [M],
        noise [M, ...].
    """
    pre_action, pre_embed, is_first, noise = x
    latent = jax.tree.map(
      lambda x: jnp.where(is_first[..., None], 0, x), latent
    )
    deter = apply(self.rssm, params, latent, pre_action, method='advance')
    post = apply(self.rssm, params, deter, pre_embed, method='posterior')
    return Latent(dists.sample(post, noise), deter), post


@dataclasses.dataclass(frozen=True)
class WorldModel:
  """Networks of one world model; parameters are {encoder, rssm, ...} trees."""

  sizes: Sizes
  action_dim: int
  num_domains: int = 0  # > 0: conditioned on a domain label
  # > 0: without an encoder, reads embeddings of this size; 0: own encoder
  embed_dim: int = 0
  predict_continue: bool = False  # with a head for episode continuation
  compute: Compute = Compute()

  @property
  def feat_dim(self) -> int:
    """F = stoch + deter."""
    return self.sizes.stoch + self.sizes.deter

  @property
  def encoder(self) -> image.Encoder:
    """Image -> embedding."""
    c = self.compute
    return image.Encoder(
      self.sizes.depth, self.num_domains, c.conv_impl, c.dtype
    )

  @property
  def rssm(self) -> rssm.RSSM:
    """The recurrent state-space model."""
    s = self.sizes
    return rssm.RSSM(
      s.stoch,
      s.deter,
      s.hidden,
      self.embed_dim or self.encoder.embed_dim,
      self.action_dim,
      self.num_domains,
      self.compute.dtype,
    )

  @property
  def decoder(self) -> image.Decoder:
    """Feature -> image."""
    c = self.compute
    return image.Decoder(self.sizes.depth, c.conv_impl, c.dtype)

  @property
  def reward(self) -> heads.ScalarHead:
    """Feature -> reward."""
    layers, units = self.sizes.reward_layers, self.sizes.units
    return heads.ScalarHead(layers, units, self.compute.dtype)

  @property
  def discount(self) -> heads.ScalarHead:
    """Feature -> logit of the discount, with `predict_continue`."""
    return self.reward

  def init(self, key: jax.Array) -> Params:
    """Returns initial parameters."""
    keys = jax.random.split(key, 4)
    label = jnp.zeros(1, int) if self.num_domains else None
    frame = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    embed = jnp.zeros((1, self.embed_dim or self.encoder.embed_dim))
    action = jnp.zeros((1, self.action_dim))
    feat = jnp.zeros((1, self.feat_dim))
    params = {
      'rssm': self.rssm.init(keys[1], embed, action, label)['params'],
      'decoder': self.decoder.init(keys[2], feat)['params'],
      'reward': self.reward.init(keys[3], feat)['params'],
    }
    if not self.embed_dim:
      encoder = self.encoder.init(keys[0], frame, label)
      params['encoder'] = encoder['params']
    if self.predict_continue:
      head = self.discount.init(jax.random.fold_in(key, 4), feat)
      params['discount'] = head['params']
    return params

  def initial(self, *rows: int) -> Latent:
    """The zero state."""
    return Latent(
      jnp.zeros((*rows, self.sizes.stoch)),
      jnp.zeros((*rows, self.sizes.deter)),
    )

  def latent_noise(
    self, rng: Rng, shape: tuple[int, ...], row_axis: int | None = None
  ) -> jax.Array:
    """The noise for samples of [*shape] states; `row_axis`: see `Rng.normal`.

    Opaque to callers: its axes after `shape` are those of the latent.
    """
    return rng.normal((*shape, self.sizes.stoch), row_axis)

  def embed(self, params, images, label=None) -> jax.Array:
    """Images u8 [B, L, 64, 64, 3], label i32 [B] or None -> [B, L, E]."""
    rows = images.shape[:2]
    flat = [images.reshape(-1, *images.shape[2:])]
    if self.num_domains:
      flat.append(jnp.repeat(label, rows[1]))
    fn = lambda *xs: apply(self.encoder, params['encoder'], *xs)
    return map_chunks(fn, self.compute.chunk, *flat).reshape(*rows, -1)

  def observe(
    self, params, embed, action, is_first, noise, label=None
  ) -> tuple[Latent, Normal]:
    """Runs the posterior over sequences, from the zero state.

    Args:
      params: this model's parameters.
      embed: f32 [B, L, E].
      action: f32 [B, L, A], the actions that preceded the frames.
      is_first: bool [B, L]; where set, the previous state and action are reset.
      noise: [B, L, ...] from `latent_noise`.
      label: i32 [B], the domain; None without domains.

    Returns:
      States and posteriors, [B, L, ...].
    """
    pre_embed = self.project_embed(params, embed)
    spec = self.observe_scan(params, pre_embed, action, is_first, noise, label)
    return self.run_scans(spec)[0]

  def run_scans(
    self, learned: ScanSpec, *frozen: ScanSpec
  ) -> list[tuple[Latent, Normal]]:
    """Runs scans of `observe_scan` in a single loop over time.

    Args:
      learned: the scan that gradients reach.
      *frozen: scans of the same length, also of other models, that no gradient
        reaches.

    Returns:
      For each scan its states and posteriors, [B, L, ...].
    """
    results = scan(learned, *frozen, unroll=self.compute.unroll)
    return jax.tree.map(lambda x: x.swapaxes(0, 1), results)

  def project_embed(self, params, embed) -> jax.Array:
    """The recurrence's input from embeddings: [..., E] -> [..., hidden]."""
    return self._rssm(params, 'project_embed', embed)

  def observe_scan(
    self, params, pre_embed, action, is_first, noise, label=None
  ) -> ScanSpec:
    """The scan that `observe` runs, for its arguments.

    But for `pre_embed` [B, L, hidden], from `project_embed`.
    """
    action = jnp.where(is_first[..., None], 0, action)
    if label is not None:
      label = jnp.broadcast_to(label[:, None], action.shape[:2])
    pre_action = self._rssm(params, 'project_action', action, label)
    xs = (pre_action, pre_embed, is_first, noise)
    xs = jax.tree.map(lambda x: x.swapaxes(0, 1), xs)

    step, step_params = self._recurrence(params)
    return ScanSpec(step, step_params, self.initial(action.shape[0]), xs)

  def observe_step(
    self, params, latent, embed, action, is_first, noise, label=None
  ) -> tuple[Latent, Normal]:
    """One step of `observe`, for [B, ...] arrays and an explicit state."""
    action = jnp.where(is_first[..., None], 0, action)
    pre_action = self._rssm(params, 'project_action', action, label)
    pre_embed = self.project_embed(params, embed)
    step, step_params = self._recurrence(params)
    return step(step_params, latent, (pre_action, pre_embed, is_first, noise))

  def _recurrence(self, params):
    rssm = self.rssm
    return _Observe(rssm.recurrence), rssm.recurrence_params(params['rssm'])

  def prior(self, params, deter: jax.Array) -> Normal:
    """Prior over [..., stoch] given the recurrent state [..., deter]."""
    return self._rssm(params, 'prior', deter)

  def imagine_step(
    self, params, latent, action, noise, label=None
  ) -> tuple[Latent, Normal]:
    """One step with the prior: returns the next state [...] and its prior."""
    pre_action = self._rssm(params, 'project_action', action, label)
    deter = self._rssm(params, 'advance', latent, pre_action)
    prior = self.prior(params, deter)
    return Latent(dists.sample(prior, noise), deter), prior

  def decode(self, params, feat: jax.Array) -> jax.Array:
    """[..., F] -> mean image [..., 64, 64, 3] in units of u8/255 - 0.5."""
    first = self.decode_first(params, feat.reshape(-1, feat.shape[-1]))
    fn = lambda x: self.decode_rest(params, x).pixels()
    out = map_chunks(fn, self.compute.chunk, first)
    return out.reshape(*feat.shape[:-1], *out.shape[1:])

  def image_log_prob(self, params, feat: jax.Array, images: jax.Array):
    """The log-probability of frames, a mean over all of them.

    Decoded images are kept for one chunk only, also for the gradient.

    Args:
      params: this model's parameters.
      feat: f32 [B, L, F].
      images: u8 [B, L, 64, 64, 3].

    Returns:
      log Normal(image; mean, 1), summed over the pixels: f32 [].
    """

    def fn(params, x, frame):
      mean = self.decode_rest(params, x)
      frames = conv.frames(frame, self.compute.conv_impl)
      frames = frames.blocks(mean.block_size).map(image.normalize)
      return dists.unit_log_prob(mean.x, frames.x, 3)

    feat, images = (x.reshape(-1, *x.shape[2:]) for x in (feat, images))
    params = {'decoder': params['decoder']}
    first = self.decode_first(params, feat)
    chunk = self.compute.chunk
    return sum_chunks(fn, chunk, params, first, images) / len(feat)

  def decode_first(self, params, feat: jax.Array) -> jax.Array:
    """[M, F] -> the input of `decode_rest`; fast for all M at once."""
    return self._decoder(params, 'first', feat)

  def decode_rest(self, params, x: jax.Array) -> BlockedImage:
    """-> mean of M images; fast for `chunk` images at a time."""
    return self._decoder(params, 'rest', x)

  def predict_reward(self, params, feat: jax.Array) -> jax.Array:
    """[..., F] -> mean reward [...]."""
    return apply(self.reward, params['reward'], feat)

  def predict_discount(self, params, feat: jax.Array) -> jax.Array:
    """[..., F] -> logit [...] of the discount: the state is not terminal."""
    return apply(self.discount, params['discount'], feat)

  def _decoder(self, params, method, x):
    return apply(self.decoder, params['decoder'], x, method=method)

  def _rssm(self, params, method, *args):
    return apply(self.rssm, params['rssm'], *args, method=method)


def feature(latent: Latent) -> jax.Array:
  """s = [z, h]: [..., F]."""
  return jnp.concatenate([latent.stoch, latent.deter], -1)
