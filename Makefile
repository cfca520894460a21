# make quickstart   the first run: environment, training, where to look
# make test         every test, slow ones included
# make claims       the paper's claims in the micro world: sweep, report, table of verdicts; goes on where it stopped
# make lint         ruff and mypy
# make clean        remove the environment and what tools leave behind; runs stay
#
# PYTHON names the interpreter that makes the environment (3.11 or later), WORKERS the test processes, SEEDS and JOBS
# the seeds of the claims and how many runs go at once.

PYTHON ?= python3
WORKERS ?= 2
SEEDS ?= 0-2
JOBS ?= 2
# The models here are small: more threads gain little, and threads that wait for a busy core cost a lot.
export OMP_NUM_THREADS ?= 1

ENVIRONMENT := .venv
RUN := $(ENVIRONMENT)/bin/
PIP := $(RUN)python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt
TORCH := $(shell grep '^torch==' constraints.txt)
SOURCES := pyproject.toml constraints.txt

.PHONY: help quickstart test claims lint clean environment development
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

quickstart: environment
	@$(RUN)lit-sdpo fit --config configs/micro/quickstart.yaml
	@folder=$$(ls -td runs/quickstart/version_* | head -n 1) && printf '%s\n' '' \
	  "The run is finished. Look next at" \
	  "  $$folder/matrix.csv      the score on every task after every stage" \
	  "  $$folder/samples.jsonl   what the model wrote, with its rewards" \
	  "  $(RUN)tensorboard --logdir runs   charts; start at Custom Scalars"

test: development
	@$(RUN)python -m pytest -n $(WORKERS) --dist worksteal

claims: environment
	@$(RUN)lit-sdpo sweep configs/micro/claims.yaml --seeds $(SEEDS) --jobs $(JOBS) --out runs/claims
	@$(RUN)lit-sdpo report runs/claims -o runs/claims-report --overwrite

lint: development
	@$(RUN)ruff check .
	@$(RUN)ruff format --check .
	@$(RUN)mypy

clean:
	rm -rf $(ENVIRONMENT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

environment: $(ENVIRONMENT)/.installed
development: $(ENVIRONMENT)/.installed-development

# An environment that is there and has pip is used as it is.
$(ENVIRONMENT)/.made:
	@if ! $(RUN)python -m pip --version >/dev/null 2>&1; then \
	  command -v $(PYTHON) >/dev/null || { \
	    echo "There is no '$(PYTHON)'. Install Python 3.11 or later, or name one: make PYTHON=/path/to/python3"; exit 1; }; \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$$($(PYTHON) --version) is too old. Name Python 3.11 or later: make PYTHON=/path/to/python3"; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' cannot make environments. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }; \
	  $(PYTHON) -m venv --clear $(ENVIRONMENT); \
	fi
	@touch $@

$(ENVIRONMENT)/.installed: $(SOURCES) | $(ENVIRONMENT)/.made
	@echo "Installing lit_sdpo into $(ENVIRONMENT) (some minutes the first time) ..."
	@$(PIP) '$(TORCH)'
	@$(PIP) -e .
	@touch $@

$(ENVIRONMENT)/.installed-development: $(ENVIRONMENT)/.installed
	@$(PIP) -e '.[dev,notebooks,hub,gym,small]'
	@touch $@
