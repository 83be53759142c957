# `make run` starts a node; `make test` sets up what the tests need and runs them.
# Needs make and Python 3.11 or later, nothing else. PYTHON=... chooses another interpreter.

PYTHON ?= python3
WORKERS ?= 2
CONFIG ?= config/dicomnode.toml
# For how long `make fuzz` runs each target.
FUZZ_SECONDS ?= 60
# How much of the long form of the tests `make proof` runs.
PROOF ?= 1
# The parts of docs/performance.md, in the order in which they are measured; RUNS=3 is how often
# each thing is, where that is left to choose.
BENCH ?= limits breakdown load retrieve send worklist commitment verify store query growth

VENV := .venv
BIN := $(VENV)/bin
# The stamps are newer than pyproject.toml while the environment holds what it asks for.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench
INSTALLED_FUZZ := $(VENV)/.installed-fuzz
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help install run test proof fuzz lint format package bench peers clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name words; do printf '%-16s %s\n' "$$name" "$$words"; done

install: $(INSTALLED) ## Make .venv and install dicomnode into it
	@echo "dicomnode is installed in $(VENV); make run starts it"

run: $(INSTALLED) ## Install, then start the node with config/dicomnode.toml
	@exec $(BIN)/dicomnode run --config $(CONFIG)

test: $(INSTALLED_DEV) peers ## Set up everything the tests need and run them
	@$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

proof: $(INSTALLED_DEV) peers ## Run the long form of those that have one: hours; PROOF=0.1 is a tenth
	@failed=0; \
	DICOMNODE_PROOF=$(PROOF) $(BIN)/python -m pytest -n $(WORKERS) -m proof $(PYTEST_ARGS) || failed=1; \
	DICOMNODE_PROOF=$(PROOF) $(BIN)/python -m tests.interop.matrix --write || failed=1; \
	$(BIN)/python -m bench.load --hours $(PROOF) || failed=1; \
	exit $$failed

fuzz: $(INSTALLED_FUZZ) ## Fuzz every reader of bytes of unknown origin, FUZZ_SECONDS=60 each
	@for target in $$($(BIN)/python -c "import fuzz; print(*fuzz.TARGETS)"); do \
		echo "$$target"; \
		$(BIN)/python -m fuzz.run $$target -max_total_time=$(FUZZ_SECONDS) -timeout=20 \
			-print_final_stats=1 -verbosity=0 || exit 1; \
	done

lint: $(INSTALLED_DEV) ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED_DEV) ## Rewrite the files in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

package: $(INSTALLED_DEV) ## Build wheel and sdist, install the wheel elsewhere and run it there
	@.ci/check_package $(BIN)/python

bench: $(INSTALLED_BENCH) peers ## Measure, beside DCMTK and Orthanc; writes docs/performance.md; BENCH="store load" does parts
	@missed=0; \
	for part in $(BENCH); do \
		case $$part in breakdown|growth|load) runs= ;; *) runs="$(if $(RUNS),--runs $(RUNS))" ;; esac; \
		$(BIN)/python -m bench.$$part --write $$runs || missed=1; \
	done; \
	exit $$missed

peers: ## Install DCMTK, Orthanc, GDCM, tshark and promtool, where apt-get is there and allowed
	@.ci/install_peers

clean: ## Remove the environment and the caches, never the stored objects under var/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .bench .fuzz

$(INSTALLED): pyproject.toml
	@.ci/make_venv "$(PYTHON)" $(VENV)
	@echo "installing dicomnode into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(INSTALLED_DEV): pyproject.toml
	@.ci/make_venv "$(PYTHON)" $(VENV)
	@echo "installing dicomnode and its test tools into $(VENV)"
	@$(PIP) install --editable '.[dev]'
	@touch $(INSTALLED) $@

$(INSTALLED_BENCH): $(INSTALLED_DEV)
	@echo "installing what draws and samples into $(VENV)"
	@$(PIP) install --editable '.[bench]'
	@touch $@

$(INSTALLED_FUZZ): $(INSTALLED_DEV)
	@echo "installing atheris into $(VENV)"
	@$(PIP) install --editable '.[fuzz]'
	@touch $@
