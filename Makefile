# make help says what there is. Nothing is needed but Python 3.10 or newer, pip and make.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: help demo test test-oldest notebooks docs lab clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         set up .venv and run the whole path once (ARGS='--minutes 3' for more)"
	@echo "make test         set up .venv and run everything that CI runs"
	@echo "make test-oldest  run the tests with the oldest versions that are supported"
	@echo "make notebooks    run all notebooks and store their outputs"
	@echo "make docs         prepare the site, and render it where Quarto is installed"
	@echo "make lab          open the notebooks in JupyterLab"
	@echo "make clean        remove environments and what was built"

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed, this is %s: make PYTHON=python3.12 …" % sys.version.split()[0])'
	@echo "== environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: constraints.txt settings.ini setup.py pyproject.toml | $(VENV)/.python
	@echo "== installing lmnotes and what it runs on, as constraints.txt says"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: constraints.txt settings.ini setup.py pyproject.toml | $(VENV)/.python
	@echo "== installing lmnotes with its tools for development, as constraints.txt says"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	@echo "== lmnotes demo"
	@again=; case "$(ARGS)" in *--output-dir*|*--overwrite*|*--resume*) ;; *) \
	  if [ -e runs/demo/metrics.json ]; then again=--overwrite; elif [ -e runs/demo/choices.json ]; then echo "   going on with the run that was stopped in runs/demo (make demo ARGS=--overwrite starts anew)"; again=--resume; fi;; esac; \
	  $(BIN)/lmnotes demo $$again $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/python tools/check.py
	@echo "== every notebook runs, each from an empty folder, with the wheel"
	@$(BIN)/python tools/run_notebooks.py --check --wheel --jobs 2
	@echo "== tests, as many at a time as there are cores (eight at most)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --numprocesses auto --maxprocesses 8 --dist loadfile

test-oldest:
	@$(MAKE) --no-print-directory VENV=.venv-oldest .venv-oldest/.oldest
	@echo "== tests with the oldest supported versions"
	@OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest tests --numprocesses auto --maxprocesses 8 --dist loadfile

.venv-oldest/.oldest: constraints-oldest.txt settings.ini setup.py pyproject.toml | .venv-oldest/.python
	@echo "== installing the oldest supported versions"
	@.venv-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt -e . pytest pytest-xdist nltk hypothesis "setuptools>=77"
	@touch $@

notebooks: $(VENV)/.dev
	@$(BIN)/python tools/run_notebooks.py
	@$(BIN)/nbdev_clean
	@$(BIN)/python tools/readme.py

docs: $(VENV)/.dev
	@rm -rf _proc
	@PYTHONPATH="$(CURDIR)" $(BIN)/python tools/prepare_pages.py
	@if command -v quarto >/dev/null; then rm -rf _docs && (cd _proc && quarto render --no-cache) && mv _proc/_docs _docs && $(BIN)/python tools/finish_site.py _docs && echo "The site is in _docs/."; else echo "The pages are prepared in _proc/. Rendering was skipped: Quarto is not installed (https://quarto.org)."; fi

lab: $(VENV)/.dev
	@$(BIN)/jupyter lab nbs

clean:
	rm -rf .venv .venv-oldest build dist _docs _proc lmnotes.egg-info .pytest_cache
