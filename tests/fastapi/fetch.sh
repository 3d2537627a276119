#!/usr/bin/env bash
# What the tests of the FastAPI example need beside Rust: FastAPI and uvicorn from PyPI. Prints the interpreter
# that has them.
#
#   fetch.sh        fill the cache, if it is not full
set -euo pipefail
exec bash "$(dirname "$0")/../venv.sh" fastapi-1 "the tests of the FastAPI example" \
  fastapi==0.165.0 starlette==1.10.0 uvicorn==0.54.0 itsdangerous==2.2.0
