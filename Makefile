# The two commands, `make run` and `make test`, and what surrounds them. `make` alone lists them.
# ARGS is passed on: `make run ARGS="--stock 0.8"`, `make test ARGS="-p millrace-broker"`.

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
# The cargo profile the tests are built with; empty for cargo's own choice.
export PROFILE

.DEFAULT_GOAL := help
.PHONY: help run build test check chaos chaos-planted kafka profile instructions peers bench bench-full

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## install what is missing, build, start everything on this machine (ARGS go to `millrace dev`)
	@exec "$${CARGO_TARGET_DIR:-target}/release/millrace" dev $(ARGS)

build: ## install what is missing and build the millrace binary
	@setup/base.sh
	@cargo build --release --locked --bin millrace

test: ## install what is missing and run all tests, on Apache Kafka too where Java is there
	@setup/base.sh test
	@setup/test.sh $(ARGS)

check: ## format, lints, dependencies, unit tests of the changed rooms; for the moment before a commit
	@setup/base.sh
	@setup/check.sh

chaos: ## real faults on real processes, then the audit (ARGS="--help" lists what can be asked for)
	@setup/base.sh test
	@setup/kafka.sh
	@MILLRACE_CHAOS="$(ARGS)" cargo test --quiet --release --locked --test chaos

chaos-planted: ## campaigns that must fail: defects planted on purpose (ARGS: their names)
	@setup/base.sh test
	@setup/kafka.sh
	@MILLRACE_CHAOS="--planted $(or $(ARGS),all)" CARGO_TARGET_DIR="$${CARGO_TARGET_DIR:-target}/planted" \
		cargo test --quiet --release --locked --features planted --test chaos

kafka: ## fetch the pinned Apache Kafka for the tests (make test does it by itself)
	@setup/kafka.sh

profile: ## what an order costs in memory: instructions by function, and a flame graph (needs valgrind, perf)
	@setup/base.sh
	@setup/profile.sh

instructions: ## write down anew what each part costs in instructions; make test compares with it (needs valgrind)
	@MILLRACE_INSTRUCTIONS=write cargo test --quiet --locked --workspace --test instructions

peers: ## build what Millrace is measured against (Java 17 and Maven)
	@setup/kafka.sh
	@mvn -q -B -f bench/peers/kafka-streams/pom.xml -DskipTests package

bench: build peers ## measure every scenario against Kafka Streams, roughly (ARGS: scenarios, --peer)
	@cargo build --release --locked -p bench
	@"$${CARGO_TARGET_DIR:-target}/release/bench" $(ARGS)

bench-full: build peers ## the same with figures to be quoted: for hours, on a quiet machine
	@cargo build --release --locked -p bench
	@"$${CARGO_TARGET_DIR:-target}/release/bench" --effort full $(ARGS)
