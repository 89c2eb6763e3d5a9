# make demo      see it work: two users, a hostile payload, one pilot; leaves nothing behind
# make test      all tests
# make install   as root; DESTDIR and PREFIX are honoured
# make uninstall takes away what install made; PURGE=1 configuration and data, too
#
# All of them work in a fresh clone on Debian 12 with cargo; demo and tests that switch accounts need root.

CARGO ?= cargo
SHELL := /bin/bash
PREFIX ?= /usr
export PREFIX CARGO
# The setuid program knows the place of its children from the build: give `make` and `make install` the same PREFIX.
ifneq ($(PREFIX),/usr)
export PILOTAGE_LIBEXEC := $(PREFIX)/libexec/pilotage
endif
.DELETE_ON_ERROR:

.PHONY: all demo demo-clean test fuzz install uninstall bench lint packages build root

all: build

build:
	$(CARGO) build --locked --workspace --bins --release
	@packaging/build-image

demo: root packages build
	@$${CARGO_TARGET_DIR:-target}/release/pilotage-demo

# The demo cleans up after itself, however it ends; this is for the case that the machine was pulled from under it.
demo-clean:
	@if [ -x $${CARGO_TARGET_DIR:-target}/release/pilotage-demo ]; then \
		$${CARGO_TARGET_DIR:-target}/release/pilotage-demo --clean; \
	else echo 'demo-clean: the demo was never built here, so it left nothing'; fi

test: packages
	@packaging/build-image
	@tests/run

# Searches for inputs that break a parser; SECONDS_EACH=600 looks longer. `make test` replays what is known.
fuzz: packages
	@tests/fuzz/run

install:
	@packaging/install

uninstall:
	@packaging/uninstall

bench: root packages build
	@$${CARGO_TARGET_DIR:-target}/release/pilotage-bench

# Asked before the build, not after.
root:
	@[ "$$(id -u)" = 0 ] || { echo 'make demo and make bench switch accounts: run them as root'; exit 1; }

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@packaging/man/check.sh

packages:
	@packaging/build-packages
