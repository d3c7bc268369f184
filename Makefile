# `make test` and `make demo` are all a newcomer needs; each first sets up what it runs in. See `make help`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv dev test lint demo test-newest clean

# make demo IMAGE=scene.tif, make test WORKERS=8, make venv PYTHON=/opt/python3.12/bin/python3
IMAGE ?=
WORKERS ?= 2
PYTHON ?=

INSTALL = bin/python -m pip install -qq --disable-pip-version-check
PYTEST = bin/python -m pytest -n $(WORKERS) --dist worksteal

help:
	@echo "make venv         .venv with the ltchm command in it (needs Python 3.11 or 3.12)"
	@echo "make test         every test"
	@echo "make lint         ruff and mypy"
	@echo "make demo         compress a drawn scene, or IMAGE=path, and compare with other codecs: demo/"
	@echo "make test-newest  every test that needs no TensorFlow, on the newest JAX, in .venv-newest"
	@echo "make clean        remove environments, caches and demo/"

venv: .venv/.installed
dev: .venv/.installed-dev

# A stamp is written last: a set-up that was cut off starts again, a finished one only when its input changes.
.venv/.installed: requirements.txt pyproject.toml
	@scripts/make_venv .venv "$(PYTHON)"
	@.venv/$(INSTALL) --requirement requirements.txt
	@.venv/$(INSTALL) --no-deps --editable .
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	@.venv/$(INSTALL) --requirement requirements-dev.txt
	@touch $@

.venv-newest/.installed: requirements-newest.txt
	@scripts/make_venv .venv-newest "$(or $(PYTHON),python3.12 python3.11 python3 python)"
	@.venv-newest/$(INSTALL) --requirement requirements-newest.txt
	@touch $@

test: dev
	@.venv/$(PYTEST)

lint: dev
	.venv/bin/ruff check
	.venv/bin/mypy

demo: venv
	@.venv/bin/python -m ltchm_jax.demo --effort 8 $(if $(IMAGE),"$(IMAGE)") --out demo

test-newest: .venv-newest/.installed
	@.venv-newest/$(PYTEST)

clean:
	rm -rf .venv .venv-newest .pytest_cache .mypy_cache .ruff_cache .hypothesis build demo ltchm_jax.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
