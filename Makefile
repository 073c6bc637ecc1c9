# Bootferry, from a checkout. Nothing but make and Python 3.11 or newer is needed to begin.

PYTHON ?= python3
RUN_DIR ?= .run
REGION_PORT ?= 5240
RACK_PORT ?= 5248
UPSTREAM_PORT ?= 5280
UPSTREAM ?= sample
ARGS ?=

BIN := .venv/bin
.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help: ## this list
	@echo 'Bootferry ferries boot images from a signed mirror, through a region, to the disks of racks.'
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  RUN_DIR=$(RUN_DIR) REGION_PORT=$(REGION_PORT) RACK_PORT=$(RACK_PORT) UPSTREAM_PORT=$(UPSTREAM_PORT)'
	@echo '  UPSTREAM=$(UPSTREAM) (or maas.io: the real images)   ARGS= more for pytest or uv, as in ARGS="-k rack"'

.PHONY: run
run: packages env ## start a database, a sample mirror, a region and a rack; Ctrl-C stops them
	@exec $(BIN)/python -m deploy.local.run --run-dir '$(RUN_DIR)' --upstream '$(UPSTREAM)' \
		--region-port '$(REGION_PORT)' --rack-port '$(RACK_PORT)' --upstream-port '$(UPSTREAM_PORT)'

.PHONY: publish
publish: env ## publish a new daily version on the sample mirror
	@exec $(BIN)/python -m deploy.local.mirror publish --dir '$(RUN_DIR)/upstream'

PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadgroup

.PHONY: test
test: packages env ## run every test but the browser's
	$(PYTEST) --ignore tests/browser --ignore tests/system $(ARGS)

.PHONY: pagetest
pagetest: browser env ## run the tests of the Images page, in a real browser
	$(PYTEST) tests/browser $(ARGS)

.PHONY: systemtest
systemtest: machines deb ## install the packages on machines of their own, under systemd, and see what they stand; it needs root
	$(BIN)/pytest -p no:xdist tests/system $(ARGS)

.PHONY: mutants
mutants: packages env ## take every defence out in turn and see its tests fail (ARGS= parts of their names)
	$(BIN)/python -m tests.mutants $(ARGS)

.PHONY: mutation
mutation: packages env ## make every small change to the code that decides and parses, and see tests fail (ARGS= parts of paths)
	$(BIN)/python -m tests.mutants.small $(ARGS)

# atheris has wheels for few versions of Python: it is no part of the environment that everybody needs.
.PHONY: fuzz
fuzz: packages env ## let atheris look for bytes a parser does not expect, SECONDS=20 each (ARGS= names of parsers)
	[ -d .cache/fuzz/atheris ] || $(BIN)/uv pip install --quiet --system-certs --target .cache/fuzz/atheris atheris==3.0.0
	PYTHONPATH=.cache/fuzz/atheris $(BIN)/python -m tests.fuzz $(or $(SECONDS),20) $(ARGS)

.PHONY: chaos
chaos: filesystems env ## break real processes for SECONDS and see what holds (SEED= repeats a run, ONLY=kill,power)
	@$(BIN)/python -m tests.chaos --seconds '$(or $(SECONDS),900)' $(if $(SEED),--seed '$(SEED)') \
		$(if $(ONLY),--only '$(ONLY)')

.PHONY: check
check: env ## check format, lint, types and import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: openapi
openapi: env ## write docs/openapi.json anew after a change of the API
	@$(BIN)/python -m region openapi > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

.PHONY: apilint
apilint: env ## lint docs/openapi.json with redocly and spectral, which npm fetches into .cache
	npm install --silent --no-audit --no-fund --prefix .cache/npm @redocly/cli@2 @stoplight/spectral-cli@6
	OPENAPI_LINTERS=.cache/npm/node_modules/.bin $(BIN)/pytest tests/unit/test_openapi.py -k linters $(ARGS)

.PHONY: apiclient
apiclient: env ## make a client of docs/openapi.json with a generator fetched into .cache, and call a region with it
	[ -x .cache/apiclient/bin/python ] || $(BIN)/uv venv --quiet --python $(BIN)/python .cache/apiclient
	$(BIN)/uv pip install --quiet --system-certs --python .cache/apiclient/bin/python openapi-python-client==0.29.1
	OPENAPI_CLIENT_GENERATOR=.cache/apiclient/bin $(BIN)/pytest tests/http/test_generated_client.py $(ARGS)

.PHONY: screenshots
screenshots: browser env ## draw the pictures in docs/images anew
	$(BIN)/python -m tests.browser.screenshots

.PHONY: format
format: env ## format the code and mend what lint can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: lock
lock: env ## bring requirements.lock up to pyproject.toml (ARGS=--upgrade for newer versions of all)
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --system-certs --output-file requirements.lock $(ARGS)
	@! grep -n '://' requirements.lock || { echo 'requirements.lock names an address: it must not.' >&2; exit 1; }

.PHONY: deb
deb: env ## build the Debian packages for this release into dist/
	@$(BIN)/python -m deploy.release.debs

.PHONY: image
image: deb ## build one OCI image of region and rack from the packages, into dist/; it needs root
	@$(BIN)/python -m deploy.release.image

.PHONY: release
release: env ## build all that goes out to others from a clean clone, KEY= signs the checksums; it needs root
	@$(BIN)/python -m deploy.release.release $(if $(KEY),--key '$(KEY)')

.PHONY: clean
clean: ## remove everything made here: the environment, caches, and the state in .run
	@# A database that root keeps out of its own reach is behind a link.
	@[ ! -L .run/postgres ] || rm -rf "$$(readlink .run/postgres)"
	rm -rf .venv .run .cache dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# System packages that no Python package index carries.
.PHONY: packages
packages:
	@$(PYTHON) -m deploy.local.packages

# The same, and a browser for the tests where this system has one for us.
.PHONY: browser
browser:
	@$(PYTHON) -m deploy.local.packages --browser

# The same, and what makes the file systems whose power the chaos tests cut.
.PHONY: filesystems
filesystems:
	@$(PYTHON) -m deploy.local.packages --file-systems

# The same, and what checks the metrics and the alerts.
.PHONY: promtool
promtool:
	@$(PYTHON) -m deploy.local.packages --promtool

# The same, and the proxies that stand before a region in tests.
.PHONY: proxies
proxies:
	@$(PYTHON) -m deploy.local.packages --proxies

# The same, and what starts machines under systemd.
.PHONY: machines
machines:
	@$(PYTHON) -m deploy.local.packages --machines

# .venv as requirements.lock says; a few milliseconds when it already is.
.PHONY: env
env:
	@$(PYTHON) -m deploy.local.bootstrap
