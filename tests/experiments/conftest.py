"""A finished run, which several tests read, copy or continue."""

import collections

import jax
import pytest

from experiments import debug, run
from vid2act_jax import learner, sharding


@pytest.fixture(scope='session')
def share_compiled_steps():
  """Runs in this process trace and compile each step once per config."""
  with pytest.MonkeyPatch.context() as patch:
    for name in ('build_agent', 'build_pretrainer'):
      patch.setattr(learner, name, _cached_by_config(getattr(learner, name)))
    patch.setattr(sharding.Devices, 'jit', _cached_by_step(sharding.Devices))
    yield


def _cached_by_config(build):
  built = {}

  def cached(config, *args, **kwargs):
    key = repr((config.to_dict(), args, kwargs))
    if key not in built:
      built[key] = build(config, *args, **kwargs)
    return built[key]

  return cached


def _cached_by_step(devices_type):
  original, compiled = devices_type.jit, {}

  def cached(self, step, *args, **kwargs):
    key = step, self.num
    if key not in compiled:
      compiled[key] = original(self, step, *args, **kwargs)
    return compiled[key]

  return cached


@pytest.fixture(scope='session')
def compilations():
  """Number of compilations of each function in the `finished` run."""
  return collections.Counter()


@pytest.fixture(scope='session')
def finished(tmp_path_factory, compilations, share_compiled_steps):
  """A finished run of the debug experiment; tests do not change it."""

  def on_event(event, _, fun_name='', **__):
    if event == '/jax/core/compile/backend_compile_duration':
      compilations[fun_name.removeprefix('jit(').removesuffix(')')] += 1

  workdir = tmp_path_factory.mktemp('run') / 'debug'
  jax.monitoring.register_event_duration_secs_listener(on_event)
  run.run(debug.get_config().lock(), workdir)
  jax.monitoring.unregister_event_duration_listener(on_event)
  return workdir
