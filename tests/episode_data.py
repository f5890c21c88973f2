"""Episodes for the tests, whose values identify episode and time step."""

import numpy as np

from vid2act_jax.data import episodes as eps

DESCRIPTION = {
  'action_dim': 2,
  'action_repeat': 2,
  'camera': 'fixed',
  'size': 4,
  'quality': 'fast',
  'flips': ['vertical'],
  'versions': {'mujoco': '3.3.0'},
  'time_limit': 1000,
}


def make_episode(length=8, number=0, action_dim=2, size=4, terminal=False):
  """Frames, actions and rewards encode the episode number and the time."""
  frame = np.arange(length)
  image = np.zeros((length, size, size, 3), np.uint8)
  image[..., 0] = number
  image[..., 1] = frame[:, None, None]
  action = np.repeat(frame[:, None] / 256, action_dim, 1).astype(np.float32)
  return {
    'image': image,
    'action': action,
    'reward': (frame + 1000 * number * (frame > 0)).astype(np.float32),
    'discount': 1 - (terminal & (frame == length - 1)).astype(np.float32),
    'is_first': frame == 0,
    'is_last': frame == length - 1,
    'is_terminal': terminal & (frame == length - 1),
  }


def fill(directory, lengths, **kwargs):
  for number, length in enumerate(lengths):
    eps.save(directory, number, make_episode(length, number, **kwargs))
  return directory


def play(replay, lengths, first=0):
  """Adds whole episodes through the vector-environment interface."""
  summaries = []
  for number, length in enumerate(lengths, first):
    episode = make_episode(length, number)
    for t in range(length):
      obs = {k: v[t][None] for k, v in episode.items() if k != 'action'}
      summaries += replay.add(obs, episode['action'][t][None])
  return summaries


def assert_same(left, right):
  assert left.keys() == right.keys()
  for key in left:
    assert left[key].dtype == right[key].dtype
    np.testing.assert_array_equal(left[key], right[key], key)
