#!/bin/sh
# Write zoo.cfg from the official image's variables and become ZooKeeper, so that signals reach it.
#
#   ZOO_MY_ID                   1      ZOO_SERVERS     none: standalone; else "server.1=zk1:2888:3888;2181 server.2=..."
#   ZOO_TICK_TIME               2000   ZOO_INIT_LIMIT  5      ZOO_SYNC_LIMIT  2      ZOO_MAX_CLIENT_CNXNS  60
#   ZOO_4LW_COMMANDS_WHITELIST  srvr   ZOO_CFG_EXTRA   more lines, separated by spaces      JVMFLAGS  given to java
set -eu

if [ "$*" != "zkServer.sh start-foreground" ]; then
  exec "$@"
fi

config=$ZOO_CONF_DIR/zoo.cfg
if [ ! -f "$config" ]; then
  {
    echo "dataDir=$ZOO_DATA_DIR"
    echo "tickTime=${ZOO_TICK_TIME:-2000}"
    echo "initLimit=${ZOO_INIT_LIMIT:-5}"
    echo "syncLimit=${ZOO_SYNC_LIMIT:-2}"
    echo "maxClientCnxns=${ZOO_MAX_CLIENT_CNXNS:-60}"
    echo "4lw.commands.whitelist=${ZOO_4LW_COMMANDS_WHITELIST:-srvr}"
    echo "admin.enableServer=false"
    # An entry that names its client port after ';' says it itself; naming it twice is refused.
    case "${ZOO_SERVERS:-}" in
      *\;*) ;;
      *) echo "clientPort=2181" ;;
    esac
    for line in ${ZOO_SERVERS:-} ${ZOO_CFG_EXTRA:-}; do
      echo "$line"
    done
  } >"$config"
fi
[ -f "$ZOO_DATA_DIR/myid" ] || echo "${ZOO_MY_ID:-1}" >"$ZOO_DATA_DIR/myid"

if [ "$(id -u)" = 0 ]; then
  chown -R zookeeper:zookeeper "$ZOO_DATA_DIR" "$ZOO_CONF_DIR"
  set -- setpriv --reuid=zookeeper --regid=zookeeper --init-groups
else
  set --
fi
# A node for tests: a small heap, one simple collector, no optimising compiler. JVMFLAGS come later and win.
# shellcheck disable=SC2086 # JVMFLAGS are several words
exec "$@" java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData -Xmx128m \
  -Djava.net.preferIPv4Stack=true -Dorg.slf4j.simpleLogger.showDateTime=true ${JVMFLAGS:-} \
  -cp /usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar \
  org.apache.zookeeper.server.quorum.QuorumPeerMain "$config"
