# make demo: train, test and report on the embedded demo.   make test: the test suite, JOBS tests at a time.
# make lock: writes the versions and hashes of all packages anew, after a change of requirements*.txt.
PYTHON ?= python3
JOBS ?= 3
VENV := .venv
BIN := $(VENV)/bin
LOCK := uv pip compile --quiet --no-header --universal --python-version 3.11 --generate-hashes --no-emit-index-url
AUDITED := https://pypi.org/pypi/pip/25.0/json

.PHONY: demo test lint audit lock clean

demo: $(VENV)/demo.stamp
	$(BIN)/python train.py

test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -rs --durations 25

lint: $(VENV)/test.stamp audit
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

audit: $(VENV)/test.stamp
	@if $(BIN)/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=10)' $(AUDITED) 2> /dev/null; \
	then $(BIN)/pip-audit --local --skip-editable; \
	else echo "pip-audit: not checked, for the list of known faults cannot be reached"; fi

lock: | $(BIN)/uv
	$(BIN)/$(LOCK) requirements-test.txt -o requirements-test.lock
	$(BIN)/$(LOCK) requirements.txt -c requirements-test.lock -o requirements.lock
	$(BIN)/$(LOCK) requirements-build.txt -c requirements-test.lock -o requirements-build.lock

clean:
	rm -rf $(VENV)

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-build.lock

$(VENV)/demo.stamp: requirements.lock requirements-build.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements-build.lock
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp requirements-test.lock
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements-test.lock
	touch $@
