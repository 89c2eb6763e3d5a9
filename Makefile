#: Pilotage. All of this works in a fresh clone on Debian 12 with cargo; demo, tests and bench switch accounts and need root.

CARGO ?= cargo
SHELL := /bin/bash
PREFIX ?= /usr
export PREFIX CARGO
# The setuid program knows the place of its children from the build: give `make` and `make install` the same PREFIX.
ifneq ($(PREFIX),/usr)
export PILOTAGE_LIBEXEC := $(PREFIX)/libexec/pilotage
endif
TARGET := $${CARGO_TARGET_DIR:-target}
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

.PHONY: help all build image demo demo-clean test soak fuzz bench lint hooks install uninstall packages root

help: ## this list
	@sed -n 's/^#: //p' Makefile
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

all: build image ## what `make install` installs

build: ## all programs, optimised
	$(CARGO) build --locked --workspace --bins --release

image: ## glexec and glexec-verify as sites get them: linked as a whole, which takes minutes
	@packaging/build-image

# The demo runs what `cargo build --release` makes and compiles nothing twice. Its phases are numbered, because the second
# takes minutes on a machine that has never built this.
demo: root ## see it work: two users, a hostile payload, one pilot; leaves nothing behind
	@echo 'demo: 1 of 3, Debian packages'
	@packaging/build-packages build demo
	@echo 'demo: 2 of 3, the programs: cargo build --release (minutes, the first time)'
	@$(CARGO) build --locked --workspace --bins --release
	@echo 'demo: 3 of 3, the play'
	@$(TARGET)/release/pilotage-demo

# The demo cleans up after itself, however it ends; this is for the case that the machine was pulled from under it.
demo-clean: ## remove what a demo left whose machine was pulled from under it
	@if [ -x $(TARGET)/release/pilotage-demo ]; then \
		$(TARGET)/release/pilotage-demo --clean; \
	else echo 'demo-clean: the demo was never built here, so it left nothing'; fi

test: packages ## all tests; PILOTAGE_MUST_WORK=1 turns skips into failures
	@packaging/build-image
	@tests/run

soak: root packages ## every attack of tests/security beside honest load, for SOAK_SECONDS (600)
	@tests/soak

# Searches for inputs that break a parser. `make test` replays what is known.
fuzz: packages ## search for inputs that break a parser, SECONDS_EACH (60) for each target
	@tests/fuzz/run

bench: root packages build image ## measure; one table in the end, kept as target/bench.json
	@$(TARGET)/release/pilotage-bench

# Asked before the build, not after.
root:
	@[ "$$(id -u)" = 0 ] || { echo 'this switches accounts: run make as root'; exit 1; }

lint: ## format, clippy, documentation, dependencies, scripts, spelling, manual pages
	@tests/lint

hooks: ## a git hook that formats and runs clippy before each commit
	@packaging/hooks/install

# Where there is cargo, what is installed is linked as sites want it; `sudo make install` after `make` needs none.
install: ## as root, after make; DESTDIR and PREFIX are honoured
	@[ -n "$$BIN_DIR" ] || ! command -v $(CARGO) >/dev/null || packaging/build-image
	@packaging/install

uninstall: ## take away what install made; PURGE=1 configuration and data, too
	@packaging/uninstall

packages: ## the Debian packages that building and testing need
	@packaging/build-packages
