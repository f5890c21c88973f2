"""What similarity weights rest on: how near sources are, and what they know."""

import numpy as np

_RIDGE = 0.01  # Of the variance of standardised features.


def measure(
  agent, state, student: np.ndarray, teacher: np.ndarray
) -> list[dict]:
  """How near each source's view of the target is to the student's.

  Args:
    agent: an `Agent` with a teacher.
    state: its LearnerState.
    student: features, f32 [B, L, F], B at least 2.
    teacher: features, f32 [B, L, N, F_teacher].

  Returns:
    For each source its distance, the mean of D_i, which the weights are
    trained to make small; and explained, the share of the variance of the
    student's features that a linear map of the source's foretells, fitted to
    one half of the sequences and held against the other half.
  """
  params = state.params['model']['transfer']['distill']
  distilled = agent.distill.apply({'params': params}, teacher)
  distance = np.square(distilled - student[:, :, None]).mean((0, 1, 3))
  half = len(student) // 2
  flat = lambda x: x.reshape(-1, x.shape[-1]).astype(np.float64)
  known, asked = flat(student[:half]), flat(student[half:])
  spread = np.square(asked - known.mean(0)).mean()
  out = []
  for index, value in enumerate(np.asarray(distance)):
    views = flat(teacher[:half, :, index]), flat(teacher[half:, :, index])
    guess = _linear(views[0], known, views[1])
    left = np.square(asked - guess).mean()
    explained = 1 - left / spread if spread else 0.0
    out.append({'distance': float(value), 'explained': float(explained)})
  return out


def _linear(x, y, asked):
  """Ridge regression of y [M, F] on x [M, G], at `asked` [K, G]: [K, F]."""
  center, scale = x.mean(0), x.std(0) + 1e-6
  x, asked = (x - center) / scale, (asked - center) / scale
  gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
  return asked @ np.linalg.solve(gram, x.T @ (y - y.mean(0))) + y.mean(0)
