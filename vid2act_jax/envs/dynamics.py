"""Changes to a MuJoCo model: gravity, actuator gain and mass.

The changes persist: resets create new data, not a new model.
"""

import copy

import mujoco
import numpy as np

from vid2act_jax.types import UserError

# Fields that MuJoCo derives from masses and inertias when compiling a model.
_MASS_DERIVED = (
  'body_subtreemass',
  'body_invweight0',
  'dof_invweight0',
  'dof_M0',
  'tendon_invweight0',
  'actuator_acc0',
)
# The last one exists since MuJoCo 3.3.1.
_FORCE_RANGES = (
  'actuator_forcerange',
  'jnt_actfrcrange',
  'tendon_actfrcrange',
)
_AFFINE_GAINS = (mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtGain.mjGAIN_AFFINE)
_AFFINE_BIASES = (mujoco.mjtBias.mjBIAS_NONE, mujoco.mjtBias.mjBIAS_AFFINE)


def scale_gravity(model: mujoco.MjModel, factor: float, task: str):
  """Scales gravity; raises UserError if the task has none."""
  disabled = model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_GRAVITY
  if disabled or not np.any(model.opt.gravity):
    raise UserError(
      f'task {task!r} has no gravity to change: remove the modifier.'
    )
  model.opt.gravity *= factor


def scale_gain(model: mujoco.MjModel, factor: float, task: str):
  """Scales the force of every actuator at a given control and state.

  The force is gain * control + bias, clipped to a range; all three are scaled.
  Motors have no bias. The bias of a position actuator is -stiffness * position
  - damping * velocity: the set point stays the same, with `factor` times the
  stiffness and damping.

  Raises:
    UserError: the model has no actuators, or some with another force law.
  """
  if not model.nu:
    raise UserError(
      f'task {task!r} has no actuators in its model: remove gain.'
    )
  affine = np.isin(model.actuator_gaintype, _AFFINE_GAINS)
  if not (affine & np.isin(model.actuator_biastype, _AFFINE_BIASES)).all():
    raise UserError(
      f'task {task!r} has actuators, such as muscles, whose force cannot be'
      ' scaled: remove gain.'
    )
  model.actuator_gainprm *= factor
  model.actuator_biasprm *= factor
  for name in _FORCE_RANGES:
    if hasattr(model, name):
      getattr(model, name)[:] *= factor


def scale_mass(model: mujoco.MjModel, factor: float):
  """Scales mass and inertia of every body, like a change of density."""
  model.body_mass *= factor
  model.body_inertia *= factor
  # On a copy: mj_setConst also overwrites the extent and center that the XML
  # sets, and rendering depends on them.
  derived = copy.copy(model)
  mujoco.mj_setConst(derived, mujoco.MjData(derived))
  for name in _MASS_DERIVED:
    getattr(model, name)[:] = getattr(derived, name)
  model.stat.meanmass = derived.stat.meanmass
  model.stat.meaninertia = derived.stat.meaninertia
