# shellcheck shell=bash
# What compose/demo and compose/test share: everything between a fresh clone and a running command.
# Sourced, with `root` set to the repository. Speaks on stderr only, because stdout belongs to the command.
#
#   setup <demo|test> <the servers to be had: "", "redis", "zookeeper" or "redis zookeeper">
#
# Afterwards $root/.venv has coordkit (editable) with what the command needs, and the servers that were asked for
# can be started: from binaries that are there, else in containers, else installed by apt where we are root on Debian.
# COORDKIT_PYTHON names the interpreter to use; else the best one found.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
stop() {
  say "$1"
  shift
  [ $# -eq 0 ] || printf '    %s\n' "$@" >&2
  exit 1
}

setup() {
  unset PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX # each would send the installation somewhere else
  python=${root:?}/.venv/bin/python
  kinds=$2
  if ! is_installed "$1" || { [ -n "$kinds" ] && ! servers_known; }; then
    # In a subshell, so that the lock ends with it; two runs at once would otherwise build one environment twice.
    (
      take_turns
      is_installed "$1" || install_package "$1"
      [ -z "$kinds" ] || servers_known || find_servers
    )
  fi
  use_found_servers
}

# --- one at a time ---------------------------------------------------------------------------------------------------

take_turns() {
  if command -v flock >/dev/null; then
    exec 9<"$root/compose"
    flock -n 9 && return
    say "another set-up of this clone is at work, waiting for it"
    flock 9
    return
  fi
  # macOS has no flock: a directory, with the pid of its owner so that a dead owner does not block for ever.
  local lock owner said=no
  lock=${TMPDIR:-/tmp}/coordkit-$(id -u)-$(printf %s "$root" | cksum | tr ' ' -).lock
  until mkdir "$lock" 2>/dev/null; do
    owner=$(cat "$lock/pid" 2>/dev/null || true)
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
      rm -rf "$lock"
    elif [ $said = no ]; then
      said=yes
      say "another set-up of this clone is at work, waiting for it (if there is none: rm -r $lock)"
    fi
    sleep 0.2
  done
  echo "$$" >"$lock/pid"
  # shellcheck disable=SC2064 # the directory of this call
  trap "rm -rf '$lock'" EXIT
}

# --- the environment -------------------------------------------------------------------------------------------------

# What the environment was made from; it is made anew when this changes or when the clone was moved.
wanted() { printf '%s\n' "$1" "$root" "${COORDKIT_PYTHON:-}" "$(cksum <"$root/pyproject.toml")"; }

is_installed() {
  local kind
  for kind in "$1" test; do # what the tests need includes what the demo needs
    if [ "$(cat "$root/.venv/.coordkit-$kind" 2>/dev/null)" = "$(wanted "$kind")" ]; then
      "$python" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("coordkit", "redis", "kazoo"))))' \
        2>/dev/null && return
    fi
  done
  return 1
}

install_package() {
  local base
  if [ -n "${COORDKIT_PYTHON:-}" ] && [ "$(minor "$COORDKIT_PYTHON")" != "$(minor "$python")" ]; then
    : # another Python was asked for than the environment has
  elif "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null &&
    "$python" -m pip --version >/dev/null 2>&1; then
    base=kept
  fi
  if [ -z "${base:-}" ]; then
    base=$(find_python)
    say "making .venv with Python $("$base" -c 'import platform; print(platform.python_version())') ($base)"
    "$base" -m venv --clear "$root/.venv" >&2 || stop "could not make $root/.venv with $base"
  fi
  rm -f "$root/.venv/".coordkit-*
  case $1 in
    demo)
      say "installing coordkit into .venv"
      pip_install -e '.[cli,hiredis]'
      ;;
    test)
      say "installing coordkit and its test dependencies into .venv (the first time a minute or so)"
      pip_install --upgrade 'pip>=25.1' # the first that reads dependency groups
      pip_install -e '.[cli,hiredis,testing]' --group dev
      ;;
  esac
  wanted "$1" >"$root/.venv/.coordkit-$1"
}

pip_install() {
  (cd "$root" && "$python" -m pip install -qq --disable-pip-version-check "$@") >&2 && return
  stop "pip could not install $*; it needs PyPI or a mirror of it (PIP_INDEX_URL), see above"
}

