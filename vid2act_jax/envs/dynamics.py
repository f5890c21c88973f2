"""Changes of a MuJoCo model: gravity, strength of actuators, mass.

A model keeps them: resets give it new data, not a new model.
"""

import copy

import mujoco
import numpy as np

from vid2act_jax.types import UserError

# What MuJoCo derives from masses and inertias when it compiles a model.
_BY_MASS = (
  'body_subtreemass',
  'body_invweight0',
  'dof_invweight0',
  'dof_M0',
  'tendon_invweight0',
  'actuator_acc0',
)
# The last one is there from MuJoCo 3.3.1 on.
_FORCE_RANGES = (
  'actuator_forcerange',
  'jnt_actfrcrange',
  'tendon_actfrcrange',
)
_PLAIN_GAINS = (mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtGain.mjGAIN_AFFINE)
_PLAIN_BIASES = (mujoco.mjtBias.mjBIAS_NONE, mujoco.mjtBias.mjBIAS_AFFINE)


def scale_gravity(model: mujoco.MjModel, factor: float, task: str):
  """Multiplies the acceleration; UserError where there is none."""
  off = model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_GRAVITY
  if off or not np.any(model.opt.gravity):
    raise UserError(f'task {task!r} has no gravity to change: leave it out.')
  model.opt.gravity *= factor


def scale_gain(model: mujoco.MjModel, factor: float, task: str):
  """Multiplies the force that an actuator exerts at a control and a state.

  A force is gain * control + bias, kept in a range; all three are multiplied.
  Motors have no bias. A position actuator's is -stiffness * position
  - damping * velocity: it pulls to the same set point, with `factor` times the
  stiffness and damping, instead of to another set point.

  Raises:
    UserError: there are no actuators, or some whose force is not of this form.
  """
  if not model.nu:
    raise UserError(
      f'task {task!r} has no actuators in its model: leave gain out.'
    )
  plain = np.isin(model.actuator_gaintype, _PLAIN_GAINS)
  if not (plain & np.isin(model.actuator_biastype, _PLAIN_BIASES)).all():
    raise UserError(
      f'task {task!r} has actuators, such as muscles, whose force cannot be'
      ' multiplied: leave gain out.'
    )
  model.actuator_gainprm *= factor
  model.actuator_biasprm *= factor
  for name in _FORCE_RANGES:
    if hasattr(model, name):
      getattr(model, name)[:] *= factor


def scale_mass(model: mujoco.MjModel, factor: float):
  """Multiplies mass and inertia of every body, as another density would."""
  model.body_mass *= factor
  model.body_inertia *= factor
  # Not in the model itself: there it would also undo what the XML says of
  # extent and center, which pictures depend on.
  derived = copy.copy(model)
  mujoco.mj_setConst(derived, mujoco.MjData(derived))
  for name in _BY_MASS:
    getattr(model, name)[:] = getattr(derived, name)
  model.stat.meanmass = derived.stat.meanmass
  model.stat.meaninertia = derived.stat.meaninertia
