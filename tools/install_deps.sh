#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that building, running and testing need; does nothing when all are
# there.
set -eu
packages="gcc libc6-dev make meson ninja-build pkg-config
libjansson-dev libpcre2-dev libutf8proc-dev libjpeg62-turbo-dev libspng-dev libwebp-dev libgif-dev
libedit-dev libcurl4-openssl-dev libssl-dev zlib1g-dev"
test_packages="libcmocka-dev clang clang-format libclang-rt-14-dev libomp-14-dev python3
binutils"
[ "${1:-}" = test ] && packages="$packages $test_packages"

missing=
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "installing:$missing"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing \
    >/dev/null
