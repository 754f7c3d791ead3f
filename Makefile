# Two commands, each doing its own set-up: `make repro` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
# stages run as `python -m stages.NAME`, so the environment's python must come first
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" DVC_NO_ANALYTICS=1

.PHONY: repro test test-cluster test-rest lint lock clean

repro: .venv/ready
	$(RUN) dvc repro
	$(RUN) kdeov publish
	$(RUN) kdeov summary

# Two at a time: tests on Ray's cluster mostly wait, and the others mostly have one thread.
test: .venv/ready lint
	$(MAKE) --jobs=2 --output-sync=target --keep-going test-cluster test-rest

test-cluster: .venv/ready
	$(RUN) pytest -m cluster

test-rest: .venv/ready
	$(RUN) pytest -m "not cluster"

lint: .venv/ready
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

# Takes what is installed as the new lock: names and versions only.
lock: .venv/ready
	$(BIN)/pip freeze --exclude-editable --all | grep -v -E '^(pip|kdeov)\b' > requirements.lock

clean:
	rm -rf out work
