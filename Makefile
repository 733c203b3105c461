# What a developer or an operator types. Each target installs what it misses first (scripts/install-deps) and is quick
# when nothing is missing. Options: make up ARGS='--dir /srv/demo', make soak FAULTS=5000, make sim SEEDS=1000000,
# make test TESTS='-p matriarch-dcs'.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build up check test sim bench model soak saturated vm-test clean

ARGS ?=
TESTS ?= --workspace
FAULTS ?= 1000
SEEDS ?= 100000
FROM ?= 0
STATES ?= 20000000
MINUTES ?= 60
with_postgres := MATRIARCH_POSTGRES_DIRS="$$(scripts/postgres-dirs)"

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the release binary, target/release/matriarch
	@scripts/install-deps
	cargo build --release --locked -p matriarch

up: ## Run a three-instance PostgreSQL cluster here until Ctrl-C (ARGS: options of `matriarch up`)
	@scripts/install-deps 2>&1 | sed '/^PostgreSQL /d' >&2
	cargo build --release --locked -p matriarch
	@$(with_postgres) exec target/release/matriarch up $(ARGS)

check: ## Format, lints, licences, architecture, unit tests: everything that needs no PostgreSQL
	@scripts/install-deps --check
	@scripts/check

test: ## make check, then every test, with real PostgreSQL 15, 16 and 18
	@scripts/install-deps --check --test
	@scripts/check --no-tests
	@$(with_postgres) scripts/test $(TESTS)

sim: ## SEEDS random schedules of simulated clusters over every profile, on all cores (FROM: the first; some 100,000 take minutes)
	cargo run --profile search --locked -p matriarch-sim --example campaign -- --seeds $(SEEDS) --from $(FROM)

model: ## Search small clusters completely, as docs/model.md tells, on one core (STATES: at most in each; up to an hour)
	cargo run --profile search --locked -p matriarch-model --example table -- --states $(STATES)

soak: ## FAULTS random faults in a row under clients that remember every answer; as root on hosts of namespaces (an hour)
	@scripts/install-deps --test
	@$(with_postgres) MATRIARCH_SOAK_FAULTS=$(FAULTS) \
		cargo test --release --locked -p matriarch --test soak -- --ignored --nocapture many_random_faults

saturated: ## A cluster for MINUTES on a machine that pgbench keeps busy: nobody may take over (as root)
	@scripts/install-deps --test
	@$(with_postgres) MATRIARCH_SOAK_MINUTES=$(MINUTES) \
		cargo test --release --locked -p matriarch --test soak -- --ignored --nocapture saturated

vm-test: ## As root: a virtual machine by emulation whose watchdog must reset it, and whose power is cut (some minutes)
	@scripts/install-deps --vm
	cargo build --locked -p matriarch
	@$(with_postgres) scripts/vm-test

bench: ## Measure idle cost, routing, failover and backups against the peers (an hour and a half; figures go to bench/results)
	@scripts/install-deps --bench
	cargo build --release --locked -p matriarch -p matriarch-testkit
	cargo build --release --locked -p matriarch-proxy --example static_proxy
	@mkdir -p bench/results; failed=0; \
		run() { echo "== $$*"; $(with_postgres) "$$@" || failed=1; }; \
		run bench/idle/run --json bench/results/idle.json; \
		run bench/routing/run --work simple,prepared --rounds 6 --json bench/results/routing.json; \
		run bench/backup/run --json bench/results/backup.json; \
		run bench/failover/run --table --json bench/results/failover.json; \
		run bench/failover/run --chart bench/results/failover.json bench/results/failover.svg; \
		echo "bench/figures puts them into README.md"; exit $$failed

clean: ## Remove what was built; the cluster's data in ./.matriarch stays
	cargo clean
