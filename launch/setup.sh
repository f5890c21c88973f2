#!/usr/bin/env bash
# Makes the virtual environment and sees to it that pictures can be rendered.
#
#   bash launch/setup.sh
#
#   VENV=DIR     the virtual environment, by default .venv in the project
#   PYTHON=FILE  the Python to make it with, by default the first suitable one
#
# What is there already is left alone, so a second call takes a moment; one that
# was interrupted is made good by the next. The other scripts source this one
# for $root and $venv.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
  say "$@"
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
      fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13; name another one"
    echo "$PYTHON"
    return
  fi
  # The versions requirements.txt is tested with come first.
  for name in python3.12 python3.11 python3 python3.13; do
    if is_suitable "$name"; then
      command -v "$name"
      return
    fi
  done
  fail 'no Python 3.11, 3.12 or 3.13 found; install one' \
    '(Debian, Ubuntu: apt-get install python3), or name it: PYTHON=FILE'
}

# apt_install WHY PACKAGE...: installs, or tells the command and fails.
apt_install() {
  local why=$1 sudo=()
  shift
  command -v apt-get >/dev/null ||
    fail "$why; install the equivalent of these Debian packages: $*"
  if [[ $(id -u) != 0 ]]; then
    if ! sudo -n true 2>/dev/null; then
      fail "$why; run this, then start again:" \
        "sudo apt-get update && sudo apt-get install -y $*"
    fi
    sudo=(sudo -n)
  fi
  say "$why; installing $*"
  # A list of packages that cannot be renewed may still do.
  "${sudo[@]}" apt-get update -qq >/dev/null || true
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    fail "apt-get could not install: $*"
}

# An environment that is there is used, or complained of, but never emptied: it
# may be somebody's. Only one that this script left unfinished is made anew.
make_environment() {
  local python version unfinished=$venv.unfinished
  if [[ ! -e $unfinished && -n $(ls -A "$venv" 2>/dev/null) ]]; then
    if is_suitable "$venv/bin/python" &&
      "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
      return
    fi
    fail "$venv is not a virtual environment of Python 3.11 to 3.13 with pip;" \
      'set VENV to another place, or remove it if nobody needs it'
  fi
  python=$(find_python)
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install "$python cannot make virtual environments" \
      "python$version-venv"
  fi
  say "making $venv with Python $version"
  { mkdir -p "$(dirname "$venv")" && : >"$unfinished"; } 2>/dev/null ||
    fail "cannot make $venv; set VENV to another place"
  "$python" -m venv --clear "$venv" ||
    fail "cannot make $venv; set VENV to another place"
  rm "$unfinished"
}

install_packages() {
  local stamp=$venv/.vid2act_jax_packages wanted
  wanted=$(
    cd "$root"
    {
      cat requirements.txt setup.cfg pyproject.toml
      "$venv/bin/python" -VV
      pwd
    } | sha256sum
  )
  [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]] || return 0
  say 'installing the packages; this takes some minutes'
  rm -f "$stamp"
  # The list is complete; what it leaves out, such as a package that has no
  # build for this Python and that nothing here imports, is left out on purpose.
  pip_install --no-deps -r "$root/requirements.txt"
  pip_install --no-deps --no-build-isolation -e "$root"
  echo "$wanted" >"$stamp"
}

pip_install() {
  "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@" ||
    fail "pip could not install $* (what it says is above)"
}

# What decides whether rendering works; asked before the slower real trial.
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
  gl.choose()
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
    sys.exit('the GL library renders black pictures')
PYTHON
}

install_gl() {
  local stamp=$venv/.vid2act_jax_gl problem
  local packages=(libegl1 libgl1)
  [[ $(cat "$stamp" 2>/dev/null) != "$(gl_state)" ]] || return 0
  if ! problem=$(render_one_frame 2>&1); then
    [[ -z ${MUJOCO_GL:-} ]] || fail "$problem"
    # Without a graphics card OSMesa is the faster; not every release has it.
    if [[ ! -e /dev/dri && ! -e /dev/nvidia0 ]] &&
      apt-cache show libosmesa6 >/dev/null 2>&1; then
      packages=(libosmesa6)
    fi
    apt_install 'there is no GL library to render with' "${packages[@]}"
    problem=$(render_one_frame 2>&1) || fail "rendering fails: $problem"
  fi
  gl_state >"$stamp"
}

main() {
  # Two of these at once would spoil each other's work.
  exec 9<"$root"
  flock 9
  make_environment
  install_packages
  install_gl
  exec 9<&-
}

main
