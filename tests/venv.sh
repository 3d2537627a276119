#!/usr/bin/env bash
# Makes a virtual environment with packages from PyPI in a cache outside this repository, if it is not there,
# and prints its interpreter.
#
#   venv.sh NAME WHAT PACKAGE...     WHAT needs it, for messages
set -euo pipefail
name=$1 what=$2
shift 2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/$name

if ! command -v python3 >/dev/null; then
  echo "$what need python3, which is missing: install Python 3.9 or newer" >&2
  exit 3
fi
if [ ! -e "$cache/complete" ]; then
  mkdir -p "$(dirname "$cache")"
  part=$(mktemp -d "$cache.XXXXXX")
  if ! { python3 -m venv "$part" && "$part/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; } >&2; then
    rm -rf "$part"
    echo "pip could not fetch $*; see what it says above (Debian: python3-venv)" >&2
    exit 3
  fi
  touch "$part/complete"
  # Whoever comes second finds it done.
  mv -T "$part" "$cache" 2>/dev/null || rm -rf "$part"
fi
echo "$cache/bin/python"
