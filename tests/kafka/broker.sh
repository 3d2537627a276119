#!/usr/bin/env bash
# One Apache Kafka broker for tests: fetched once by Maven into a cache outside this repository,
# then one node on loopback in a folder of the caller's. It runs in the foreground; its log is
# FOLDER/broker.log. A second run with the same folder goes on with what is in it. When standard
# input closes, the broker is killed and the folder removed.
#
#   broker.sh fetch                 only fill the cache
#   broker.sh run FOLDER PORT CONTROLLER_PORT [SASL_PORT]
#
# With SASL_PORT there is a listener with TLS, too, with a certificate made on the spot
# (FOLDER/ca.pem). By SCRAM and PLAIN it lets in the user `tester` with the password
# `tester-secret`; by OAUTHBEARER whoever has a token, unsigned, with the scope `logs`,
# for as long as that token lives.
set -euo pipefail
version=${KAFKA_VERSION:-4.1.0}
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/kafka-$version

need() {
  command -v "$1" >/dev/null && return
  echo "the tests with a real Kafka broker need $1, which is missing: install $2" >&2
  exit 3
}
need java "a Java runtime, version 17 or newer (Debian: openjdk-17-jre-headless)"
java_version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
if [ "${java_version:-0}" -lt 17 ]; then
  echo "the tests with a real Kafka broker need Java 17 or newer, and \`java\` is version ${java_version:-unknown}" >&2
  exit 3
fi

fetch() {
  [ -e "$cache/complete" ] && return
  need mvn "Maven (Debian: maven)"
  mkdir -p "$(dirname "$cache")"
  local part
  part=$(mktemp -d "$cache.XXXXXX")
  if ! mvn -q -B -f "$here/pom.xml" -Dkafka.version="$version" dependency:copy-dependencies \
    -DoutputDirectory="$part" >&2; then
    rm -rf "$part"
    echo "Maven could not fetch org.apache.kafka:kafka_2.13:$version; see what it says above" >&2
    exit 3
  fi
  touch "$part/complete"
  # Whoever comes second finds it done.
  mv -T "$part" "$cache" 2>/dev/null || rm -rf "$part"
}

case ${1:-} in
fetch) fetch; exit 0 ;;
run) [ $# -ge 4 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; } ;;
*) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
fetch
folder=$2 port=$3 controller=$4 sasl=${5:-}
mkdir -p "$folder"
listeners="PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller"
advertised="PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller"
protocols="PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
if [ -n "$sasl" ]; then
  listeners+=",SASL://127.0.0.1:$sasl"
  advertised+=",SASL://127.0.0.1:$sasl"
  protocols+=",SASL:SASL_SSL"
fi
cat >"$folder/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=$listeners
advertised.listeners=$advertised
listener.security.protocol.map=$protocols
inter.broker.listener.name=PLAINTEXT
log.dirs=$folder/data
num.partitions=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=500
log.segment.delete.delay.ms=100
log.cleaner.backoff.ms=200
PROPERTIES
if [ -n "$sasl" ] && [ ! -e "$folder/broker.p12" ]; then
  keytool -genkeypair -alias broker -keyalg EC -groupname secp256r1 -dname CN=127.0.0.1 \
    -ext san=ip:127.0.0.1 -validity 2 -storetype PKCS12 -keystore "$folder/broker.p12" \
    -storepass changeit >/dev/null 2>&1
  keytool -exportcert -rfc -alias broker -keystore "$folder/broker.p12" -storepass changeit \
    >"$folder/ca.pem" 2>/dev/null
fi
if [ -n "$sasl" ]; then
  cat >>"$folder/server.properties" <<PROPERTIES
listener.name.sasl.ssl.keystore.location=$folder/broker.p12
listener.name.sasl.ssl.keystore.password=changeit
listener.name.sasl.ssl.keystore.type=PKCS12
listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN,OAUTHBEARER
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_tester="tester-secret";
listener.name.sasl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker" unsecuredValidatorRequiredScope="logs";
listener.name.sasl.oauthbearer.connections.max.reauth.ms=3600000
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
PROPERTIES
fi
# Short runs: little heap, and no time for the better compiler.
java_run() { java -Xmx384m -Xms128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$cache/*" "$@"; }
export JAVA_TOOL_OPTIONS=
if [ ! -e "$folder/data/meta.properties" ]; then
  scram=()
  [ -n "$sasl" ] && scram=(--add-scram 'SCRAM-SHA-512=[name=tester,password=tester-secret]')
  java_run kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw -c "$folder/server.properties" \
    --standalone "${scram[@]}" >"$folder/format.log" 2>&1 || { cat "$folder/format.log" >&2; exit 1; }
fi
# Whoever started this holds its standard input; when that closes, the broker is of no more use.
exec 3<&0
(cat <&3 >/dev/null; kill -9 $$; sleep 1; rm -rf "$folder") 2>/dev/null &
# The broker is this process from here on, so that a signal to it is a signal to the broker.
exec java -Xmx384m -Xms128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$cache/*" kafka.Kafka "$folder/server.properties" \
  >"$folder/broker.log" 2>&1
