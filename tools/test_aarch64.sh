#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds for arm64 and runs the device's tests and the bundled model's recorded runs under qemu-user,
# on a processor that has every extension and on one that has none; then asks the bundled model at
# each level. Takes minutes.
#
#   test_aarch64.sh [TEST...]    other tests, by their names in `meson test --list`
#
# Needs what `install_deps.sh test` installs. The libraries for arm64 come from Debian into a
# directory of their own: the system is not changed, and no rights are needed.
set -eu
cd "$(dirname "$0")/.."
build='build-aarch64'
sysroot=$PWD/$build-sysroot

missing=
for tool in aarch64-linux-gnu-gcc qemu-aarch64 meson ninja pkg-config apt-get dpkg-deb; do
    command -v $tool >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    echo "arm64: not installed:$missing; on Debian \`tools/install_deps.sh test\` installs all" >&2
    exit 1
fi

# Debian's packages and all they need, unpacked: apt with state of its own and nothing installed.
fill_sysroot() { # PACKAGE...
    rm -rf "$sysroot"
    mkdir -p "$sysroot/apt/lists/partial" "$sysroot/apt/archives/partial"
    : >"$sysroot/apt/status"
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$key] http://deb.debian.org/debian $codename main" \
        >"$sysroot/apt/sources.list"
    cat >"$sysroot/apt/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::State "$sysroot/apt";
Dir::State::lists "$sysroot/apt/lists";
Dir::State::status "$sysroot/apt/status";
Dir::Cache "$sysroot/apt";
Dir::Cache::archives "$sysroot/apt/archives";
Dir::Etc::sourcelist "$sysroot/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
END
    APT_CONFIG=$sysroot/apt/apt.conf apt-get update -qq
    APT_CONFIG=$sysroot/apt/apt.conf apt-get install -y -qq --download-only "$@" >/dev/null
    for package in "$sysroot"/apt/archives/*.deb; do dpkg-deb -x "$package" "$sysroot"; done
    # links to absolute paths lead out of the directory
    find "$sysroot/usr/lib" "$sysroot/lib" -type l -lname '/*' | while read -r link; do
        ln -sfnr "$sysroot$(readlink "$link")" "$link"
    done
    rm -rf "$sysroot/apt"
    echo "$*" >"$sysroot/packages"
}

packages="libc6-dev $(tools/install_deps.sh libraries)"
# shellcheck disable=SC2086
[ "$(cat "$sysroot/packages" 2>/dev/null)" = "$packages" ] || fill_sysroot $packages

printf "[constants]\nsysroot = '%s'\n" "$sysroot" >"$sysroot/meson.ini"
[ -f $build/build.ninja ] ||
    meson setup $build --cross-file "$sysroot/meson.ini" --cross-file tools/aarch64.cross >/dev/null

test_all() { # TEST...
    meson test -C $build --no-rebuild --print-errorlogs --timeout-multiplier 10 --num-processes 2 "$@"
}

ask() { # LEVEL OPTION...
    level=$1
    shift
    answer=$(qemu-aarch64 -L "$sysroot" $build/cli/llava run models/demo --cpu-level "$level" "$@" \
        --image models/demo/pictures/dog.png 'What is this?')
    echo "$level $* answers: $answer"
    [ "$answer" = 'dog face' ]
}

ninja -C $build --quiet
if [ $# -gt 0 ]; then
    test_all "$@"
    exit
fi
set -- kernels linear linear_quant ops attention 'demo traces in float32' 'demo traces in bfloat16'
test_all "$@"
echo "on a processor without extensions:"
QEMU_CPU=cortex-a57 test_all "$@"
for level in c neon neonbf16; do
    ask "$level" --torch-dtype bfloat16
    ask "$level" --load-4bit
    ask "$level" --load-8bit
done
