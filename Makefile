# The two commands of the README, and what a contributor needs beside them.
PYTHON ?= python3
PROMPT ?= a red mushroom
ARGS ?=
BIN := .venv/bin
# As many tests at once as there are cores, four at most: each takes up to three gigabytes.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: run test check lint types format bench demo clean

run: .venv/installed
	$(BIN)/maquette run "$(PROMPT)" $(ARGS)

test: .venv/installed-dev
	$(PYTEST)

check: lint types
	$(PYTEST) -m "not slow"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	mkdir -p .venv/types && ln -sfn "$(CURDIR)" .venv/types/maquette
	$(BIN)/pyright

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev
	for name in hashgrid.py rasterize.py export.py run_cpu.py "run_cpu.py --prior exact" \
		known_answer.py "known_answer.py --prior blind" "known_answer.py --prior exact" \
		"known_answer.py --image --mesh --prior exact" \
		embedded.py pictures.py "prior.py samples" "prior.py errors" "prior.py seeds" losses.py \
		"watching.py" "watching.py --prior exact" "presets.py --prior exact" presets.py "many.py --rate"; do \
		$(BIN)/python benchmarks/$$name || exit 1; done

# The gallery's twelve, by a batch over this machine's cores; the same command goes on with it.
demo: .venv/bin/python
	$(INSTALL) -e ".[ray]"
	$(BIN)/maquette batch docs/demo.txt --out runs/demo $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "maquette needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e ".[dev]"
	@touch $@ .venv/installed
