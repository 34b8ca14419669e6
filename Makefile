# Everything runs in a virtual environment of the project's own.
#   make demo   sets up, trains a character model for a minute, evaluates, prints a sample
#   make test   sets up, runs the tests
#   make bench  sets up, times the engine beside its peers, into benchmarks/results
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test test-full test-floats test-core test-packages lab-quick test-web lint types docs bench \
        clean setup setup-dev setup-bench

demo: setup
	rm -rf $(DEMO)
	$(BIN)/cellwright train stdlib --minutes 1 --out $(DEMO)
	$(BIN)/cellwright generate $(DEMO) --prompt "def " --length 400 --temperature 0.7 --seed 1

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Every combination of cell, type, threads, instruction set and size, and more damaged
# runs; `test` takes a sample of both.
test-full: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m full

# The core's mathematics at every one of the 2^32 floats, on every instruction set that
# the machine has: a quarter of an hour, after a change of core/simd/math.h.
test-floats: setup-dev
	$(BIN)/cmake -S . -B build/core-full -G Ninja -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCELLWRIGHT_PYTHON=OFF \
	  -DCELLWRIGHT_TESTS=ON
	$(BIN)/cmake --build build/core-full -j 2
	build/core-full/core_tests --no-skip --test-case='every float*'

# The laboratory: every experiment's short form, its claims held to their intervals.
lab-quick: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m lab

# The core's own tests, under AddressSanitizer and UndefinedBehaviorSanitizer. They need
# doctest's header (Debian: doctest-dev).
test-core: setup-dev
	$(BIN)/cmake -S . -B build/core-tests -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCELLWRIGHT_PYTHON=OFF \
	  -DCELLWRIGHT_TESTS=ON -DCELLWRIGHT_SANITIZE=ON
	$(BIN)/cmake --build build/core-tests -j 2
	build/core-tests/core_tests
	$(BIN)/python .ci/check_isa_objects.py build/core-tests

# The pages in Chromium (Debian: chromium), and the bundle: same bytes from its source.
test-web: setup
	cd web && npm ci --silent && npm run --silent check && npm run --silent types
	$(BIN)/python -m pytest -m browser

test-packages: setup
	bash .ci/packages.sh $(BIN)/python

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev
	$(BIN)/pyright

docs: setup-dev
	$(BIN)/python -m sphinx -q -W --keep-going -d build/docs docs _site

# About a quarter of an hour on a quiet machine; benchmarks/README.md says more.
bench: setup-bench
	$(BIN)/python benchmarks/engine.py --json benchmarks/results/engine.json

# What is installed follows from these files: change one, and it is installed again.
setup: $(VENV)/.ready
setup-dev: $(VENV)/.ready-dev
setup-bench: $(VENV)/.ready-bench

CORE := CMakeLists.txt $(shell find core -type f)

$(VENV)/.ready: pyproject.toml constraints.txt $(CORE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,test]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.ready-bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist runs _site
