# Everything a newcomer and CI run. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
PYTHON := $(VENV)/bin/python
# -qq: a healthy installation says nothing; errors still show.
PIP := $(PYTHON) -m pip install -qq --disable-pip-version-check -c constraints.txt
REAL := tests/real/counterparts
CACHE := .cache/counterparts
PROGRAMS := tests/programs/counterparts
PROGRAM_CACHE := .cache/programs
BENCH_CACHE := .cache/bench
FUZZ := .cache/fuzz
ARGS ?=

.PHONY: help demo demo-agent test check dev bench bench-compare counterparts constraints docs format clean install uninstall deb fuzz

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: $(VENV)/runtime.stamp ## pay a local API with plain curl: keyd, egress, ledger, nothing left behind
	@$(PYTHON) -m demo

demo-agent: dev ## a scripted agent with a budget obeys a page that wants more: docs/worked-example.md
	@$(PYTHON) -m demo.with_agent

test: dev counterparts ## every test, real counterparts included; narrow with ARGS='-k word' or ARGS='-m "not slow"'
	@$(PYTHON) -m pytest $(ARGS)

check: dev ## formatting, lint, strict types, import rules, generated documents
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo
	@$(PYTHON) -m tools.gen_docs --check

dev: $(VENV)/dev.stamp ## the development environment alone, in .venv

bench: dev benched ## measure against what people would use instead, into docs/benchmarks.md; ARGS='keyd' selects
	@$(PYTHON) -m bench $(ARGS)

bench-compare: dev benched ## the same, recording nothing: what got worse than docs/benchmarks.md?
	@$(PYTHON) -m bench --compare $(ARGS)

format: dev ## rewrite the sources as `make check` wants them
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

docs: dev ## rewrite the documents that follow from the code
	@$(PYTHON) -m tools.gen_docs

counterparts: $(CACHE)/chain.stamp $(CACHE)/v2.stamp $(CACHE)/v1.stamp $(CACHE)/siwx.stamp $(CACHE)/mcp.stamp $(PROGRAM_CACHE)/npm.stamp $(PROGRAM_CACHE)/venv.stamp $(PROGRAM_CACHE)/go.stamp ## chain, official SDKs and client programs for the tests

constraints: ## resolve every dependency anew and pin the result, on each Python >= 3.12 of this machine
	@"$$(tools/find-python)" tools/pin-dependencies

install: ## on this machine, as root, for systemd: docs/install.md
	@systemd/install

uninstall: ## take that away again; ledger, wallets and configuration stay
	@systemd/uninstall

deb: ## a Debian package for machines like this one, in dist/: docs/install.md
	@systemd/deb/build

# atheris is no dependency of anything: an environment of its own, which sees the packages of the other one.
fuzz: dev ## what strangers can send, guided by coverage, for ten minutes; ARGS='--seconds 60 answer'
	@tools/make-venv $(FUZZ)
	@$(FUZZ)/bin/python -m pip install -qq --disable-pip-version-check 'atheris==3.1.0'
	@PYTHONPATH="$$($(PYTHON) -c 'import site; print(site.getsitepackages()[0])')" $(FUZZ)/bin/python -m tests.fuzz $(ARGS)

clean: ## remove everything that make made
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two layers, so that the demo need not wait for linters and test tools.
$(VENV)/runtime.stamp: pyproject.toml constraints.txt tools/make-venv tools/find-python
	@tools/make-venv $(VENV)
	@echo '· installing what osmoda-x402 needs to run'
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp
	@echo '· installing development tools'
	@$(PIP) --no-build-isolation -e '.[bridge,dev]'
	@touch $@

# --ignore-scripts: the packages need none, and a package that is only data has no business running one.
$(CACHE)/chain.stamp: $(REAL)/package.json
	@command -v npm >/dev/null || { echo 'error: npm is missing: the test chain comes as an npm package.' >&2; \
	  echo 'hint: apt-get install npm (or any Node.js >= 18), then run make again.' >&2; exit 1; }
	@echo '· installing the test chain (anvil) and Circle’s USDC contracts'
	@mkdir -p $(CACHE)/npm && cp $< $(CACHE)/npm/
	@npm install --prefix $(CACHE)/npm --ignore-scripts --no-audit --no-fund --no-package-lock --loglevel=error >/dev/null
	@touch $@

