#!/usr/bin/env bash
# One Prometheus Alertmanager for tests: the package of this machine's Debian, unpacked into a cache
# outside this repository, on a free port of loopback, without its cluster. It runs in the foreground
# and says on standard error where it listens. When standard input closes, it ends.
#
#   alertmanager.sh fetch           only fill the cache
#   alertmanager.sh run FOLDER [PORT]
#
# Debian builds the path of its templates into it; where they are not, they are shown to it alone, in
# a mount namespace of its own.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/alertmanager
templates=usr/share/prometheus/alertmanager

need() {
  command -v "$1" >/dev/null && return
  echo "the tests with a real Alertmanager need $1, which is missing: install $2" >&2
  exit 3
}

fetch() {
  [ -e "$cache/complete" ] && return
  need apt-get "Debian's apt, or unpack its package prometheus-alertmanager into $cache and make the file complete there"
  need dpkg "Debian's dpkg"
  mkdir -p "$(dirname "$cache")"
  local part
  part=$(mktemp -d "$cache.XXXXXX")
  if ! (cd "$part" && apt-get -o APT::Sandbox::User=root download prometheus-alertmanager) >&2; then
    rm -rf "$part"
    echo "apt-get could not download prometheus-alertmanager; see what it says above (apt-get update?)" >&2
    exit 3
  fi
  dpkg -x "$part"/prometheus-alertmanager_*.deb "$part" && rm "$part"/*.deb
  touch "$part/complete"
  # Whoever comes second finds it done.
  mv -T "$part" "$cache" 2>/dev/null || rm -rf "$part"
}

case ${1:-} in
fetch) fetch; exit 0 ;;
run) [ $# -ge 2 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; } ;;
inside)
  mount -t tmpfs tmpfs /usr/share
  mkdir -p "/$templates"
  cp -r "$cache/$templates/." "/$templates"
  shift
  exec "$@"
  ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
fetch
folder=$2 port=${3:-0}
mkdir -p "$folder"
cat >"$folder/alertmanager.yml" <<YAML
route: { receiver: nobody }
receivers: [{ name: nobody }]
YAML
command=("$cache/usr/bin/prometheus-alertmanager" --config.file="$folder/alertmanager.yml"
  --storage.path="$folder/data" --cluster.listen-address= --web.listen-address="127.0.0.1:$port")
if [ ! -e "/$templates/default.tmpl" ]; then
  need unshare "util-linux"
  command=(unshare --map-root-user --mount bash "$0" inside "${command[@]}")
fi
# Whoever started this holds its standard input; when that closes, the server is of no more use.
exec 3<&0
(cat <&3 >/dev/null; kill -9 $$; rm -rf "$folder") 2>/dev/null &
exec "${command[@]}"
