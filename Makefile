# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# The versions CI runs with; `make CONSTRAINTS=/dev/null` takes the newest that pyproject.toml allows.
CONSTRAINTS ?= .ci/constraints.txt
BIN = $(VENV)/bin
# pymoo's and torch's threads would fight each other under parallel tests.
WORKERS ?= 2

.PHONY: demo test check lint types docs format clean

$(VENV)/.installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[zoo,detection,export,qonnx,algorithms,dask,parquet,notebooks,test,dev,docs]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/evoq demo --output demo

test: $(VENV)/.installed
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

# The site, into site/; strict: a broken link or an unknown name is an error. Nothing is fetched.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint types docs test

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo site build dist *.egg-info
