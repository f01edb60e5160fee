PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
RUN    := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
FIRSTS := $(PYTHON) $(filter-out $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10)

.DEFAULT_GOAL := help
.PHONY: help install model demo test notebooks tutorials readme lint check bench clean

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*##\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(STAMP)  ## .venv with the package and its dev, local and parquet extras (PYTHON=… picks the Python)

$(STAMP): settings.ini setup.py
	@$(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  for p in $(FIRSTS); do \
	    command -v "$$p" >/dev/null || continue; \
	    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	      { echo "$$p is $$("$$p" -V 2>&1), and rsr needs Python 3.10 or later: not used" >&2; continue; }; \
	    "$$p" -c 'import venv, ensurepip' 2>/dev/null || \
	      { echo "$$p has no venv module (on Debian and Ubuntu: apt-get install python3-venv): not used" >&2; continue; }; \
	    echo "making $(VENV) with $$p ($$("$$p" -V))"; "$$p" -m venv --clear $(VENV) && break; \
	  done; \
	  test -f $(VENV)/pyvenv.cfg || \
	    { echo "No usable Python found. Install Python 3.10 or later with venv, or name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }; }
	@echo "installing rsr and what it needs into $(VENV) (a minute or two)"
	@$(PY) -m pip install -qq --disable-pip-version-check --upgrade pip
	@PYTHONWARNINGS=ignore $(PY) -m pip install -qq --disable-pip-version-check -e '.[dev,local,parquet]'
	@touch $@

model: install  ## fetch the embedded model, once (kept in the cache: $RSR_CACHE, else ~/.cache/rsr)
	@$(PY) -c 'from rsr.samplers import fetch_model; fetch_model()'

demo: model  ## sample 30 short questions with the embedded model; writes to output/
	@$(RUN) rsr demo

test: model  ## pytest, then every notebook
	$(RUN) python -m pytest
	$(RUN) nbdev_test --do_print

notebooks: install  ## run the numbered notebooks and the index, save their outputs; then clean, export, README
	$(RUN) nbdev_export
	@$(MAKE) --no-print-directory model
	$(RUN) python nbs/_build.py run
	$(RUN) nbdev_clean
	$(RUN) nbdev_export
	$(RUN) python nbs/_build.py readme

tutorials: model  ## run nbs/tutorials/ and save their outputs (long)
	$(RUN) python nbs/_build.py run --tutorials

readme: install  ## make README.md from nbs/index.ipynb
	$(RUN) python nbs/_build.py readme

lint: install  ## ruff
	$(RUN) ruff check rsr tests nbs setup.py

check: lint  ## all else that CI checks: notebooks, package, README and site in step; the wheel in an empty environment
	$(RUN) python nbs/_build.py check
	$(RUN) python nbs/_build.py wheel

bench: model  ## how fast the machinery is
	$(RUN) python tests/bench.py

clean:  ## remove builds and caches (not .venv, not output/)
	rm -rf build dist *.egg-info _docs _proc .quarto .pytest_cache .ruff_cache
	find nbs rsr tests \( -name __pycache__ -o -name .ipynb_checkpoints -o -name .last_checked \) -prune -exec rm -rf {} +