minor() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Print a Python from 3.10 on that can make environments.
find_python() {
  local candidates=(python3 python3.11 python3.12 python3.13 python3.10 python) one found=()
  [ -z "${COORDKIT_PYTHON:-}" ] || candidates=("$COORDKIT_PYTHON")
  for one in "${candidates[@]}"; do
    # The names may be there and not run (pyenv), or run and be too old; a path in place of a name is for the message.
    one=$("$one" -c 'import sys; print(sys.executable if sys.version_info >= (3, 10) else "")' 2>/dev/null) || continue
    [ -z "$one" ] || found+=("$one")
  done
  for one in ${found[@]+"${found[@]}"}; do
    if "$one" -c 'import venv, ensurepip' 2>/dev/null; then
      printf '%s\n' "$one"
      return
    fi
  done
  if [ ${#found[@]} -gt 0 ]; then
    # Debian keeps venv in a package of its own.
    one=${found[0]}
    if may_apt && [ "$("$one" -c 'import sys; print(sys.base_prefix)')" = /usr ]; then
      apt_install "python$(minor "$one")-venv"
      if "$one" -c 'import venv, ensurepip' 2>/dev/null; then
        printf '%s\n' "$one"
        return
      fi
    fi
    stop "$one has no venv module; on Debian or Ubuntu:" "sudo apt-get install python$(minor "$one")-venv"
  elif [ -z "${COORDKIT_PYTHON:-}" ] && may_apt; then
    apt_install python3 python3-venv
    if /usr/bin/python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo /usr/bin/python3
      return
    fi
  fi
  stop "no Python 3.10 or newer found${COORDKIT_PYTHON:+ as COORDKIT_PYTHON=$COORDKIT_PYTHON}; get one, or name one:" \
    "sudo apt-get install python3 python3-venv      # Debian 12 or newer" \
    "brew install python@3.12                       # macOS" \
    "COORDKIT_PYTHON=/path/to/python3.12 $0"
}

# --- the servers -----------------------------------------------------------------------------------------------------

# coordkit itself decides what it can start; one line per server that it cannot: "redis: no redis-server ...".
missing_servers() {
  # shellcheck disable=SC2086 # kinds are words
  "$python" -c 'import sys
from coordkit.testing.processes import missing
for kind in sys.argv[1:]:
    lacks = missing(kind)
    if lacks: print(f"{kind}: {lacks}")' $kinds
}

# The choice of containers is kept, with the images, so that the next run need not ask the registry again.
servers_known() {
  local lacks
  lacks=$(missing_servers 2>/dev/null) || return
  if [ -f "$root/.venv/.coordkit-containers" ]; then
    # Binaries may have come since; an engine may have gone.
    [ -n "$lacks" ] && engine_answers
  else
    [ -z "$lacks" ]
  fi
}

use_found_servers() {
  if [ -f "$root/.venv/.coordkit-containers" ]; then
    local redis zookeeper
    { read -r redis && read -r zookeeper; } <"$root/.venv/.coordkit-containers"
    export COORDKIT_REDIS_IMAGE="${COORDKIT_REDIS_IMAGE:-$redis}"
    export COORDKIT_ZOOKEEPER_IMAGE="${COORDKIT_ZOOKEEPER_IMAGE:-$zookeeper}"
  fi
}

engine_answers() { command -v docker >/dev/null && docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

find_servers() {
  local lacks packages=()
  rm -f "$root/.venv/.coordkit-containers"
  lacks=$(missing_servers) || stop "coordkit could not be asked which servers are there, see above"
  [ -n "$lacks" ] || return 0
  if engine_answers && find_images; then
    say "servers will run in containers ($COORDKIT_REDIS_IMAGE, $COORDKIT_ZOOKEEPER_IMAGE)"
    "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("testcontainers") is None)' ||
      pip_install -e '.[cli,hiredis,testing]'
    printf '%s\n' "$COORDKIT_REDIS_IMAGE" "$COORDKIT_ZOOKEEPER_IMAGE" >"$root/.venv/.coordkit-containers"
    return
  fi
  if may_apt; then
    case $lacks in *redis:*) packages+=(redis-server) ;; esac
    case $lacks in *"no java"*) packages+=(default-jre-headless) ;; esac
    case $lacks in *"no zookeeper.jar"*) packages+=(libzookeeper-java) ;; esac
    apt_install "${packages[@]}"
    lacks=$(missing_servers)
    [ -n "$lacks" ] || return 0
  fi
  stop "these servers are missing, and there is neither a Docker engine that can run them nor apt with root's rights:" \
    "${lacks//$'\n'/$'\n    '}" "" "Install them:" \
    "sudo apt-get install --no-install-recommends redis-server default-jre-headless libzookeeper-java   # Debian, Ubuntu" \
    "brew install redis zookeeper                                                                       # macOS" \
    "or start Docker, and run this again"
}

# Images that are there or can be pulled; our stand-ins count (compose/build-images makes them).
find_images() {
  COORDKIT_REDIS_IMAGE=$(first_image "${COORDKIT_REDIS_IMAGE:-}" coordkit/redis:local redis:7.4) &&
    COORDKIT_ZOOKEEPER_IMAGE=$(first_image "${COORDKIT_ZOOKEEPER_IMAGE:-}" coordkit/zookeeper:local zookeeper:3.8)
}

first_image() { # asked for by name or empty, stand-in, official
  local image
  for image in ${1:-"$2" "$3"}; do
    if docker image inspect "$image" >/dev/null 2>&1; then
      echo "$image"
      return
    fi
  done
  image=${1:-$3}
  say "pulling $image"
  if ! docker pull -q "$image" >&2; then
    say "a Docker engine answers, but it cannot get $image"
    return 1
  fi
  echo "$image"
}

# --- apt -------------------------------------------------------------------------------------------------------------

may_apt() { [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ] && command -v apt-get >/dev/null; }

# Install packages quietly and start no service: our servers are children of our own processes, on ports of their own.
apt_install() {
  local log policy=/usr/sbin/policy-rc.d
  say "installing with apt: $*"
  log=$(mktemp)
  if ! (
    if [ ! -e $policy ]; then
      trap 'rm -f $policy' EXIT
      printf '#!/bin/sh\nexit 101\n' >$policy
      chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=120 update || echo "apt-get update failed, trying with the lists that are there"
    apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@"
  ) >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    stop "apt could not install $*, see above"
  fi
  rm -f "$log"
  # Nor should a boot start the service that came with a package which nobody else asked for.
  case " $* " in
    *" redis-server "*) [ ! -d /run/systemd/system ] || systemctl disable --now redis-server.service >/dev/null 2>&1 || true ;;
  esac
}
