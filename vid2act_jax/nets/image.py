"""Image encoder and decoder of the world model (64 x 64 pixels)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vid2act_jax.nets.dense import Dense, kernel_init
from vid2act_jax.ops import conv
from vid2act_jax.ops.blocked_image import BlockedImage
from vid2act_jax.ops.elu import elu

_ENCODER_KERNEL = 4
_SIZE, _LAST = 64, 2  # Height and width of the image and of the last layer.
_DECODER_KERNELS = (5, 5, 6, 6)
_bias_init = nn.initializers.zeros_init()


def normalize(image: jax.Array) -> jax.Array:
  """u8 -> f32 in [-0.5, 0.5]."""
  return image.astype(jnp.float32) / 255 - 0.5


class _Conv(nn.Module):
  """Kernel and bias of one convolution or transposed convolution."""

  features: int
  kernel: int
  inputs: int

  def setup(self):
    shape = (self.kernel, self.kernel, self.inputs, self.features)
    self.weight = self.param('kernel', kernel_init, shape)
    self.bias = self.param('bias', _bias_init, (self.features,))

  def cast(self, dtype: str):
    """Kernel and bias in this dtype."""
    return self.weight.astype(dtype), self.bias.astype(dtype)


class Encoder(nn.Module):
  """Four convolutions; with domains, the first one also reads a one-hot label.

  The label stands for N constant planes before the channels of the image.
  Without padding such a plane adds the same number to every pixel: the sum of
  its kernel. So the planes are not created; the kernel keeps their rows.
  """

  depth: int
  num_domains: int = 0
  conv_impl: str = 'native'
  dtype: str = 'float32'  # computed in

  @property
  def embed_dim(self) -> int:
    """Size of the flattened output for an image of 64 x 64 pixels."""
    return _LAST * _LAST * 8 * self.depth

  def setup(self):
    widths = [self.depth * 2**i for i in range(4)]
    inputs = [3 + self.num_domains] + widths[:-1]
    self.layers = [
      _Conv(w, _ENCODER_KERNEL, c) for w, c in zip(widths, inputs, strict=True)
    ]

  def __call__(self, image: jax.Array, label: jax.Array | None = None):
    """Embeds images.

    Args:
      image: u8 [M, 64, 64, 3].
      label: i32 [M], the domain of each image; None without domains.

    Returns:
      [M, embed_dim] of `dtype`, rows, columns and channels flattened in that
      order.

    Raises:
      ValueError: images of another size.
    """
    if image.shape[1:3] != (_SIZE, _SIZE):
      raise ValueError(
        f'images {image.shape}: the encoder takes {_SIZE} x {_SIZE} pixels'
      )
    # The 62 of 64 pixels that the last layer's 2 x 2 pixels depend on: no
    # kernel of the second layer reaches the first one's last row and column.
    used = _LAST
    for _ in self.layers:
      used = 2 * (used - 1) + _ENCODER_KERNEL
    frames = conv.frames(image, self.conv_impl).crop(used)
    x = frames.map(normalize).map(lambda x: x.astype(self.dtype))
    for i, layer in enumerate(self.layers):
      kernel, bias = layer.cast(self.dtype)
      if i == 0 and self.num_domains:
        planes, kernel = jnp.split(kernel, [self.num_domains], 2)
        bias = bias + planes.sum((0, 1))[label]
      x = conv.conv(x, kernel, self.conv_impl)
      x = conv.add_bias(x, bias, self.conv_impl).map(elu)
    return x.pixels().reshape(image.shape[0], -1)


class Decoder(nn.Module):
  """Four transposed convolutions from a feature to the mean of the image."""

  depth: int
  conv_impl: str = 'native'
  dtype: str = 'float32'  # computed in

  def setup(self):
    d = self.depth
    widths, inputs = [4 * d, 2 * d, d, 3], [32 * d, 4 * d, 2 * d, d]
    self.inp = Dense(32 * d, self.dtype)
    self.layers = [
      _Conv(w, k, c)
      for w, k, c in zip(widths, _DECODER_KERNELS, inputs, strict=True)
    ]

  def __call__(self, feat: jax.Array) -> jax.Array:
    """[M, F] -> mean of the pixels f32 [M, 64, 64, 3], u8/255 - 0.5."""
    return self.rest(self.first(feat)).pixels()

  def first(self, feat: jax.Array) -> jax.Array:
    """The layers that are matrix products: [M, F] -> [M, 5, 5, 4 depth]."""
    return self._layer(
      0, BlockedImage.of(self.inp(feat)[:, None, None])
    ).pixels()

  def rest(self, x: jax.Array) -> BlockedImage:
    """The layers after `first`, in the form of `conv.frames`: f32."""
    image = BlockedImage.of(x)
    for i in range(1, len(self.layers)):
      image = self._layer(i, image.map(elu))
    return image.map(lambda x: x.astype(jnp.float32))

  def _layer(self, i, image):
    kernel, bias = self.layers[i].cast(self.dtype)
    image = conv.conv_transpose(image, kernel, self.conv_impl)
    return conv.add_bias(image, bias, self.conv_impl)
