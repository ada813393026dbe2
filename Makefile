# Everything runs in .venv, created on first use; the system's Python is not touched.
#
#   make train    set up, train on tiny Shakespeare, print a sample
#   make test     set up, lint, check types, run the tests
#   make pictures make the pictures of README.md and docs/, in half an hour (docs/pictures.py)
#   make clean    remove .venv (data and outputs stay)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test pictures clean

train: $(VENV)/ready
	$(BIN)/python train.py
	$(BIN)/python sample.py

test: $(VENV)/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile

pictures: $(VENV)/ready-dev
	$(BIN)/python -m docs.pictures

clean:
	rm -rf $(VENV)

# A marker file older than its requirements file means: install again.
$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("kqv needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/ready-dev: requirements-dev.txt $(VENV)/ready
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
