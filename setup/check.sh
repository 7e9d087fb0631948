#!/bin/bash
# The quick look before a commit: format, lints, dependencies (when cargo-deny is installed), and
# the unit tests of the rooms that differ from the last commit, or from $BASE when it is set.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

mkdir -p target

say() { printf '\n== %s\n' "$*"; }

say "format"
cargo fmt --all -- --check

say "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

if cargo deny --version >/dev/null 2>&1; then
    say "dependencies: licences, bans, sources"
    cargo deny --locked check licenses bans sources
    if cargo deny --locked fetch db >target/deny-fetch.log 2>&1; then
        say "dependencies: advisories"
        cargo deny --locked check --disable-fetch advisories
    else
        say "dependencies: advisories not checked, their database is out of reach (target/deny-fetch.log)"
    fi
else
    say "dependencies: not checked, cargo-deny is not installed (cargo install cargo-deny --locked)"
fi

# A room is a folder with a manifest of its own; cli/ belongs to the root package.
base=${BASE:-HEAD}
rooms=()
harness=no
for room in $({ git diff --name-only "$base" && git ls-files --others --exclude-standard; } | cut -d / -f 1 | sort -u); do
    if [ "$room" = bench ]; then
        harness=yes # it is a program and has no library
    elif [ -f "$room/Cargo.toml" ]; then
        rooms+=(-p "millrace-$room")
    elif [ "$room" = cli ]; then
        rooms+=(-p millrace)
    fi
done
if [ "${#rooms[@]}" -eq 0 ]; then
    say "unit tests: no room differs from $base"
else
    say "unit tests of the rooms that differ from $base:" "${rooms[@]}"
    cargo test --locked --lib --bins "${rooms[@]}"
fi
if [ "$harness" = yes ]; then
    say "unit tests of the bench"
    cargo test --locked --bins -p bench
fi
