#!/usr/bin/env bash
# One CrowdSec Local API for tests: Debian's package, taken apart into a cache outside this repository and
# not installed, then a server on loopback in a folder of the caller's. It runs in the foreground; its log
# is FOLDER/crowdsec.log. When standard input closes, it is killed.
#
#   lapi.sh fetch                 only fill the cache
#   lapi.sh run FOLDER PORT       with the machine `portcullis`, whose password is `machine-secret`
#   lapi.sh cscli FOLDER ...      its command line, as an operator would use it
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/crowdsec-1.4

need() {
  command -v "$1" >/dev/null && return
  echo "the tests with a real CrowdSec need $1, which is missing: install $2" >&2
  exit 3
}

fetch() {
  [ -e "$cache/complete" ] && return
  need apt-get "Debian 12 or a system with its packages"
  need dpkg-deb "dpkg"
  mkdir -p "$(dirname "$cache")"
  local part
  part=$(mktemp -d "$cache.XXXXXX")
  if ! (cd "$part" && apt-get -q download -o APT::Sandbox::User=root crowdsec >&2); then
    rm -rf "$part"
    echo "apt-get could not fetch the package crowdsec; see what it says above" >&2
    exit 3
  fi
  dpkg-deb -x "$part"/crowdsec_*.deb "$part"
  rm "$part"/crowdsec_*.deb
  if ! "$part/usr/bin/crowdsec" -version >/dev/null 2>&1; then
    rm -rf "$part"
    echo "Debian's crowdsec does not run here; it needs libsqlite3-0" >&2
    exit 3
  fi
  touch "$part/complete"
  # Whoever comes second finds it done.
  mv -T "$part" "$cache" 2>/dev/null || rm -rf "$part"
}

case ${1:-} in
fetch) fetch; exit 0 ;;
run) [ $# -eq 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; } ;;
cscli) shift; folder=$1; shift; exec "$cache/usr/bin/cscli" -c "$folder/config.yaml" "$@" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
fetch
folder=$2 port=$3
mkdir -p "$folder/data" "$folder/hub" "$folder/notifications" "$folder/plugins"
cp -r "$cache/etc/crowdsec/patterns" "$folder/patterns"
echo "{}" >"$folder/hub/.index.json"
echo "simulation: false" >"$folder/simulation.yaml"
: >"$folder/acquis.yaml"
cp "$cache/etc/crowdsec/profiles.yaml" "$folder/profiles.yaml"
cat >"$folder/config.yaml" <<CONFIG
common: { daemonize: false, log_media: stdout, log_level: info, working_dir: $folder }
config_paths:
  config_dir: $folder
  data_dir: $folder/data
  simulation_path: $folder/simulation.yaml
  hub_dir: $folder/hub
  index_path: $folder/hub/.index.json
  notification_dir: $folder/notifications
  plugin_dir: $folder/plugins
crowdsec_service: { acquisition_path: $folder/acquis.yaml }
cscli: { output: human }
db_config: { type: sqlite, db_path: $folder/data/crowdsec.db, use_wal: false }
plugin_config: { user: nobody, group: nogroup }
api:
  client: { insecure_skip_verify: false, credentials_path: $folder/credentials.yaml }
  server: { log_level: info, listen_uri: 127.0.0.1:$port, profiles_path: $folder/profiles.yaml }
prometheus: { enabled: false }
CONFIG
"$cache/usr/bin/cscli" -c "$folder/config.yaml" machines add portcullis --password machine-secret \
  --url "http://127.0.0.1:$port" --file "$folder/credentials.yaml" --force >>"$folder/crowdsec.log" 2>&1
"$cache/usr/bin/crowdsec" -c "$folder/config.yaml" -no-cs >>"$folder/crowdsec.log" 2>&1 </dev/null &
server=$!
trap 'kill -9 $server 2>/dev/null' EXIT
# Whoever started this has gone when its end of the pipe is closed.
cat >/dev/null
