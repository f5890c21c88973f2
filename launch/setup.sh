#!/usr/bin/env bash
# Makes the virtual environment and checks that rendering works.
#
#   bash launch/setup.sh
#
#   VENV=DIR     the virtual environment, default: .venv in the project
#   PYTHON=FILE  the Python to make it with, default: the first suitable one
#
# Completed steps are skipped, so a second call is fast; it also completes an
# interrupted setup. The other scripts source this one for $root and $venv.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

log() { printf 'setup: %s\n' "$*" >&2; }

fail() {
  log "$@"
  exit 1
}

is_suitable() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
    2>/dev/null
}

find_python() {
  local name
  if [[ -n ${PYTHON:-} ]]; then
    is_suitable "$PYTHON" ||
      fail "PYTHON=$PYTHON is not Python 3.11, 3.12 or 3.13; set another"
    echo "$PYTHON"
    return
  fi
  # On 3.13, requirements.txt has a newer jax: the others come first.
  for name in python3.12 python3.11 python3 python3.13; do
    if is_suitable "$name"; then
      command -v "$name"
      return
    fi
  done
  fail 'no Python 3.11, 3.12 or 3.13 found; install one' \
    '(Debian, Ubuntu: apt-get install python3), or set PYTHON=FILE'
}

# apt_install REASON PACKAGE...: installs, or prints the command and fails.
apt_install() {
  local reason=$1 sudo=()
  shift
  command -v apt-get >/dev/null ||
    fail "$reason; install the equivalent of these Debian packages: $*"
  if [[ $(id -u) != 0 ]]; then
    if ! sudo -n true 2>/dev/null; then
      fail "$reason; run this, then start again:" \
        "sudo apt-get update && sudo apt-get install -y $*"
    fi
    sudo=(sudo -n)
  fi
  log "$reason; installing $*"
  # If the update fails, the existing package lists may be sufficient.
  "${sudo[@]}" apt-get update -qq >/dev/null || true
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    fail "apt-get could not install: $*"
}

# An existing environment is used or rejected, but never cleared: it may have
# another owner. Only one that this script did not finish is recreated.
make_environment() {
  local python version unfinished=$venv.unfinished
  if [[ ! -e $unfinished && -n $(ls -A "$venv" 2>/dev/null) ]]; then
    if is_suitable "$venv/bin/python" &&
      "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
      return
    fi
    fail "$venv is not a virtual environment of Python 3.11 to 3.13 with pip;" \
      'set VENV to another path, or remove it if it is not needed'
  fi
  python=$(find_python)
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install "$python cannot make virtual environments" \
      "python$version-venv"
  fi
  log "making $venv with Python $version"
  { mkdir -p "$(dirname "$venv")" && : >"$unfinished"; } 2>/dev/null ||
    fail "cannot make $venv; set VENV to another path"
  "$python" -m venv --clear "$venv" ||
    fail "cannot make $venv; set VENV to another path"
  rm "$unfinished"
}

install_packages() {
  local stamp=$venv/.vid2act_jax_packages fingerprint
  fingerprint=$(
    cd "$root"
    {
      cat requirements.txt setup.cfg pyproject.toml
      "$venv/bin/python" -VV
      pwd
    } | sha256sum
  )
  [[ $(cat "$stamp" 2>/dev/null) != "$fingerprint" ]] || return 0
  log 'installing the packages; this takes some minutes'
  rm -f "$stamp"
  # The list is complete. It deliberately omits unused dependencies, such as a
  # package without a build for this Python.
  pip_install --no-deps -r "$root/requirements.txt"
  pip_install --no-deps --no-build-isolation -e "$root"
  echo "$fingerprint" >"$stamp"
}

pip_install() {
  "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@" ||
    fail "pip could not install $* (see its output above)"
}

# Prints a fingerprint of the GL installation, to skip the slower render test.
gl_state() {
  {
    echo "${MUJOCO_GL:-}"
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p |
      grep -E 'lib(EGL|GL|OpenGL|OSMesa|gallium)' || true
    ls -d /dev/dri/* /dev/nvidia* 2>/dev/null || true
  } | sha256sum
}

render_one_frame() {
  (cd "$root" && "$venv/bin/python" -) <<'PYTHON'
import sys

from vid2act_jax import types
from vid2act_jax.envs import gl

try:
  gl.select_backend()
except types.UserError as error:
  sys.exit(str(error))

import mujoco

model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody>'
    '</mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
  renderer.update_scene(data)
  if not renderer.render().any():
    sys.exit('the GL library renders black images')
PYTHON
}

install_gl() {
  local stamp=$venv/.vid2act_jax_gl error
  local packages=(libegl1 libgl1)
  [[ $(cat "$stamp" 2>/dev/null) != "$(gl_state)" ]] || return 0
  if ! error=$(render_one_frame 2>&1); then
    [[ -z ${MUJOCO_GL:-} ]] || fail "$error"
    # Without a GPU, OSMesa is faster; not every release has it.
    if [[ ! -e /dev/dri && ! -e /dev/nvidia0 ]] &&
      apt-cache show libosmesa6 >/dev/null 2>&1; then
      packages=(libosmesa6)
    fi
    apt_install 'no GL library found for rendering' "${packages[@]}"
    error=$(render_one_frame 2>&1) || fail "rendering failed: $error"
  fi
  gl_state >"$stamp"
}

main() {
  # Concurrent setups would conflict. Not every file system has locks.
  exec 9<"$root"
  flock 9 || log "no lock on $root: start one setup at a time"
  make_environment
  install_packages
  install_gl
  exec 9<&-
}

main
