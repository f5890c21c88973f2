"""Tests of the schedules: when to update, to evaluate and to log."""

import pytest

from vid2act_jax.loops.schedule import (
  Counters,
  FinetuneSchedule,
  Intervals,
  is_due,
)


def schedule(evaluate_every=20):
  return FinetuneSchedule(
    env_steps=100,
    prefill=10,
    first_updates=4,
    update_every=5,
    evaluate_every=evaluate_every,
    action_repeat=2,
    intervals=Intervals(1, 0, 1),
  )


@pytest.mark.parametrize(
  'agent_steps, warm, expected',
  [(30, -1, 0), (12, 12, 4), (16, 12, 4), (17, 12, 5), (32, 12, 8)],
)
def test_updates_due(agent_steps, warm, expected):
  counters = Counters(agent_steps=agent_steps, warm=warm)
  assert schedule().updates_due(counters) == expected


@pytest.mark.parametrize(
  'agent_steps, warm, evaluated, every, expected',
  [
    (30, -1, -1, 20, False),  # In the prefill.
    (12, 12, -1, 20, True),  # Right after it.
    (12, 12, -1, 0, False),  # Only at the end of the stage.
    (19, 12, 24, 20, False),  # 38 env steps; the next multiple is 40.
    (20, 12, 24, 20, True),
    (45, 12, 24, 20, True),  # Also if one was missed.
    (50, 12, 80, 0, True),  # At the end.
    (50, 12, 100, 20, False),  # Done.
    (50, -1, -1, 0, True),  # A stage that ends in its prefill.
    (50, 12, -1, None, False),  # No evaluations.
  ],
)
def test_evaluation_due(agent_steps, warm, evaluated, every, expected):
  counters = Counters(agent_steps=agent_steps, warm=warm, evaluated=evaluated)
  assert schedule(every).evaluation_due(counters) is expected


@pytest.mark.parametrize(
  'agent_steps, warm, evaluated, every, expected',
  [
    (0, -1, -1, 20, 5),  # After the prefill at 20; at 40, 60, 80; at the end.
    (19, 12, 24, 20, 4),
    (20, 12, 24, 20, 4),  # The one at 40 is due.
    (20, 12, 40, 20, 3),
    (50, 12, 100, 20, 0),
    (20, 12, -1, 0, 1),
    (20, 12, -1, None, 0),
  ],
)
def test_evaluations_left(agent_steps, warm, evaluated, every, expected):
  counters = Counters(agent_steps=agent_steps, warm=warm, evaluated=evaluated)
  assert schedule(every).evaluations_left(counters) == expected


def test_intervals():
  assert [n for n in range(1, 10) if is_due(n, 3)] == [3, 6, 9]
  assert not any(is_due(n, 0) for n in range(10))


def test_counters_come_from_a_checkpoint():
  extra = {'steps': 1, 'agent_steps': 2, 'updates': 3, 'warm': 4}
  extra |= {'evaluated': 5, 'replaced': 6, 'task': 'other values'}
  assert Counters.restore(extra) == Counters(1, 2, 3, 4, 5, 6)
