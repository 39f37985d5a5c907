# Every target sets up what it needs; on a fresh machine run it as root or with sudo.
SHELL := /bin/bash
PYTHON ?= .venv/bin/python
CODE := gestalt agent coordinator plugins tests $(wildcard bench demo packaging) setup.py
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup packages docker lint format test soak test-rpm bench rpm srpm proto settings lock demo demo-down lab lab-down clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup:           ## the virtual environment .venv, with the development tools
	@scripts/setup.sh dev

packages:        ## the system packages that tests need
	@scripts/install-packages test

docker:          ## a Docker Engine that answers; tests that need one are skipped by name without
	@scripts/ensure-docker || [ $$? = 3 ]

lint: setup      ## style, types, import rules, generated code
	$(PYTHON) -m ruff check $(CODE)
	$(PYTHON) -m ruff format --check $(CODE)
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy demo
	.venv/bin/lint-imports
	@scripts/proto-check.sh

format: setup    ## put the code into shape
	$(PYTHON) -m ruff check --fix $(CODE)
	$(PYTHON) -m ruff format $(CODE)

test: packages setup docker  ## the tests, but for the RPMs' long ones and the soak (PYTEST_ARGS='-k docker' for some)
	$(PYTHON) -m pytest $(PYTEST_ARGS) </dev/null

soak: packages setup docker  ## the long random runs (GESTALT_SOAK_SECONDS=1800 each; GESTALT_SOAK_SEED: the cluster's once more)
	GESTALT_SOAK_SECONDS=$${GESTALT_SOAK_SECONDS:-1800} $(PYTHON) -m pytest -m soak -s --timeout=0 $(PYTEST_ARGS) </dev/null

test-rpm: packages rpm-packages setup docker  ## the RPMs: built twice and compared, installed, upgraded, broken and erased on lab nodes (15 min)
	$(PYTHON) -m pytest -m rpm --timeout=900 $(PYTEST_ARGS) </dev/null

bench: packages setup docker  ## the figures of docs/performance.md, measured on this machine (BENCH="failover --runs 3": one of them)
	$(PYTHON) -m bench $(BENCH)

rpm: rpm-packages  ## the RPMs, in build/rpm (RPM_SIGN_KEY=NAME: signed): docs/install.md
	@scripts/rpm.sh rpm

srpm: rpm-packages  ## the source RPM, from which they are built elsewhere without network
	@scripts/rpm.sh srpm

.PHONY: rpm-packages
rpm-packages:
	@scripts/install-packages rpm

proto: setup     ## the Python code of proto/, anew
	@scripts/proto.sh

settings: setup  ## packaging/settings, the commented list of every setting, anew from the models
	@$(PYTHON) -m gestalt.settings_reference packaging/settings

lock:            ## requirements.lock, the exact versions for the release build, anew
	@scripts/lock.sh

demo:            ## a real application on this machine, from nothing to updated without a failed request
	@scripts/install-packages demo
	@scripts/setup.sh run
	@$(PYTHON) -m demo up

demo-down:       ## remove every trace of the demo
	@scripts/setup.sh run
	@$(PYTHON) -m demo down

lab: packages setup docker  ## a cluster of N nodes on this machine (N=3), to try and to break: docs/lab.md
	@$(PYTHON) -m tests.cluster.lab up $(or $(N),3)

lab-down:        ## remove the lab
	@$(PYTHON) -m tests.cluster.lab down

clean:           ## remove what tools leave in the tree; not .venv, not a running demo
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
