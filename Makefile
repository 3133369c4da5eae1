# Newcomers need two commands: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
# Files of tests run in so many processes, each with one thread; more of them disturb what tests measure.
PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile
.PHONY: demo test test-all lint bench clean

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hwnas needs Python 3.11 or newer; name one: make PYTHON=python3.11 demo")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (PyTorch is several GB; once)"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet -e '.[test,dev]'
	@touch $@

demo: $(VENV)/.installed  ## profile this CPU, train, search, verify, export, report
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/end_to_end.sh "$(RUN)"

test: $(VENV)/.installed  ## lint and the tests, with a list of all skips
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed  ## all tests, the long ones too
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST)

lint: $(VENV)/.installed
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(VENV)/.installed  ## the short benchmarks; benchmarks/README.md says what each shows
	@for each in pricing parity elastic; do echo "== $$each"; $(BIN)/python benchmarks/$$each.py || exit 1; done

clean:  ## the environment and build products; what was measured and trained stays in runs/
	rm -rf $(VENV) build dist
