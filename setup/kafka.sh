#!/bin/sh
# Fetches what the tests run of Apache Kafka, once, by Maven: the broker with its tools and Kafka
# Streams into target/kafka-<version>/lib, as pinned in tests/kafka/pom.xml, and the Java clients of
# an older line into target/kafka-clients-<version>/lib, as pinned in tests/kafka/clients.xml. Does
# nothing when they are there and complete.
#
# Exit codes: 0 they are there; 3 Java 17 or Maven is missing (message says what to install);
# 1 a fetch failed.
set -eu
cd "$(dirname "$0")/.."

missing() {
    echo "setup/kafka.sh: $1 is missing, so Apache Kafka cannot be fetched for the tests." >&2
    echo "Install it, for example:  apt-get install -y openjdk-17-jdk-headless maven" >&2
    exit 3
}

part=
trap '[ -z "$part" ] || rm -rf "$part"' EXIT
trap 'exit 1' INT TERM

# fetch POM DIR WHAT: the jars of POM into DIR-<version>/lib.
fetch() {
    pom=$1
    version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$pom")
    dir=$2-$version
    what="$3 $version"
    pinned=$(cksum <"$pom")
    # The marker holds the checksum of the pom it was filled from and is written last.
    if [ -f "$dir/complete" ] && [ "$(cat "$dir/complete")" = "$pinned" ]; then
        return
    fi
    java=${JAVA_HOME:+$JAVA_HOME/bin/}java
    command -v "$java" >/dev/null 2>&1 || missing "Java 17"
    major=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${major:-0}" -ge 17 ] || missing "Java 17 or later (found ${major:-an unknown version})"
    command -v mvn >/dev/null 2>&1 || missing "Maven"
    echo "Fetching $what ..." >&2
    mkdir -p target
    part=$(mktemp -d "target/kafka-part.XXXXXX")
    if ! mvn -q -B -f "$pom" dependency:copy-dependencies \
        -DincludeScope=runtime "-DoutputDirectory=$PWD/$part/lib" </dev/null >"$part/mvn.log" 2>&1; then
        cat "$part/mvn.log" >&2
        echo "setup/kafka.sh: Maven could not fetch $what; the lines above say why." >&2
        exit 1
    fi
    rm -rf "$dir"
    mkdir "$dir"
    mv "$part/lib" "$dir/lib"
    echo "$pinned" >"$dir/complete"
    rm -rf "$part"
    echo "$what is in $dir/lib ($(ls "$dir/lib" | wc -l) jars)." >&2
}

fetch tests/kafka/pom.xml target/kafka "Apache Kafka"
fetch tests/kafka/clients.xml target/kafka-clients "Kafka's Java clients"
