# The commands of this project; CI calls the same ones. Plain enough for the GNU make 3.81 that macOS has.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
DEV_STAMP := .venv/installed-dev

# A variable on make's command line reaches every process through the environment: `make run MLX_BROKER_PORT=9000`.
# PORT=9000 is short for that. A PORT in the environment is ignored: honcho sets one, and so do other tools.
ifeq ($(origin PORT),command line)
export MLX_BROKER_PORT := $(PORT)
endif

# Processes come and go here all the time. Without bytecode each compiles what it imports: a worker takes 4 s instead of 1.4.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install install-dev run test test-slow test-isolation test-clients test-page check bench bench-all chaos chaos-kills fuzz lock architectures

# What serving needs, and the command `mlx-broker`, which runs this checkout. --clear: installs exactly the lock, also
# after a package has left it. --no-compile: compiling takes half a minute, and few of the files are ever imported.
# --no-deps: the lock is complete, and older pips would resolve a dependency with an extra to a newer release than the
# lock's. --no-build-isolation: the lock has what builds the command, and no index is asked for it.
PIP_INSTALL := $(BIN)/pip install --no-compile --no-deps --require-hashes

install: $(STAMP)

$(STAMP): requirements.lock
	@$(PYTHON) tools/check_python.py
	$(PYTHON) -m venv --clear .venv
	$(PIP_INSTALL) -r requirements.lock
	$(BIN)/pip install --no-compile --no-deps --no-build-isolation --quiet --editable .
	$(BIN)/pip check
	@touch $@

# The tools of development beside it: the second lock repeats the first, whose packages are there already.
install-dev: $(DEV_STAMP)

$(DEV_STAMP): $(STAMP) requirements-dev.lock
	$(PIP_INSTALL) -r requirements-dev.lock
	$(BIN)/pip check
	@touch $@

# honcho reads .env, so the ports are checked and the demo model is prepared under honcho too. exec: signals to make's
# child reach honcho itself.
VENV = env PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONUNBUFFERED=1

run: install
	@exec $(VENV) $(BIN)/honcho run python -m gateway --check
	@exec $(VENV) $(BIN)/honcho run python -m demo --if-needed
	@exec $(VENV) $(BIN)/honcho start

# Two at a time: a test mostly waits for a process to start.
test: install-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Tests that take too long for every change: leaks over thousands of requests, the demo model in every form.
test-slow: install-dev
	$(BIN)/python -m pytest -m slow

# Every blow in every phase: several minutes more than the cells that come with `make test`.
test-isolation: install-dev
	$(BIN)/python -m pytest tests/isolation -m ""

# Client programs of Node, unchanged: needs npm, and strace to see what they connect to. Their requests are kept in
# tests/clients/recordings, which `make test` sends again; RECORD_CLIENTS=1 writes them anew. Not `npm ci`, which wants
# the packages of all other platforms, too.
test-clients: install-dev
	npm install --no-save --prefix tests/clients/node --no-audit --no-fund
	$(BIN)/python -m pytest tests/clients -m clients

# The page in Debian's chromium, without a window; axe-core comes from npm. RENEW_SCREENSHOTS=1 writes those of docs/ anew.
test-page: install-dev
	npm install --no-save --prefix tests/page/node --no-audit --no-fund
	$(BIN)/python -m pytest tests/page -m "page or not page"

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin broker cli demo gateway worker

# The tables that most goals are about, in less than 12 minutes, or everything, in three quarters of an hour; both print a
# verdict on each goal and need the machine for themselves. docs/benchmarks.md has the method and the results.
bench: install-dev
	@exec $(BIN)/python -m bench

bench-all: install-dev
	@exec $(BIN)/python -m bench --all

# Ten minutes of kills, stops, loads, unloads and clients that leave; prints the figures of docs/isolation.md.
chaos: install-dev
	$(BIN)/python -m tests.isolation.chaos 600 1

# Ten minutes in which every model is killed every five seconds, and nothing else happens.
chaos-kills: install-dev
	$(BIN)/python -m tests.isolation.chaos 600 1 kills

# Mutated bodies and headers against a real service; prints the figures of docs/security.md.
fuzz: install-dev
	$(BIN)/python -m tests.fuzz 15000 1

# Keeps every pin that still fits. To take the newest releases of everything, remove both locks first. What serving needs
# must come as wheels for every macOS and Python that tools/check_python.py admits: the last lines ask for them.
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--custom-compile-command "make lock" --quiet
lock:
	set -e; tools=$$(mktemp -d); trap 'rm -r "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; "$$tools/bin/pip" install --quiet uv==0.13.9; PATH="$$tools/bin:$$PATH"; \
	$(COMPILE) --group build --output-file requirements.lock; \
	$(COMPILE) --group dev --constraint requirements.lock --output-file requirements-dev.lock; \
	for macos in 14.0 15.0 26.0; do for python in 3.11 3.12 3.13 3.14; do \
		echo "wheels for macOS $$macos, Python $$python"; \
		MACOSX_DEPLOYMENT_TARGET=$$macos uv pip install --quiet --dry-run --target "$$tools/none" \
			--python-platform aarch64-apple-darwin --python-version $$python --only-binary :all: \
			--no-deps --require-hashes --requirement requirements.lock; \
	done; done

# Asks the installed mlx-lm and mlx-vlm what they can run. Needed after `make lock` has changed one of them; a test tells.
TABLE = broker/models/architectures.json
architectures: install-dev
	$(BIN)/python -m worker.loading.architectures > $(TABLE).new
	mv $(TABLE).new $(TABLE)
