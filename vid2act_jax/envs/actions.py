"""An environment's own actions, and the agent's, which are in [-1, 1]."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ActionSpec:
  """The actions of an environment; JSON-serializable.

  kind: 'box', arrays between bounds, or 'discrete', whole numbers.
  dim: A, the size of the agent's action. A box has A entries; of discrete
    actions there are A, and the agent's largest entry is taken.
  shape: of an own action; () for discrete ones.
  dtype: of an own action.
  low, high: what -1 and 1 mean for each entry of a box.
  start: the first discrete action.
  """

  kind: str
  dim: int
  shape: tuple[int, ...] = ()
  dtype: str = 'int64'
  low: tuple[float, ...] = ()
  high: tuple[float, ...] = ()
  start: int = 0

  @classmethod
  def box(
    cls, low: np.ndarray, high: np.ndarray, dtype: str = 'float32'
  ) -> 'ActionSpec':
    """Returns the spec of a box with these bounds, f64 [*shape]."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    bounds = tuple(low.ravel().tolist()), tuple(high.ravel().tolist())
    return cls('box', low.size, low.shape, dtype, *bounds)

  @classmethod
  def normalized(cls, dim: int) -> 'ActionSpec':
    """Returns the spec of actions that are those of the agent."""
    return cls.box(np.full(dim, -1.0), np.full(dim, 1.0))

  @classmethod
  def discrete(cls, num: int, start: int = 0) -> 'ActionSpec':
    """Returns the spec of `num` actions from `start` on."""
    return cls('discrete', num, start=start)

  @classmethod
  def from_dict(cls, values: dict) -> 'ActionSpec':
    """Inverts `dataclasses.asdict`, also after JSON.

    Raises:
      TypeError, AttributeError: the values are not those of a spec.
    """
    as_tuple = lambda x: tuple(x) if isinstance(x, list) else x
    return cls(**{key: as_tuple(value) for key, value in values.items()})

  def to_native(self, action: np.ndarray) -> np.ndarray:
    """Maps the agent's actions f32 [..., A] in [-1, 1] to [..., *shape]."""
    if self.kind == 'discrete':
      return self.start + action.argmax(-1)
    low, high = self._bounds()
    action = action.reshape(action.shape[:-1] + tuple(self.shape))
    scaled = low + (action + 1) / 2 * (high - low)
    if np.issubdtype(self.dtype, np.integer):
      scaled = np.rint(scaled)
    return scaled.astype(self.dtype)

  def to_agent(self, action: np.ndarray) -> np.ndarray:
    """Maps the environment's actions [..., *shape] to f32 [..., A]."""
    action = np.asarray(action)
    if self.kind == 'discrete':
      chosen = np.arange(self.dim) == (action - self.start)[..., None]
      return np.where(chosen, 1, -1).astype(np.float32)
    low, high = self._bounds()
    span = np.where(high > low, high - low, 1)
    scaled = (action - low) / span * 2 - 1
    leading = action.shape[: action.ndim - len(self.shape)]
    return scaled.reshape(*leading, self.dim).astype(np.float32)

  def _bounds(self):
    shape = tuple(self.shape)
    return np.reshape(self.low, shape), np.reshape(self.high, shape)
