#!/usr/bin/env bash
# The real clients that tests hang on the Local API and the lists: fetched once from Debian, PyPI and
# npm into a cache outside this repository, without installing anything. Prints the cache's folder:
#
#   root/    the unpacked packages: crowdsec-firewall-bouncer, crowdsec-custom-bouncer, nginx, haproxy
#   venv/    Python with pycrowdsec
#   node/    @crowdsec/nodejs-bouncer
#
#   fetch.sh fetch
set -euo pipefail
[ "${1:-}" = fetch ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/bouncers-1

need() {
  command -v "$1" >/dev/null && return
  echo "the tests with real bouncers need $1, which is missing: install $2" >&2
  exit 3
}
if [ ! -e "$cache/complete" ]; then
  need apt-get "Debian 12 or its kin, whose packages are fetched"
  need python3 "Python 3 with venv (Debian: python3-venv)"
  need npm "Node.js and npm (Debian: npm)"
  mkdir -p "$(dirname "$cache")"
  part=$(mktemp -d "$cache.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  chmod 755 "$part"
  packages=(crowdsec-firewall-bouncer crowdsec-custom-bouncer nginx haproxy
    liblua5.3-0 libopentracing-c-wrapper0 libopentracing1)
  (
    cd "$part"
    apt-get download -q "${packages[@]}" || { apt-get update -q && apt-get download -q "${packages[@]}"; }
    for package in *.deb; do dpkg -x "$package" root; done
    rm ./*.deb
  ) >&2 || { echo "apt-get could not download ${packages[*]}; see what it says above" >&2; exit 3; }
  { python3 -m venv "$part/venv" && "$part/venv/bin/python" -m pip install -q pycrowdsec==0.0.5; } >&2 ||
    { echo "pycrowdsec 0.0.5 could not be installed from PyPI; see what pip says above" >&2; exit 3; }
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$part/node" \
    @crowdsec/nodejs-bouncer@0.2.0 >&2 ||
    { echo "@crowdsec/nodejs-bouncer 0.2.0 could not be installed from npm; see what it says above" >&2; exit 3; }
  touch "$part/complete"
  # Whoever comes second finds it done.
  mv -T "$part" "$cache" 2>/dev/null || true
fi
echo "$cache"