$(PROGRAM_CACHE)/npm.stamp: $(PROGRAMS)/package.json
	@echo '· installing Node programs that pay without knowing it (axios, undici)'
	@mkdir -p $(PROGRAM_CACHE)/npm && cp $< $(PROGRAM_CACHE)/npm/
	@npm install --prefix $(PROGRAM_CACHE)/npm --ignore-scripts --no-audit --no-fund --no-package-lock --loglevel=error >/dev/null
	@touch $@

# The compiler (250 MB) goes again once the two small programs are built.
GO_VENV := $(abspath $(PROGRAM_CACHE))/venv-go
GO := PATH="$(GO_VENV)/bin:$$PATH" GOCACHE=$(GO_VENV)/cache CGO_ENABLED=0 GOTOOLCHAIN=local GOTELEMETRY=off go
NOTE := tests/ledger/counterparts/read_note.go

$(PROGRAM_CACHE)/go.stamp: $(PROGRAMS)/go.txt tests/programs/clients/client.go $(NOTE) tools/make-venv
	@tools/make-venv $(GO_VENV)
	@echo '· building a Go program that pays without knowing it, and one that reads signed notes'
	@$(GO_VENV)/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@$(GO) build -o $(PROGRAM_CACHE)/with_go tests/programs/clients/client.go
	@mkdir -p $(GO_VENV)/note && cp $(NOTE) $(GO_VENV)/note/main.go && echo 'module read_note' > $(GO_VENV)/note/go.mod
	@cp -r "$$($(GO) env GOROOT)/src/cmd/vendor/golang.org/x/mod/sumdb/note" $(GO_VENV)/note/note
	@$(GO) build -C $(GO_VENV)/note -o $(abspath $(PROGRAM_CACHE))/read_note .
	@rm -rf $(GO_VENV)
	@touch $@

$(PROGRAM_CACHE)/venv.stamp: $(PROGRAMS)/python.txt tools/make-venv
	@tools/make-venv $(PROGRAM_CACHE)/venv
	@echo '· installing Python programs that pay without knowing it (the MCP client, uv)'
	@$(PROGRAM_CACHE)/venv/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

# Without development tools: structlog loads rich where it finds it, and 9 MB would be counted as ours.
.PHONY: benched
benched: $(BENCH_CACHE)/sdk.stamp $(BENCH_CACHE)/product.stamp
	@rm -rf build && $(BENCH_CACHE)/venv-product/bin/python -m pip install -qq --disable-pip-version-check --no-deps \
	  --no-build-isolation --force-reinstall . && rm -rf build

$(BENCH_CACHE)/product.stamp: pyproject.toml constraints.txt tools/make-venv
	@tools/make-venv $(BENCH_CACHE)/venv-product
	@echo '· installing osmoda-x402 as its users have it, to be measured'
	@$(BENCH_CACHE)/venv-product/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt setuptools .
	@touch $@

# The versions of the tests: what is measured is the SDK that is shown to agree with us.
$(BENCH_CACHE)/sdk.stamp: $(REAL)/sdk-v2.txt tools/make-venv
	@tools/make-venv $(BENCH_CACHE)/venv-sdk
	@echo '· installing what the benches measure against: eth_account, coincurve and the official x402 SDK'
	@$(BENCH_CACHE)/venv-sdk/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

# Environments of their own: the SDKs pin versions that osmoda-x402 must not depend on.
$(CACHE)/%.stamp: $(REAL)/sdk-%.txt tools/make-venv
	@tools/make-venv $(CACHE)/venv-$*
	@echo '· installing the official x402 SDK, $*'
	@$(CACHE)/venv-$*/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@
