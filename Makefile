# Set up, run and test. Everything is set up on the way, and nothing is done twice:
# `make run` and `make test` are all that a fresh clone needs.

VENV ?= .venv
PYTHON ?=
# The sources of everything that is checked.
SOURCES := streamer sandboxes tests examples benchmarks clients docs setup.py
PYTEST_ARGS ?=
# The rows of docs/performance.md that `make bench` measures; all by default.
SUITES ?=
# Tests whose outcome is the same for every account.
ANY_ACCOUNT := $(addsuffix .py,test_architecture test_linear test_packaging) \
	adapters browser client compat contract docs engine eventlog interop jobs languages model sse warmed
# Most tests wait for programs, so four at once suit two processors; PYTEST_ARGS="-n 0" for none.
WORKERS ?= 4
# All tests of a class or a module in one process: what they share is set up once, and each attack runs once,
# since an escape suite runs all of its attacks in each process that is given one. In the order of the files,
# since the modules with the fewest tests, which would come last, are among the longest.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

export PYTHON
# The tests start hundreds of processes, which would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
PIP_INSTALL := $(PIP) install --require-hashes --root-user-action ignore
# The editor of the playground, which npm's packages are bundled into; this file is written last.
BUNDLE := streamer/web/static/bundle/LICENSES.txt
INIT := streamer/sandbox/init/streamer-init streamer/sandbox/init/streamer-fork.so
UV_OPTIONS := --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate
UV_COMPILE := build/lock/bin/uv pip compile $(UV_OPTIONS) pyproject.toml
NPM := npm --no-audit --no-fund --no-update-notifier --loglevel=error
UV_GROUP := build/lock/bin/uv pip compile $(UV_OPTIONS) --group

# Which system packages .ci/system-packages sees to.
NEEDS := run
setup test test-thorough test-isolation test-fast bench escape-matrix: NEEDS := test

.PHONY: help setup run test test-thorough test-isolation test-fast lint bench escape-matrix architecture languages docs lock wheel typescript clean system page npm
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.dev $(VENV)/.project build/node/.installed build/typescript/.installed $(BUNDLE) ## set everything up for work on the code

run: $(VENV)/.project page ## start the service on 127.0.0.1:8080 and show a program's live output
	@exec $(BIN)/streamer serve --demo examples/ticks.py

test: setup ## run the suite; PYTEST_ARGS="-k stream" for a part of it
	@$(PYTEST) -m 'not thorough' $(PYTEST_ARGS)

test-thorough: setup ## run the suite, and all of it again in every other way of making sandboxes, as CI does
	@$(PYTEST) $(PYTEST_ARGS)

test-isolation: setup ## run what may depend on the account that the service runs as
	@$(PYTEST) -m 'not thorough or isolation' $(ANY_ACCOUNT:%=--ignore=tests/%) $(PYTEST_ARGS)

test-fast: setup ## run the quick tests, in less than a minute: with bwrap and the memory engine only
	@$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

lint: $(VENV)/.dev $(VENV)/.project ## check style, format, types and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m mypy $(SOURCES)
	@$(BIN)/lint-imports --no-logo --no-cache

escape-matrix: setup ## run every attack on every sandbox and write docs/escape-matrix.md
	@$(BIN)/python -m streamer.testing.matrix docs/escape-matrix.md

bench: $(VENV)/.dev $(VENV)/.project build/benchmarks/.installed ## measure speed and write docs/performance.md; SUITES="latency flood" a part of it
	@$(BIN)/python -m benchmarks $(SUITES)

architecture: $(VENV)/.dev $(VENV)/.project ## draw docs/rooms.svg from the imports in the code
	@$(BIN)/python docs/rooms.py

languages: $(VENV)/.dev $(VENV)/.project ## write the table of docs/languages.md
	@$(BIN)/python docs/languages.py

docs: build/sphinx/.installed ## build the documents as a site, build/docs/docs/README.html; a warning is an error
	@rm -rf build/docs
	@PYTHONPATH=. build/sphinx/bin/sphinx-build -E -W --keep-going -n -q -c docs -d build/sphinx/pages . build/docs
	@build/sphinx/bin/python docs/outside.py build/docs
	@echo build/docs/docs/README.html

