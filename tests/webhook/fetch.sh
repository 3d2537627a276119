#!/usr/bin/env bash
# What the tests of messages to others need beside Rust: the verifiers of others, from PyPI. Prints the
# interpreter that has them.
#
#   fetch.sh        fill the cache, if it is not full
set -euo pipefail
exec bash "$(dirname "$0")/../venv.sh" verifiers-1 "the tests with real receivers of webhooks" \
  standardwebhooks==1.1.0 cloudevents==2.2.0 py-ocsf-models==0.10.0
