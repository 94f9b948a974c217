# The commands of this project; CI calls the same ones. Plain enough for the GNU make 3.81 that macOS has.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

# A variable on make's command line reaches every process through the environment: `make run MLX_BROKER_PORT=9000`.
# PORT=9000 is short for that. A PORT in the environment is ignored: honcho sets one, and so do other tools.
ifeq ($(origin PORT),command line)
export MLX_BROKER_PORT := $(PORT)
endif

.PHONY: install run test test-slow check bench bench-smol chaos fuzz lock architectures

install: $(STAMP)

# --clear: installs exactly the lock, also after a package has left it. --no-compile: compiling takes half a minute, and
# few of the files are ever imported. --no-deps: the lock is complete, and older pips would resolve a dependency with an
# extra to a newer release than the lock's.
$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, see make PYTHON=...")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --no-compile --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip check
	@touch $@

# honcho reads .env, so the demo model is prepared under honcho too. exec: signals to make's child reach honcho itself.
VENV = env PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONUNBUFFERED=1

run: install
	@exec $(VENV) $(BIN)/honcho run python -m demo --if-needed
	@exec $(VENV) $(BIN)/honcho start

# Two at a time: a test mostly waits for a process to start.
test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Tests that take too long for every change: leaks over thousands of requests, the demo model in every form.
test-slow: install
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin broker demo gateway worker

# Takes twenty minutes and needs the machine for itself; docs/benchmarks.md has the method and the results.
bench: install
	$(BIN)/python -m bench.recovery
	$(BIN)/python -m bench.throughput
	$(BIN)/python -m bench.profile
	$(BIN)/python -m bench.report

# The same, and the demo model; takes a few minutes more.
bench-smol: install
	$(BIN)/python -m bench.recovery
	$(BIN)/python -m bench.throughput --smol
	$(BIN)/python -m bench.profile
	$(BIN)/python -m bench.report

# Ten minutes of kills, stops, loads, unloads and clients that leave; prints the figures of docs/isolation.md.
chaos: install
	$(BIN)/python -m tests.isolation.chaos 600 1

# Mutated bodies and headers against a real service; prints the figures of docs/security.md.
fuzz: install
	$(BIN)/python -m tests.fuzz 15000 1

# Keeps every pin that still fits. To take the newest releases of everything, remove requirements.lock first.
lock:
	tools=$$(mktemp -d) && $(PYTHON) -m venv $$tools && $$tools/bin/pip install --quiet uv==0.13.9 && \
	$$tools/bin/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --fork-strategy fewest \
		--generate-hashes --custom-compile-command "make lock" --quiet --output-file requirements.lock && \
	rm -r $$tools

# Asks the installed mlx-lm and mlx-vlm what they can run. Needed after `make lock` has changed one of them; a test tells.
TABLE = broker/models/architectures.json
architectures: install
	$(BIN)/python -m worker.loading.architectures > $(TABLE).new
	mv $(TABLE).new $(TABLE)
