# The three that matter: make demo, make test, make lint. Each makes its environment by itself.

VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= python3
UV      = $(BIN)/uv --quiet

.PHONY: demo test lint format docs bench compatibility crash fuzz load soak faults fuse browser systemd audit wheel coverage mutate protos lock clean
.DEFAULT_GOAL := test

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "smdaemon needs python3 >= 3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'

# What the dashboard stands on, as the npm registry has it: nothing is built.
smdaemon/control/page/vendor: dashboard/package-lock.json dashboard/vendor.py
	if command -v npm > /dev/null; \
	    then npm ci --silent --ignore-scripts --no-audit --no-fund --prefix dashboard && $(PYTHON) dashboard/vendor.py; \
	    else echo "no npm here: the dashboard is left out"; mkdir -p $@; fi

# What runs: the runtime dependencies only.
$(VENV)/.run: requirements/run.txt pyproject.toml smdaemon/control/page/vendor | $(BIN)/uv
	$(UV) pip install --python $(BIN)/python --require-hashes -r requirements/run.txt
	$(UV) pip install --python $(BIN)/python --no-deps -e .
	touch $@

# What tests and lints: TensorFlow and JAX (the real readers), and the tools.
$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	$(UV) pip install --python $(BIN)/python --require-hashes -r requirements/dev.txt
	touch $@

demo: $(VENV)/.run
	$(BIN)/smdaemon demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.docs: requirements/docs.txt | $(BIN)/uv
	$(UV) pip install --python $(BIN)/python --require-hashes -r requirements/docs.txt
	touch $@

# The documentation as a site, in site/. A link that leads nowhere fails it.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(ARGS)

# Makes environments of its own in .venv-compat: two releases of JAX, three of TensorFlow.
compatibility: | $(BIN)/uv
	$(BIN)/python tests/compatibility/matrix.py $(ARGS)

protos: $(VENV)/.dev
	$(BIN)/python protos/generate.py

# Pins every dependency with its hashes, for every platform and Python that smdaemon runs on.
lock: | $(BIN)/uv
	$(UV) pip compile --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements/run.txt
	$(UV) pip compile --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --extra all -c requirements/run.txt -o requirements/all.txt
	$(UV) pip compile --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --group test --group dev \
	    -c requirements/run.txt -o requirements/dev.txt
	$(UV) pip compile --universal --generate-hashes --no-header --python-version 3.11 --group docs -c requirements/dev.txt -o requirements/docs.txt
	$(UV) pip compile --universal --generate-hashes --no-header --python-version 3.11 --group build -o requirements/build.txt
	$(UV) pip compile --universal --generate-hashes --no-header --python-version 3.11 --group faults -c requirements/dev.txt -o requirements/faults.txt
	$(UV) pip compile --universal --generate-hashes --no-header --python-version 3.11 --group mutation -c requirements/dev.txt -o requirements/mutation.txt

# The long form of the crash tests: hundreds of daemons killed at every boundary and at random. CI runs a short one.
crash: $(VENV)/.dev
	$(BIN)/python -m pytest tests/crash --crash-stride 1 --crash-rounds 200 $(ARGS)

# Twenty thousand drops at once, a thousand requests, clients that idle or do not read. CI tries a part of it.
load: $(VENV)/.dev
	$(BIN)/python -m pytest tests/load --load-scale 1 -o faulthandler_timeout=0 $(ARGS)

# Fifty thousand broken inputs for every parser. CI tries some.
fuzz: $(VENV)/.dev
	$(BIN)/python -m pytest tests/fuzz --fuzz-examples 50000 $(ARGS)

# Ten thousand exports by one daemon: its memory and its descriptors stay.
soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks soak $(ARGS)

# What tests/dashboard look at the page with; without it they are skipped. On Debian root is given it.
browser:
	command -v chromium > /dev/null && command -v chromedriver > /dev/null || { \
	    test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; }

# A disk that breaks: needs root and /dev/fuse.
faults: fuse
	SMDAEMON_FAULTS=all $(BIN)/python -m pytest tests/faults $(ARGS)

# What tests/faults mount their disk with; without it they are skipped. On Debian root is given the packages that it is built with.
fuse: $(VENV)/.dev
	pkg-config --exists fuse3 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends libfuse3-dev fuse3 pkg-config; }
	$(UV) pip install --python $(BIN)/python --require-hashes -r requirements/faults.txt

# The units on a Debian of its own, where systemd is the first process: needs root, and QEMU. The first time makes that Debian, in build/systemd.
systemd: $(VENV)/.dev
	command -v debootstrap qemu-system-x86_64 > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap qemu-system-x86; }
	SMDAEMON_SYSTEMD=1 $(BIN)/python -m pytest tests/systemd -o faulthandler_timeout=0 $(ARGS)

# Which lines and branches the tests reach, in this process and in those that they start.
coverage: $(VENV)/.dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --deselect tests/daemon/test_daemon_sandbox.py $(ARGS)  # a sandbox has no place for its figures
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Changes states, placement and the bundle format in thousands of ways, and lists what no test notices: an hour and more.
mutate: $(VENV)/.dev
	$(UV) pip install --python $(BIN)/python --require-hashes -r requirements/mutation.txt
	$(BIN)/mutmut run $(ARGS)
	$(BIN)/mutmut results

# Builds the wheel, runs it in empty environments, resolves its extras beside TensorFlow, JAX and PyTorch.
wheel: $(VENV)/.run
	$(BIN)/python requirements/wheel.py $(ARGS)

# Which releases of what runs have known faults, or were withdrawn.
audit: | $(BIN)/uv
	$(BIN)/python requirements/audit.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-compat dist build site mutants
