#!/usr/bin/env bash
# Fetches all that the tests need beside Rust: real brokers, bouncers, firewalls, servers and verifiers,
# from Maven, Debian, PyPI and npm, once, into caches outside this repository. It says what is missing
# if it cannot. Without it, each test that needs one of them fetches it by itself.
set -euo pipefail
cd "$(dirname "$0")"
# What is downloaded must be among what the lists of packages know.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
  [ -z "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mtime -1 2>/dev/null | head -n 1)" ]; then
  apt-get -q update >/dev/null || echo "apt-get update failed: going on with the lists that are there" >&2
fi
bash kafka/broker.sh fetch
bash nftables/fetch.sh fetch
bash bouncers/fetch.sh fetch >/dev/null
bash alertmanager/alertmanager.sh fetch
bash crowdsec/lapi.sh fetch
bash mail/smtp.sh fetch
bash webhook/fetch.sh >/dev/null
bash fastapi/fetch.sh >/dev/null
bash serve/fetch.sh fetch
