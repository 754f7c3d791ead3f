# `make` alone prints what there is. Every target makes the environment .venv first, where it is missing.

PYTHON ?= python3
BIN := .venv/bin
# stages run as `python -m stages.NAME`, so the environment's python must come first
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" DVC_NO_ANALYTICS=1
# Containers often set it. Then no bytecode is kept, and every process compiles all of torch again.
export PYTHONDONTWRITEBYTECODE :=

FAST := OMP_NUM_THREADS=1 pytest -q -m "not slow and not cluster"

.DEFAULT_GOAL := help
.PHONY: help repro test test-cluster test-end-to-end test-pipeline test-kdeov test-fast test-fast-a test-fast-b \
	lint format docs check lock clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

repro: .venv/ready  ## run the pipeline from raw images to the report
	$(RUN) dvc repro
	$(RUN) kdeov publish
	$(RUN) kdeov summary

# Three at a time, the next as soon as one ends: tests on Ray's cluster mostly wait, and the others
# mostly have one thread.
test: .venv/ready  ## lint, and run all tests: 19 minutes on two cores
	shared=$$(mktemp -d) && trap 'rm -rf "$$shared"' EXIT && export KDEOV_TESTS_SHARED="$$shared" && \
	$(MAKE) --jobs=3 --output-sync=target --keep-going \
		test-cluster test-end-to-end test-pipeline test-kdeov lint

test-cluster: .venv/ready
	$(RUN) pytest -m cluster

test-end-to-end: .venv/ready
	$(RUN) pytest -m "not cluster" tests/end_to_end

test-pipeline: .venv/ready
	$(RUN) OMP_NUM_THREADS=1 pytest -m "not cluster" tests/pipeline

test-kdeov: .venv/ready
	$(RUN) OMP_NUM_THREADS=1 pytest tests/docs tests/kdeov tests/gpu

test-fast: .venv/ready  ## run the quick unit tests: 3 minutes
	$(MAKE) --jobs=2 --output-sync=target --keep-going test-fast-a test-fast-b

test-fast-a: .venv/ready
	$(RUN) $(FAST) tests/docs tests/kdeov tests/pipeline/prepare tests/pipeline/search

test-fast-b: .venv/ready
	$(RUN) $(FAST) tests/pipeline --ignore=tests/pipeline/bench \
		--ignore=tests/pipeline/prepare --ignore=tests/pipeline/search

lint: .venv/ready  ## check style, types, imports between wings, and spelling
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports --no-logo
	$(RUN) codespell

format: .venv/ready  ## format the code, and mend what ruff can mend
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs: .venv/ready  ## write the pages and the figure that are generated
	$(RUN) kdeov params > docs/params.md
	$(RUN) kdeov scaling > docs/scaling.md
	$(RUN) kdeov figure -o docs/results.svg

check: lint test-fast  ## what to run before a commit: lint and test-fast

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --no-deps --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

# Keeps the versions of the present lock where pyproject.toml allows them; UPGRADE=--upgrade takes
# the newest, UPGRADE="--upgrade-package NAME" those of one package.
lock: .venv/ready  ## resolve pyproject.toml into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --all-extras --no-header --no-annotate $(UPGRADE) \
		pyproject.toml -o requirements.lock

clean:  ## delete results and scratch: out/ and work/
	rm -rf out work
