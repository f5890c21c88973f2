"""States must not hold the arrays that they are made from.

An update with a donated state would delete them: the caller's teacher, for
instance, after the first update of the first agent that uses it.
"""

import jax
import pytest

from tests import small
from tests.small import KEY
from vid2act_jax import learner
from vid2act_jax.learner import teachers, warm_start

_DIMS = (1, 3)


def aliases(fn, *args) -> list[str]:
  """Names of the results of a function that are its arguments' arrays.

  Only traces the function: what it computes alone takes long to compile.
  """
  found = []

  def trace(*args):
    given = {id(leaf) for leaf in jax.tree.leaves(args)}
    out = fn(*args)
    for path, leaf in jax.tree_util.tree_leaves_with_path(out):
      if id(leaf) in given:
        found.append(jax.tree_util.keystr(path))
    return out

  jax.eval_shape(trace, *args)
  return found


def teacher_shapes(agent):
  """A pretrained model with a generator; stacked for separate teachers."""
  pretrainer = learner.build_pretrainer(small.config(), _DIMS)
  init = lambda key: pretrainer.teacher_params(pretrainer.init(key))
  teacher = jax.eval_shape(init, KEY)
  if agent.variant.teachers == 'separate':
    return jax.eval_shape(agent.pretrained.init, KEY)
  return teacher


@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'start': 'stacked'},
    {'start': 'teacher'},
    {'teachers': 'separate'},
    {'teachers': 'none', 'start': 'teacher'},
    {'direction': 'to_teacher', 'generator_start': 'pretrained'},
  ],
)
def test_agents_copy_the_teacher(fields):
  variant = learner.parse('vid2act', ('a', 'b'), fields)
  agent = learner.build_agent(small.config(), 2, _DIMS, variant=variant)
  teacher = teacher_shapes(agent)
  if agent.variant.teachers == 'separate':
    stack = lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype)
    teacher = jax.tree.map(stack, teacher)
  assert aliases(lambda teacher: agent.init(KEY, teacher), teacher) == []


def test_teachers_are_copies_of_the_state():
  pretrainer = learner.build_pretrainer(small.config(), _DIMS)
  state = jax.eval_shape(pretrainer.init, KEY)
  assert aliases(pretrainer.teacher_params, state) == []
  assert aliases(lambda s: s.params['model'], state)  # `aliases` finds them.


def test_other_parameters_from_teachers_are_copies():
  agent = learner.build_agent(small.config(), 2, _DIMS)
  teacher, model = teacher_shapes(agent), agent.pretrained
  fresh = jax.eval_shape(agent.student.init, KEY)

  def start(fresh, teacher):
    return warm_start.start_from(fresh, model, teacher)

  def stack(teacher):
    return teachers.stack_separate([model], [teacher], 2)

  assert aliases(start, fresh, teacher) == []
  assert aliases(stack, teacher) == []
