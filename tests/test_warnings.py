"""Deprecated calls in this project's modules are errors in tests."""

import warnings

import pytest

CATEGORIES = DeprecationWarning, PendingDeprecationWarning, FutureWarning


def warn(category, module):
  """Warns as a deprecated function that was called in the module."""
  warnings.warn_explicit('deprecated', category, 'file.py', 1, module)


@pytest.mark.parametrize('category', CATEGORIES)
@pytest.mark.parametrize(
  'module', ['vid2act_jax', 'vid2act_jax.ops.conv', 'experiments.run', __name__]
)
def test_errors_in_own_modules(category, module):
  with pytest.raises(category):
    warn(category, module)


@pytest.mark.parametrize('module', ['jax._src.core', 'vid2act_jax_extension'])
def test_no_errors_in_other_modules(module):
  with warnings.catch_warnings(record=True) as record:
    warn(FutureWarning, module)
  assert [item.category for item in record] == [FutureWarning]


def test_a_call_in_this_module():
  with pytest.raises(DeprecationWarning):
    warnings.warn('deprecated', DeprecationWarning, stacklevel=1)
