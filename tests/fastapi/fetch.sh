#!/usr/bin/env bash
# What the test of the FastAPI example needs beside Rust: FastAPI and uvicorn from PyPI, in a virtual
# environment in a cache outside this repository. Prints its interpreter.
#
#   fetch.sh        fill the cache, if it is not full
set -euo pipefail
packages=(fastapi==0.165.0 starlette==1.10.0 uvicorn==0.54.0 itsdangerous==2.2.0)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/fastapi-1

if ! command -v python3 >/dev/null; then
  echo "the test of the FastAPI example needs python3, which is missing: install Python 3.9 or newer" >&2
  exit 3
fi
if [ ! -e "$cache/complete" ]; then
  mkdir -p "$(dirname "$cache")"
  part=$(mktemp -d "$cache.XXXXXX")
  if ! { python3 -m venv "$part" && "$part/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"; } >&2; then
    rm -rf "$part"
    echo "pip could not fetch ${packages[*]}; see what it says above (Debian: python3-venv)" >&2
    exit 3
  fi
  touch "$part/complete"
  # Whoever comes second finds it done.
  mv -T "$part" "$cache" 2>/dev/null || rm -rf "$part"
fi
echo "$cache/bin/python"
