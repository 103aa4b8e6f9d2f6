#!/bin/sh
# Start redis-server with the conventions of the official image: options alone mean redis-server, and clients from
# other hosts are let in (Debian's binary would refuse them without a password). Later options win over ours.
set -eu

case "${1:-}" in
  '' | -* | *.conf) set -- redis-server "$@" ;;
esac

if [ "$1" = redis-server ]; then
  shift
  case "${1:-}" in
    '' | -*) set -- redis-server --protected-mode no "$@" ;;
    *) # a configuration file comes first
      file=$1
      shift
      set -- redis-server "$file" --protected-mode no "$@"
      ;;
  esac
  if [ "$(id -u)" = 0 ]; then
    find /data ! -user redis -exec chown redis:redis '{}' +
    set -- setpriv --reuid=redis --regid=redis --init-groups "$@"
  fi
fi

exec "$@"
