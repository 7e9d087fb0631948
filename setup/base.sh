#!/bin/sh
# Makes sure that everything a build needs is on this machine: Rust, a C and a C++ compiler and
# make (for librdkafka, which is built from source), and curl for the README's examples; with the
# argument "test" also Python with venv, for the tests of other clients, and valgrind where apt has
# it, which counts instructions. Installs
# what is missing on Debian and Ubuntu when it may (root, or sudo without a password); otherwise
# prints the one line to run. Java 17 and Maven are only looked for: only the tests against
# Apache Kafka need them.
#
# Exit codes: 0 all there; 3 something must be installed by hand (the message says what);
# 1 the installation failed.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin

has() { command -v "$1" >/dev/null 2>&1; }

packages=
has cc && [ -e /usr/include/stdlib.h ] || packages="$packages gcc libc6-dev"
has c++ || packages="$packages g++"
has make || packages="$packages make"
has bash || packages="$packages bash"
has curl || packages="$packages curl"
# The tests have Python clients at the embedded broker.
if [ "${1:-}" = test ] && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    packages="$packages python3-venv"
fi
if [ "${1:-}" = test ] && has apt-get && ! has valgrind; then
    packages="$packages valgrind"
fi

if [ -n "$packages" ]; then
    line="apt-get install -y --no-install-recommends$packages"
    as_root=
    if ! has apt-get; then
        echo "setup/base.sh: missing here, under their Debian names:$packages" >&2
        echo "Install them with this system's package manager and try again." >&2
        exit 3
    elif [ "$(id -u)" -ne 0 ]; then
        if has sudo && sudo -n true 2>/dev/null; then
            as_root="sudo -n"
        else
            echo "setup/base.sh: missing:$packages. Run this and try again:" >&2
            echo "  sudo $line" >&2
            exit 3
        fi
    fi
    echo "Installing$packages ..." >&2
    export DEBIAN_FRONTEND=noninteractive
    # Only a machine whose package lists are missing or out of date needs the second try.
    if ! $as_root $line </dev/null >&2; then
        $as_root apt-get update </dev/null >&2 && $as_root $line </dev/null >&2 || {
            echo "setup/base.sh: apt could not install them; the lines above say why. By hand:" >&2
            echo "  sudo apt-get update && sudo $line" >&2
            exit 1
        }
    fi
fi

if ! has cargo; then
    echo "setup/base.sh: Rust is missing. Install it from https://rustup.rs, then try again." >&2
    exit 3
fi
# rustup answers with the version that rust-toolchain.toml names, and fetches it the first time.
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
found=$(cargo --version | cut -d ' ' -f 2)
if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "setup/base.sh: Rust $wanted or later is needed, cargo here is $found." >&2
    echo "Install Rust from https://rustup.rs; it follows rust-toolchain.toml by itself." >&2
    exit 3
fi

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
if ! has "$java" || ! has mvn; then
    [ "${1:-}" != test ] || {
        echo "Note: Java 17 or Maven is missing. All works without them but the tests against" >&2
        echo "Apache Kafka. To run those too:  apt-get install -y openjdk-17-jdk-headless maven" >&2
    }
fi
