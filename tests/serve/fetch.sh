#!/usr/bin/env bash
# Clients for the tests of the HTTP server: fetched once by pip into a cache outside this
# repository.
#
#   fetch.sh fetch              only fill the cache
#   fetch.sh python ARGS...     the interpreter that has them
#   fetch.sh schemathesis ARGS...
set -euo pipefail
version=1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/serve-clients-$version

fetch() {
  [ -e "$cache/complete" ] && return
  if ! python3 -m venv --help >/dev/null 2>&1; then
    echo "the tests of the HTTP server need Python with venv (Debian: python3-venv)" >&2
    exit 3
  fi
  mkdir -p "$cache"
  # A folder of this kind cannot be moved: whoever comes second waits.
  exec 9>"$cache.lock"
  flock 9
  [ -e "$cache/complete" ] && return
  if ! python3 -m venv "$cache" >&2 ||
    ! "$cache/bin/pip" install --quiet --disable-pip-version-check \
      'schemathesis==4.32.5' 'prometheus_client==0.26.0' >&2; then
    echo "pip could not fetch schemathesis and prometheus_client; see what it says above" >&2
    exit 3
  fi
  touch "$cache/complete"
}

case ${1:-} in
fetch) fetch ;;
python | schemathesis)
  fetch
  exec 9>&-
  program=$1
  shift
  exec "$cache/bin/$program" "$@"
  ;;
*)
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
