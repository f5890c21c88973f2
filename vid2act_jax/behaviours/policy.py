"""A state policy and its file.

A file is an npz:

about                   u8 [B], JSON: see `StatePolicy.about`
kernel_0, bias_0, ...   f16 [I, O] and [O], the layers
reference_states        f32 [R, S]
reference_actions       f32 [R, A], of the network that was trained

Layers are dense; the activation is ReLU, and tanh after the last layer, which
gives the mean of a squashed Gaussian before it is squashed. S counts the
numbers of the state: the arrays of `envs.Env.named_state`, in the suite's
order, each flattened in C order.
"""

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from vid2act_jax.data import files, weights
from vid2act_jax.types import UserError

Layout = Sequence[tuple[str, int]]
Layers = Sequence[tuple[np.ndarray, np.ndarray]]

MAX_BYTES = 300_000
_HINT = 'write it with python -m vid2act_jax.behaviours train'


@dataclasses.dataclass(frozen=True)
class StatePolicy:
  """A deterministic policy: state -> action.

  layers: (kernel [I, O], bias [O]) of each layer; any float type.
  about: JSON-serializable metadata: `task`, `level`, `states` (the layout of
    the state: name and size of each array), `action_dim`, `network` (hidden
    sizes), `action_repeat` and `env_steps` of the training, `returns`
    (evaluated, by action repeat), `seed`, `versions`.
  reference: states f32 [R, S] and actions f32 [R, A] of the network that was
    trained.
  """

  layers: Layers
  about: dict
  reference: tuple[np.ndarray, np.ndarray]

  def __call__(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the action, f32 [A] in [-1, 1], of an `Env.named_state`.

    Raises:
      UserError: the state has other names or sizes.
    """
    self.check_states(state)
    return self.act(flatten(state))

  def act(self, states: np.ndarray) -> np.ndarray:
    """Returns actions f32 [..., A] of flat states [..., S]."""
    x = np.asarray(states, np.float32)
    *hidden, (kernel, bias) = self._float_layers
    for weight, offset in hidden:
      x = np.maximum(x @ weight + offset, 0)
    return np.tanh(x @ kernel + bias)

  def check_states(self, state: Mapping[str, np.ndarray] | None) -> None:
    """Checks that the policy was trained on such states.

    Raises:
      UserError: it was trained on others, or there are none.
    """
    wanted = [tuple(item) for item in self.about['states']]
    found = layout(state or {})
    if found != wanted:
      raise UserError(
        f'the state policy of {self.about["task"]} reads {_text(wanted)}, but '
        f'this environment has {_text(found)}: choose a policy of this task, '
        'or train one (python -m vid2act_jax.behaviours train)'
      )

  @functools.cached_property
  def _float_layers(self):
    # NumPy computes in half precision many times more slowly.
    return [
      (k.astype(np.float32), b.astype(np.float32)) for k, b in self.layers
    ]


def layout(state: Mapping[str, np.ndarray]) -> list[tuple[str, int]]:
  """Returns the name and the size of each array of a state."""
  return [(name, int(np.size(value))) for name, value in state.items()]


def flatten(state: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns a state as one array, f32 [S]."""
  return np.concatenate(
    [np.ravel(value).astype(np.float32) for value in state.values()]
  )


def digest(path: pathlib.Path) -> str:
  """Returns a short hash of a file."""
  return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def write(path: pathlib.Path, policy: StatePolicy) -> None:
  """Writes a policy; its layers become half precision."""
  arrays = {
    'about': np.frombuffer(json.dumps(policy.about).encode(), np.uint8),
    'reference_states': policy.reference[0].astype(np.float32),
    'reference_actions': policy.reference[1].astype(np.float32),
  }
  for i, (kernel, bias) in enumerate(policy.layers):
    arrays[f'kernel_{i}'] = kernel.astype(np.float16)
    arrays[f'bias_{i}'] = bias.astype(np.float16)
  files.make_folder(path.parent)
  files.atomic_write(path, lambda file: files.write_npz(file, arrays))


def read(path: str | pathlib.Path) -> StatePolicy:
  """Reads a policy; safe for untrusted files.

  Raises:
    UserError: the file is missing, damaged or not a state policy.
  """
  path = pathlib.Path(path).expanduser()
  if path.suffix != '.npz':
    raise UserError(f'{path}: a state policy is an .npz file; {_HINT}')
  arrays = weights.read(path)
  try:
    about = json.loads(arrays['about'].tobytes())
    reference = arrays['reference_states'], arrays['reference_actions']
    sizes = [sum(size for _, size in about['states'])]
    sizes += [*about['network'], about['action_dim']]
    layers = []
    for i, shape in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
      layers.append((arrays[f'kernel_{i}'], arrays[f'bias_{i}']))
      found = layers[-1][0].shape, layers[-1][1].shape
      if found != (shape, shape[1:]):
        raise ValueError(f'layer {i} has the shapes {found}')
    if not all(np.isfinite(x).all() for layer in layers for x in layer):
      raise ValueError('some weights are not finite')
    for key in ('task', 'level', 'returns'):
      about[key]
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'{path}: not a state policy ({type(error).__name__}: {error}); {_HINT}'
    ) from error
  return StatePolicy(layers, about, reference)


def _text(states):
  total = math.fsum(size for _, size in states)
  names = ', '.join(f'{name} [{size}]' for name, size in states)
  return f'{int(total)} numbers ({names})' if states else 'no states'