wheel: $(VENV)/.dev npm $(BUNDLE) ## build dist/*.tar.gz, and from it dist/*.whl; and the same of the small client
	@rm -rf dist
	@output=$$(CFLAGS='-Werror $(CFLAGS)' $(BIN)/python -m build --no-isolation \
		--outdir dist . 2>&1) || { printf '%s\n' "$$output" >&2; exit 1; }
	@rm -rf build/client && $(BIN)/python clients/python/assemble.py build/client
	@output=$$($(BIN)/python -m build --no-isolation --outdir dist build/client 2>&1) || \
		{ printf '%s\n' "$$output" >&2; exit 1; }
	@ls dist/*

typescript: build/typescript/.installed $(VENV)/.dev $(VENV)/.project ## build the TypeScript client: dist/*.tgz
	@cd build/typescript && rm -rf src test dist
	@cp -R $(addprefix clients/typescript/,src test tsconfig.json README.md) build/typescript
	@$(BIN)/python clients/openapi.py > build/typescript/openapi.json
	@mkdir -p dist
	@cd build/typescript && $(NPM) run types >/dev/null && $(NPM) run build >/dev/null && \
		$(NPM) pack --pack-destination "$(CURDIR)/dist" >/dev/null
	@ls dist/*.tgz

lock: $(VENV)/.created ## renew the lock files: newest versions, with their hashes
	@test -d build/lock || $(BIN)/python -m venv build/lock
	@build/lock/bin/python -m pip -qq --disable-pip-version-check \
		install --require-hashes -r requirements/lock.txt
	$(UV_COMPILE) --all-extras --group dev -o requirements/dev.txt
	$(UV_COMPILE) --extra cli -c requirements/dev.txt -o requirements/runtime.txt
	$(UV_COMPILE) --extra cli --extra redis --extra s3 --extra uvloop -c requirements/dev.txt -o requirements/deployed.txt
	$(UV_COMPILE) -c requirements/dev.txt -o requirements/embedded.txt
	build/lock/bin/uv pip compile $(UV_OPTIONS) clients/python/pyproject.toml -c requirements/dev.txt \
		-o requirements/client.txt
	$(UV_GROUP) build -c requirements/dev.txt -o requirements/build.txt
	$(UV_GROUP) lock -o requirements/lock.txt
	$(UV_GROUP) docs -o requirements/docs.txt
	$(UV_GROUP) science -o requirements/science.txt
	$(UV_GROUP) adapters -o requirements/adapters.txt
	$(NPM) --prefix tests/interop update --package-lock-only
	$(NPM) --prefix benchmarks/express update --package-lock-only
	$(NPM) --prefix frontend update --package-lock-only
	$(NPM) --prefix clients/typescript update --package-lock-only

clean: ## remove everything that was made here
	rm -rf .venv build dist *.egg-info $(INIT) $(dir $(BUNDLE)) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system:
	@.ci/system-packages $(NEEDS)

# The stamps: each is as new as the last time its step was done in full.

$(VENV)/.created: | system
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo 'setup: making $(VENV)'; \
		python=$$(.ci/find-python) && "$$python" -m venv $(VENV); }
	@touch $@

$(VENV)/.runtime: requirements/runtime.txt requirements/build.txt $(VENV)/.created
	@echo 'setup: installing the Python packages'
	@$(PIP_INSTALL) -r requirements/build.txt -r requirements/runtime.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo 'setup: installing the test tools'
	@$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

# In an environment of its own: what builds the site shares no version with what runs.
build/sphinx/.installed: requirements/docs.txt $(VENV)/.created
	@echo 'setup: installing what builds the site of the documents'
	@rm -rf build/sphinx && $(BIN)/python -m venv build/sphinx
	@build/sphinx/bin/python -m pip -qq --disable-pip-version-check --no-input \
		install --require-hashes -r requirements/docs.txt
	@touch $@

# What the tests need of Node.js's: in a place of its own, so that npm writes nothing else.
build/node/.installed: tests/interop/package.json tests/interop/package-lock.json | system
	@echo 'setup: installing the Node.js packages of the tests'
	@mkdir -p build/node
	@cp tests/interop/package.json tests/interop/package-lock.json tests/interop/.npmrc build/node
	@$(NPM) --prefix build/node ci >/dev/null
	@touch $@

# The page works without its bundle, with a plain text area, so nobody needs npm to start it.
page: | $(VENV)/.project
	@if ! command -v npm >/dev/null 2>&1; then \
		test -e $(BUNDLE) || echo 'setup: without npm the playground has a plain text area'; \
	elif ! $(MAKE) --no-print-directory $(BUNDLE); then \
		echo 'setup: npm failed (see above), so the playground has a plain text area'; fi

npm:
	@command -v npm >/dev/null 2>&1 || { \
		echo 'npm is missing, which builds the editor of the playground that the wheel carries.' \
			'Install Node.js 18 or newer with npm (Debian, Ubuntu: sudo apt-get install -y npm)' \
			'and run "make wheel" again.' >&2; exit 1; }

build/frontend/.installed: frontend/package.json frontend/package-lock.json | system
	@echo 'setup: installing the Node.js packages of the playground'
	@mkdir -p build/frontend
	@cp frontend/package.json frontend/package-lock.json frontend/.npmrc build/frontend
	@$(NPM) --prefix build/frontend ci >/dev/null
	@touch $@

# The sources are bundled beside their packages, where Node.js looks for them.
$(BUNDLE): build/frontend/.installed frontend/build.mjs $(shell find frontend/src -type f)
	@echo 'setup: building the editor of the playground'
	@rm -rf build/frontend/src && cp -R frontend/build.mjs frontend/src build/frontend
	@node build/frontend/build.mjs $(dir $(BUNDLE)) >/dev/null

# What the TypeScript client is built and tested with.
build/typescript/.installed: $(addprefix clients/typescript/,package.json package-lock.json) | system
	@echo 'setup: installing the Node.js packages of the TypeScript client'
	@mkdir -p build/typescript
	@cp $^ clients/typescript/.npmrc build/typescript
	@$(NPM) --prefix build/typescript ci >/dev/null
	@touch $@

# The reference server of the benchmark runs beside its packages, where Node.js looks for them.
build/benchmarks/.installed: $(addprefix benchmarks/express/,package.json package-lock.json server.js) | system
	@echo 'setup: installing the Node.js packages of the benchmark'
	@mkdir -p build/benchmarks
	@cp $^ benchmarks/express/.npmrc build/benchmarks
	@$(NPM) --prefix build/benchmarks ci >/dev/null
	@touch $@

# A stamp that names another place comes from a clone that was copied or moved.
ifneq ($(shell cat $(VENV)/.project 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.project
endif
$(VENV)/.project: pyproject.toml setup.py $(wildcard streamer/sandbox/init/*.[ch] streamer/sandbox/init/forked/*.[ch]) $(INIT) $(VENV)/.runtime
	@echo 'setup: installing streamer from this folder'
	@CFLAGS='-Werror $(CFLAGS)' $(PIP) install --root-user-action ignore --no-deps \
		--no-build-isolation -e .
	@echo '$(CURDIR)' > $@

# Made by the step above; one that is missing makes it run again.
$(INIT): ;
