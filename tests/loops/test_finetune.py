"""Tests of the online loop: in which order the device gets its calls."""

import types

import numpy as np
import pytest

from vid2act_jax.loops import acting, finetune, interaction
from vid2act_jax.loops.metrics import MetricAverager
from vid2act_jax.loops.preemption import PreemptionHandler
from vid2act_jax.loops.profile import Profiler
from vid2act_jax.loops.schedule import Counters, FinetuneSchedule, Intervals

STEPS, PREFILL = 9, 2


class OnDevice:
  """An array that records when the host waits for it."""

  def __init__(self, events, name, value, ready=False):
    self._events, self._name, self._value = events, name, value
    self._ready = ready

  def is_ready(self):
    return self._ready

  def __array__(self, dtype=None, copy=None):
    del copy
    self._events.append(f'wait {self._name}')
    return np.asarray(self._value, dtype)


class Envs:
  """Two environments without episode ends."""

  num, action_dim = 2, 1

  def __init__(self, events):
    self._events, self.faults = events, []

  def begin(self, *stream):
    del stream

  def receive(self):
    return {'is_first': np.zeros(2, bool)}

  def send(self, actions):
    del actions
    self._events.append('send')

  def snapshot(self):
    return {}


class Replay:
  """Has an episode, and stores nothing."""

  num_episodes = total_episodes = 1

  def add(self, obs, prev_action):
    del obs, prev_action
    return []

  def delete_evicted(self):
    pass


class Policy:
  """Records its calls."""

  def __init__(self, events):
    self._events, self._num = events, 0

  def __call__(self, state, obs, step):
    del obs, step
    self._events.append(f'policy of {state.update}')
    self._num += 1
    return OnDevice(self._events, 'actions', np.zeros((2, 1)))

  def reset(self):
    pass

  def snapshot(self):
    return []


def events_of(ready, log_every=2, save_every=0):
  """Runs a loop; returns its events after the prefill."""
  events = []

  def state(update):
    out = OnDevice(events, f'state {update}', 0.0, ready)
    out.update = update
    return out

  def train_step(unused_state, unused_batch, done, count):
    assert count == 1
    events.append(f'update {done + 1}')
    return state(done + 1), {
      'skipped': OnDevice(events, f'metrics {done + 1}', 0.0)
    }

  train_step.num_steps = lambda done, due: 1
  train_step.check_finite = lambda: None
  context = types.SimpleNamespace(
    devices=types.SimpleNamespace(num=1),
    logger=types.SimpleNamespace(
      lines=0,
      scalars=lambda step, values: events.append(f'log at {step}'),
      progress=lambda *args, **kwargs: None,
    ),
    averager=MetricAverager(),
    checkpoint=types.SimpleNamespace(save=lambda *args: events.append('save')),
    commit=lambda: events.append('commit'),
    metadata={},
    profiler=Profiler(),
    preemption=PreemptionHandler(),
  )
  counters = Counters()
  acts = interaction.Interaction(
    Envs(events),
    Policy(events),
    Replay(),
    counters,
    PREFILL,
    0,
    context.profiler,
    random_prefill=False,
  )
  acts.restore({})
  setup = types.SimpleNamespace(
    context=context,
    schedule=FinetuneSchedule(
      env_steps=2 * STEPS,
      prefill=PREFILL,
      first_updates=1,
      update_every=2,
      evaluate_every=None,
      action_repeat=1,
      intervals=Intervals(log_every, 0, save_every),
    ),
    state=state(0),
    train_step=train_step,
    batches=types.SimpleNamespace(get=lambda index, count: None),
    interaction=acts,
    evaluator=None,
  )
  loop = finetune.Finetuner(setup)
  try:
    loop.run()
  finally:
    context.profiler.close()
  return events[events.index('update 1') :]


def test_a_busy_device_has_the_next_update_before_the_host_waits():
  events = events_of(ready=False)
  for update in range(2, STEPS - 1):
    policy = events.index(f'policy of {update}')
    queued = events.index(f'update {update + 1}')
    assert policy < queued < events.index('wait actions', policy)
    assert events.index('send', policy) < events.index(
      f'policy of {update + 1}'
    )


def test_environments_come_first_if_the_device_waits_for_them():
  events = events_of(ready=True)
  for update in range(2, STEPS):
    policy = events.index(f'policy of {update}')
    assert events[policy : policy + 3] == [
      f'policy of {update}',
      'wait actions',
      'send',
    ]
    assert events.index('send', policy) < events.index(f'update {update + 1}')


@pytest.mark.parametrize('ready', [False, True])
def test_metrics_are_fetched_after_the_next_update_is_queued(ready):
  events = events_of(ready)
  for update in range(1, STEPS):
    fetched = events.index(f'wait metrics {update}')
    assert events.index(f'update {update + 1}') < fetched
  # Two steps before the first update, two with each: at updates 2, 4, 6, 8.
  logs = [x for x in events if x.startswith('log')]
  assert logs == [f'log at {n}' for n in (4, 8, 12, 16)]


def test_a_checkpoint_has_the_actions_and_logs_before_it():
  events = events_of(ready=False, save_every=4)
  save = events.index('save')
  assert events.index('log at 8') < save
  before = events[:save]
  policies = sum(x.startswith('policy') for x in before)
  assert before.count('send') >= policies


def test_a_driver_sends_once():
  events = []
  driver = acting.Driver(Envs(events))
  driver.reset()
  driver.receive(lambda obs: np.ones((2, 1)))
  driver.send()
  driver.send()
  assert events == ['send', 'send']  # Of the reset and of the step.
  np.testing.assert_array_equal(
    driver.snapshot()['prev_action'], np.ones((2, 1))
  )
