#!/usr/bin/env bash
# What the tests with a real firewall need: nft, ip and ping. As root on Debian and its kin, what is
# missing is installed; otherwise this says what to install.
#
#   fetch.sh fetch
set -euo pipefail
[ "${1:-}" = fetch ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
# They stand in folders that are not on everybody's path.
PATH=$PATH:/usr/sbin:/sbin

missing() {
  local list=()
  command -v nft >/dev/null || list+=(nftables)
  command -v ip >/dev/null || list+=(iproute2)
  command -v ping >/dev/null || list+=(iputils-ping)
  echo "${list[*]}"
}
packages=$(missing)
[ -z "$packages" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "the tests with a real firewall need what is missing here: install $packages (names of Debian)" >&2
  exit 3
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # several names
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } >&2; then
  echo "apt-get could not install $packages; see what it says above" >&2
  exit 3
fi
