#!/usr/bin/env bash
# One SMTP server for tests: PyPI's aiosmtpd in an environment of its own, in a cache outside this
# repository. It runs in the foreground and writes what it receives to FOLDER/mails, one JSON object per
# line. It prints its port. When standard input closes, it ends.
#
#   smtp.sh fetch                 only fill the cache
#   smtp.sh run FOLDER KIND       KIND is plain, starttls or tls
#
# With the last two it has a certificate for localhost from an authority of its own (FOLDER/ca.pem), and
# takes messages only from the user `tester` with the password `smtp-secret`.
set -euo pipefail
version=${AIOSMTPD_VERSION:-1.4.6}
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/aiosmtpd-$version

need() {
  command -v "$1" >/dev/null && return
  echo "the tests with a real SMTP server need $1, which is missing: install $2" >&2
  exit 3
}

fetch() {
  [ -e "$cache/complete" ] && return
  need python3 "Python 3 with venv (Debian: python3-venv)"
  mkdir -p "$(dirname "$cache")"
  # Its programs know their own place, so it is made where it stays; whoever comes second waits.
  exec 9>"$cache.lock"
  flock 9
  [ -e "$cache/complete" ] && { exec 9>&-; return; }
  rm -rf "$cache"
  if ! python3 -m venv "$cache" >&2 || ! "$cache/bin/pip" install -q "aiosmtpd==$version" >&2; then
    echo "pip could not install aiosmtpd $version; see what it says above" >&2
    exit 3
  fi
  touch "$cache/complete"
  # The server that comes next must not hold the lock.
  exec 9>&-
}

case ${1:-} in
fetch) fetch; exit 0 ;;
run) [ $# -eq 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; } ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
fetch
folder=$2 kind=$3
if [ "$kind" != plain ]; then
  need openssl "openssl"
  (
    cd "$folder"
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=test authority" \
      -keyout ca.key -out ca.pem
    openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout key.pem -out server.csr
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >extensions
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
      -extfile extensions -out cert.pem
  ) >"$folder/openssl.log" 2>&1
fi
exec "$cache/bin/python" "$here/server.py" "$folder" "$kind"
