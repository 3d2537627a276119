#!/usr/bin/env bash
# An authority of its own and a certificate of it for 127.0.0.1, for tests with TLS:
# FOLDER/ca.pem, FOLDER/server.pem, FOLDER/server.key
#
#   certificates.sh FOLDER
set -euo pipefail
cd "$1"
if ! command -v openssl >/dev/null; then
  echo "the tests with TLS need openssl, which is missing: install it (Debian: openssl)" >&2
  exit 3
fi
ec() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "$@" 2>/dev/null; }
ec -subj /CN=authority -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE
ec -subj /CN=server -keyout server.key -out server.pem -CA ca.pem -CAkey ca.key \
  -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1
