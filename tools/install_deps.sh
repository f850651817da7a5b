#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that building, running and testing need; does nothing when all are
# there. `install_deps.sh libraries` prints the libraries' names instead.
set -eu
libraries="libjansson-dev libpcre2-dev libutf8proc-dev libjpeg62-turbo-dev libspng-dev libwebp-dev
libgif-dev libedit-dev libcurl4-openssl-dev libssl-dev zlib1g-dev"
test_libraries="libcmocka-dev"
packages="gcc libc6-dev make meson ninja-build pkg-config $libraries"
test_packages="$test_libraries clang clang-format libclang-rt-14-dev libomp-14-dev python3
binutils"
# the tests on an emulated arm64; an arm64 machine runs them itself
[ "$(uname -m)" = aarch64 ] ||
    test_packages="$test_packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
case ${1:-} in
test) packages="$packages $test_packages" ;;
libraries)
    # shellcheck disable=SC2086
    echo $libraries $test_libraries
    exit 0
    ;;
esac

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
