# Every target sets up what it needs by itself, in this folder: .venv (locked packages, no torch), .venv-full (the same and
# torch), .venv-bench (the programs that the benchmark compares with), .venv-sbom (what lists the packages).
# Nothing is asked, nothing is installed elsewhere.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BIN := .venv/bin
FULL := .venv-full/bin
JOBS ?= 2
UPGRADE ?= --upgrade
ARGS ?=
# Modules whose every branch is covered by tests, and the tests that cover them.
CORE := lifecycle eligibility budgets queue queue_state \
  manifest manifest_jobs manifest_hosts manifest_table manifest_faults manifest_retention retention steering \
  peers join_token enrolment standing quotas redaction
# Those of a host's own side and of the command line reach none of these modules by another way.
ELSEWHERE := join renewal doctor_identity identities_command provenance every_verb
CORE_TESTS := $(filter-out $(ELSEWHERE:%=tests/contract/test_%.py),$(wildcard tests/contract/test_*.py)) tests/property \
  tests/unit/test_lifecycle.py tests/unit/test_eligibility.py tests/unit/test_budgets.py \
  $(wildcard tests/unit/test_manifest*.py) tests/unit/test_writer_and_reaper.py \
  $(patsubst %,tests/unit/test_%.py,access join_token enrolment standing quotas)

.PHONY: help demo demo-full demo-receiver test test-all test-browser test-cuda test-platforms test-faults seeded-faults coverage check format docs results \
  bench-tsc sbom lock clean setup-run setup-dev setup-full setup-all setup-bench setup-sbom

help: ## Print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  make test ARGS="-k lease -x"   passes options to pytest; JOBS=1 runs it in one process'
	@echo "  make demo-full TORCH='torch==2.13.0'   chooses the build of torch (200 MB for the CPU, gigabytes with CUDA)"

demo: setup-run ## Start a receiver and a worker here, train the four jobs that fit, show the artifacts
	@$(BIN)/python -m tools.demo $(ARGS)

demo-full: setup-full ## All fourteen jobs, deep models too, on two workers (needs torch; 2 minutes on 2 cores)
	@$(FULL)/python -m tools.demo --full $(ARGS)

demo-receiver: setup-run ## Serve the finished demo again, for cis490-jobs and a browser; Ctrl-C ends it
	@$(BIN)/python -m tools.demo --serve $(ARGS)

test: setup-dev ## Run the quick tests (5 minutes on 2 cores)
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

test-all: setup-all ## Run what the quick tests leave out: torch, the pages in Chromium, public data sets, slow ones, CUDA
	@$(FULL)/python -m pytest -q -n $(JOBS) --dist worksteal -m "(torch or cuda or public_data or slow or browser) and not faults" $(ARGS)

test-browser: setup-all ## Run the tests of the pages alone, in Chromium
	@$(FULL)/python -m pytest -q -n $(JOBS) --dist loadfile -m browser $(ARGS) tests/browser

test-cuda: setup-all ## Run the tests that need an NVIDIA GPU
	@$(FULL)/python -m pytest -q -m cuda $(ARGS)

test-platforms: setup-dev ## Services in systemd containers, the worker under Wine, both on emulated arm64 (as root, Debian)
	@scripts/platforms.sh
	@$(BIN)/python -m pytest -q -m platforms $(ARGS) tests/platforms

test-faults: setup-dev ## Break processes, networks and disks (5 to 10 minutes on 2 cores; as root it tries more)
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m faults tests/faults $(ARGS)

seeded-faults: setup-dev ## Break the code in one place after another: each fault must be caught by a test
	@$(BIN)/python -m tools.seeded_faults --jobs $(JOBS) $(ARGS)

coverage: setup-dev ## Show that every branch of the core modules is covered by tests
	@$(BIN)/python -m pytest -q -n $(JOBS) $(CORE:%=--cov=training.fleet.%) --cov-branch \
	  --cov-report=term-missing --cov-fail-under=100 $(CORE_TESTS) $(ARGS)

check: setup-dev ## Check format, lint, types and layers
	@$(BIN)/ruff format --check --quiet . || { echo 'not formatted; type: make format'; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup-dev ## Format the code and repair what the linter can repair
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup-dev ## Write the generated parts of docs/ again
	@$(BIN)/python -m tools.docs

results: setup-full ## Train the 14 jobs under three splits and write docs/results.md (5 to 10 minutes on 2 cores)
	@$(FULL)/python -m tools.results --jobs $(JOBS) $(ARGS)

bench-tsc: setup-all setup-bench ## Compare the models with aeon's on four public data sets, write docs/benchmarks-tsc.md
	@$(FULL)/python -m benchmarks.tsc --jobs $(JOBS) --write $(ARGS)

sbom: setup-sbom ## List every package that users install, with version and licence: dist/sbom/*.cdx.json (CycloneDX)
	@.venv-sbom/bin/python -m tools.sbom

# dev.txt first; run.txt takes its versions from there, so that both sets agree. torch itself is not locked: the right build
# depends on the host's GPU; torch.txt holds what every build of it imports. aeon's numba wants an older numpy than ours, so
# bench.txt is a set of its own, for an environment of its own (0.63.0b1 is a preview that claims more than it can).
LOCK := uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --group build --extra receiver --extra cli --extra worker --extra train
LOCK_LIST := uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --no-annotate
TORCH_IMPORTS := filelock fsspec jinja2 networkx setuptools sympy typing-extensions

lock: ## Choose and lock newer package versions (needs uv)
	@command -v uv >/dev/null || { echo 'make lock needs uv; type: python3 -m pip install --user uv'; exit 1; }
	@$(LOCK) $(UPGRADE) --extra worker-probes --extra dev --output-file requirements/dev.txt pyproject.toml
	@$(LOCK) --no-annotate --constraint requirements/dev.txt --output-file requirements/run.txt pyproject.toml
	@echo blockbuster | $(LOCK_LIST) $(UPGRADE) --output-file requirements/source.txt -
	@printf '%s\n' $(TORCH_IMPORTS) | $(LOCK_LIST) $(UPGRADE) --constraint requirements/dev.txt --output-file requirements/torch.txt -
	@printf '%s\n' 'aeon>=1.6' 'numba!=0.63.0b1' | $(LOCK_LIST) $(UPGRADE) --output-file requirements/bench.txt -
	@printf '%s\n' 'playwright>=1.60' 'axe-playwright-python>=0.1.8' | \
	  $(LOCK_LIST) $(UPGRADE) --constraint requirements/dev.txt --output-file requirements/browser.txt -
	@echo 'cyclonedx-bom>=7.5' | $(LOCK_LIST) $(UPGRADE) --constraint requirements/dev.txt --output-file requirements/sbom.txt -
	@echo aeon | $(LOCK_LIST) --no-deps --constraint requirements/bench.txt --output-file requirements/public-data.txt -

clean: ## Delete what set-up, tests and tools made (.venv*, caches; not the demo folders)
	@rm -rf .venv .venv-full .venv-bench .venv-sbom dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup-run setup-dev setup-full setup-all setup-bench setup-sbom:
	@scripts/setup.sh $(@:setup-%=%)
