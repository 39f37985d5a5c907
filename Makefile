# Every target sets up what it needs; on a fresh machine run it as root or with sudo.
PYTHON ?= .venv/bin/python

.PHONY: setup lint test
lint:
	$(PYTHON) -m ruff check gestalt agent coordinator plugins tests bench setup.py
	$(PYTHON) -m ruff format --check gestalt agent coordinator plugins tests bench setup.py
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
test:
	$(PYTHON) -m pytest
