#!/bin/sh
# Write zoo.cfg from the official image's variables and become ZooKeeper, so that signals reach it.
#
#   ZOO_MY_ID                     1         ZOO_SERVERS                   server.1=localhost:2888:3888;2181
#   ZOO_TICK_TIME                 2000      ZOO_STANDALONE_ENABLED        true
#   ZOO_INIT_LIMIT                5         ZOO_SYNC_LIMIT                2
#   ZOO_MAX_CLIENT_CNXNS          60        ZOO_4LW_COMMANDS_WHITELIST    srvr
#   ZOO_AUTOPURGE_PURGEINTERVAL   0         ZOO_AUTOPURGE_SNAPRETAINCOUNT 3
#   ZOO_DATA_DIR                  /data     ZOO_DATA_LOG_DIR              /datalog
#   ZOO_ADMINSERVER_ENABLED       true      ZOO_CFG_EXTRA                 more lines, separated by spaces
#   JVMFLAGS                      given to java
set -eu

if [ "$*" != "zkServer.sh start-foreground" ]; then
  exec "$@"
fi

mkdir -p "$ZOO_DATA_DIR" "$ZOO_DATA_LOG_DIR"
config=$ZOO_CONF_DIR/zoo.cfg
if [ ! -f "$config" ]; then
  {
    echo "dataDir=$ZOO_DATA_DIR"
    echo "dataLogDir=$ZOO_DATA_LOG_DIR"
    echo "tickTime=${ZOO_TICK_TIME:-2000}"
    echo "initLimit=${ZOO_INIT_LIMIT:-5}"
    echo "syncLimit=${ZOO_SYNC_LIMIT:-2}"
    echo "autopurge.snapRetainCount=${ZOO_AUTOPURGE_SNAPRETAINCOUNT:-3}"
    echo "autopurge.purgeInterval=${ZOO_AUTOPURGE_PURGEINTERVAL:-0}"
    echo "maxClientCnxns=${ZOO_MAX_CLIENT_CNXNS:-60}"
    echo "standaloneEnabled=${ZOO_STANDALONE_ENABLED:-true}"
    echo "admin.enableServer=${ZOO_ADMINSERVER_ENABLED:-true}"
    echo "4lw.commands.whitelist=${ZOO_4LW_COMMANDS_WHITELIST:-srvr}"
    servers=${ZOO_SERVERS:-server.1=localhost:2888:3888;2181}
    # An entry that names its client port after ';' says it itself; naming it twice is refused.
    case $servers in
      *\;*) ;;
      *) echo "clientPort=2181" ;;
    esac
    for line in $servers ${ZOO_CFG_EXTRA:-}; do
      echo "$line"
    done
  } >"$config"
fi
[ -f "$ZOO_DATA_DIR/myid" ] || echo "${ZOO_MY_ID:-1}" >"$ZOO_DATA_DIR/myid"

if [ "$(id -u)" = 0 ]; then
  chown -R zookeeper:zookeeper "$ZOO_DATA_DIR" "$ZOO_DATA_LOG_DIR" "$ZOO_CONF_DIR"
  set -- setpriv --reuid=zookeeper --regid=zookeeper --init-groups
else
  set --
fi
jars=/usr/share/java
classpath=$jars/zookeeper.jar:$jars/slf4j-simple.jar # the first names most of what it needs, not what the admin server does
for name in jetty9-server jetty9-servlet jetty9-http jetty9-io jetty9-security jetty9-util jetty9-util-ajax servlet-api \
  jackson-core jackson-databind jackson-annotations; do
  classpath=$classpath:$jars/$name.jar
done
# A node for tests: a small heap, one simple collector, no optimising compiler. JVMFLAGS come later and win.
# shellcheck disable=SC2086 # JVMFLAGS are several words
exec "$@" java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData -Xmx128m \
  -Djava.net.preferIPv4Stack=true -Dorg.slf4j.simpleLogger.showDateTime=true ${JVMFLAGS:-} \
  -cp "$classpath" \
  org.apache.zookeeper.server.quorum.QuorumPeerMain "$config"
