# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BACKENDS := .venv-backends
WHEEL := .venv-wheel
OLDEST := .venv-oldest
NEXT := .venv-next
PROJECT := pyproject.toml setup.cfg constraints.txt
UNREACHABLE := kbn: installing failed (see above); if the package index cannot be reached, connect to it or set PIP_INDEX_URL to a mirror, then run make again.
PIP := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo test test-long lint docs bench zoo cures test-backends test-wheel test-oldest test-next dist clean
.DELETE_ON_ERROR:
.PRECIOUS: %/bin/python
.NOTPARALLEL: # two targets must not install into one environment at once

help:
	@echo "make demo           train with and without batch norm, print a table, draw a picture"
	@echo "make test           the suite on TensorFlow, without its long rows"
	@echo "make test-long      all of it: every row, and thousands of random examples"
	@echo "make test-backends  the layer and the monitor on JAX and on torch"
	@echo "make test-wheel     the suite on the built wheel, outside of the checkout"
	@echo "make test-oldest    the suite on the oldest versions that kbn supports"
	@echo "make test-next      the suite on the next versions of Keras and TensorFlow"
	@echo "make dist           the sdist and the wheel, built and checked"
	@echo "make lint           ruff and mypy"
	@echo "make docs           the site of the docs, into build/docs"
	@echo "make zoo            alerts on networks that are healthy and on sick ones, three seeds"
	@echo "make cures          each alert's remedy, tried on sick networks"
	@echo "make bench          all benchmarks, each under two minutes, into benchmarks/RESULTS.md"

demo: $(VENV)/.has-demo
	$(VENV)/bin/kbn demo

test: $(VENV)/.has-test
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal

lint: $(VENV)/.has-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# All of it anew: docstrings and scripts are pages too, which no page's date tells.
docs: $(VENV)/.has-docs
	rm -rf build/docs
	$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet \
	  --fresh-env --builder html docs build/docs
	@echo "written: build/docs/index.html"

# UNDER="taskset --cpu-list 0,1" runs each benchmark under that command.
bench: $(VENV)/.has-bench $(BACKENDS)/.has-test
	$(VENV)/bin/python benchmarks/results.py --under "$(UNDER)"

zoo: $(VENV)/.has-test
	$(VENV)/bin/python benchmarks/zoo.py

cures: $(VENV)/.has-test
	$(VENV)/bin/python benchmarks/cures.py

# -m '' takes what is marked `long` too; so does -m long, alone.
test-long: $(VENV)/.has-dev $(BACKENDS)/.has-test
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal -m ''
	KERAS_BACKEND=jax $(BACKENDS)/bin/python -m pytest --numprocesses 2 --dist worksteal -m ''
	KERAS_BACKEND=torch $(BACKENDS)/bin/python -m pytest --numprocesses 2 --dist worksteal -m ''

test-backends: $(BACKENDS)/.has-test
	KERAS_BACKEND=jax $(BACKENDS)/bin/python -m pytest --numprocesses 2 --dist worksteal
	KERAS_BACKEND=torch $(BACKENDS)/bin/python -m pytest --numprocesses 2 --dist worksteal

test-wheel: $(VENV)/.has-dev | $(WHEEL)/bin/python
	.ci/test-wheel $(VENV)/bin/python $(WHEEL)/bin/python

test-oldest: $(OLDEST)/.has-test
	$(OLDEST)/bin/python -m pytest --numprocesses 2 --dist worksteal

test-next: $(NEXT)/.has-test
	$(NEXT)/bin/python -m pytest --numprocesses 2 --dist worksteal

# TAG=v1.2.3 refuses to build another version than that.
dist: $(VENV)/.has-release
	.ci/check-version $(VENV)/bin/python "$(TAG)"
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist .
	$(VENV)/bin/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) $(BACKENDS) $(WHEEL) $(OLDEST) $(NEXT) build dist *.egg-info kbn-demo

# One stamp an extra: a newcomer's `make demo` does not wait for mypy.
$(VENV)/.has-%: $(PROJECT) | $(VENV)/bin/python
	@echo "installing kbn[$*] into $(VENV) (TensorFlow is large: this takes minutes once)"
	@$(VENV)/bin/python $(PIP) --editable '.[$*]' || { echo "$(UNREACHABLE)"; exit 1; }
	@touch $@

# kbn without its dependencies: TensorFlow must not be there. Of TensorBoard, only what
# writes event files: --no-deps leaves its server's dependencies out.
$(BACKENDS)/.has-test: $(PROJECT) | $(BACKENDS)/bin/python
	@echo "installing jax and torch into $(BACKENDS) (this takes minutes once)"
	@$(BACKENDS)/bin/python $(PIP) torch==2.13.0 && \
	$(BACKENDS)/bin/python $(PIP) jax keras numpy scikit-learn pytest pytest-xdist hypothesis allpairspy && \
	$(BACKENDS)/bin/python $(PIP) --no-deps tensorboard protobuf && \
	$(BACKENDS)/bin/python $(PIP) --no-deps --editable . || { echo "$(UNREACHABLE)"; exit 1; }
	@touch $@

$(OLDEST)/.has-test: $(PROJECT) constraints-oldest.txt | $(OLDEST)/bin/python
	@echo "installing TensorFlow and Keras as old as can be into $(OLDEST) (this takes minutes once)"
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints-oldest.txt --editable '.[test]' || { echo "$(UNREACHABLE)"; exit 1; }
	@touch $@

# --no-deps: pip would install keras, which kbn requires, into the folder of keras-nightly,
# which TensorFlow requires.
$(NEXT)/.has-test: $(PROJECT) constraints-next.txt | $(NEXT)/bin/python
	@echo "installing the next TensorFlow and Keras into $(NEXT) (this takes minutes once)"
	@$(NEXT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --requirement constraints-next.txt --editable . || { echo "$(UNREACHABLE)"; exit 1; }
	@touch $@

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "kbn needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); run: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $*
