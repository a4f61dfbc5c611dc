# `make demo` and `make test` need Python 3.11+ and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test matrix lint type docs clean

# What qadv itself needs, which is all that the demo needs.
$(VENV)/.demo: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qadv needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

# Built as wheels, as a user installs them. Without dependencies, which come first: torchattacks pins a requests of 2020, which
# it does not import and which mkdocs-material does not take.
$(VENV)/.plugins: $(VENV)/.installed $(shell find plugins examples/own_plugin -type f -path '*/src/*.py' -o -name pyproject.toml)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "foolbox>=3.3.4" "pyautoattack>=0.2" "ai-edge-litert>=2.3"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "torchattacks>=3.5.1"
	$(BIN)/python plugins/install.py --no-deps
	touch $@

demo: $(VENV)/.demo
	$(BIN)/qadv demo

# One pytest for all, since each of its processes imports the toolkits; mypy, which has one process, beside it.
test: $(VENV)/.installed $(VENV)/.plugins
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy >$(VENV)/mypy.txt 2>&1 & \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --import-mode importlib tests plugins examples/own_plugin; \
	tests=$$?; wait $$!; types=$$?; cat $(VENV)/mypy.txt; exit $$((tests + types))

matrix: $(VENV)/.installed
	$(BIN)/tox -m matrix

lint: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(VENV)/.installed
	$(BIN)/mypy

# Into site/, without any request. The variable silences the theme's notice that it is maintained until May 2027.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) demo-results dist site
