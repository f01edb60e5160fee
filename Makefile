PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
# with compiled modules, as an installation has them: hundreds of processes import rsr in the tests
RUN    := PYTHONDONTWRITEBYTECODE= PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
FIRSTS := $(PYTHON) $(filter-out $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10)

.DEFAULT_GOAL := help
.PHONY: help install model demo test test-trainers test-cluster notebooks tutorials readme lint check bench clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*##\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

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
	@echo "installing rsr and what it needs into $(VENV): some 150 packages, 2 GB; one to two minutes, more on a slow line"
	@$(PY) -m pip install -qq --disable-pip-version-check --upgrade pip
	@PYTHONWARNINGS=ignore $(PY) -m pip install -qq --disable-pip-version-check -e '.[dev,local,parquet]'
	@echo "installed"
	@touch $@

model: install  ## fetch the embedded model, once (kept in the cache: $RSR_CACHE, else ~/.cache/rsr)
	@$(PY) -c 'from rsr.sampling.providers import fetch_model; fetch_model()'

demo: model  ## sample 32 short questions with the embedded model; writes to output/
	@echo "sampling 32 short questions with the embedded model: one to two minutes, five on a busy machine"
	@$(RUN) rsr demo

BOXED := ^[_.]|^(04_bubblewrap|05_local_sessions|07_pool|12_code|code_tests|security)\.

test: model  ## pytest, then every notebook (about twenty minutes on two cores)
	@command -v chromium >/dev/null || echo "no chromium here: the tests in a browser are left out (on Debian: apt-get install chromium)"
	@command -v bwrap >/dev/null || echo "no bubblewrap here: the tests of the sandbox are left out (on Debian: apt-get install bubblewrap)"
	$(RUN) python -m pytest -n 4 --dist loadfile --no-loadscope-reorder
	@bwrap --ro-bind / / --unshare-all true 2>/dev/null || echo "bubblewrap does not work here: its pages are left out"
	$(RUN) nbdev_test --do_print $$(bwrap --ro-bind / / --unshare-all true 2>/dev/null || echo '--skip_file_re $(BOXED)')

test-cluster: install  ## also over two hosts (network namespaces: as root, with iproute2), and from an object store (moto)
	@$(PY) -m pip install -qq --disable-pip-version-check 'moto[server]>=5'
	$(RUN) env RSR_HOSTS=1 RSR_CLUSTER=1 python -m pytest -q tests/test_hosts.py tests/test_cluster.py \
	  tests/test_cluster_goals.py tests/test_cluster_kinds.py

# each trainer in an environment of its own, made anew when its pins change
TORCH   := torch==2.13.0
LIGHT   := -r tests/trainers/rsr.txt
TPIP    := -m pip install -qq --disable-pip-version-check

test-trainers: .venv-trl/.installed .venv-llamafactory/.installed  ## train with TRL, load with LLaMA-Factory, what rsr writes (minutes, 3 GB)
	.venv-trl/bin/python -m pytest -q --no-header -W ignore tests/trainers/trl_check.py
	.venv-llamafactory/bin/python -m pytest -q --no-header -W ignore tests/trainers/llamafactory_check.py

.venv-trl/.installed: tests/trainers/trl.txt tests/trainers/rsr.txt
	@echo "making .venv-trl (a minute or two)"
	@$(PYTHON) -m venv --clear .venv-trl && echo '*' > .venv-trl/.gitignore
	@.venv-trl/bin/python $(TPIP) $(TORCH)
	@.venv-trl/bin/python $(TPIP) -r tests/trainers/trl.txt $(LIGHT)
	@.venv-trl/bin/python $(TPIP) --no-deps -e .
	@touch $@

.venv-llamafactory/.installed: tests/trainers/llamafactory.txt tests/trainers/rsr.txt
	@echo "making .venv-llamafactory (a minute or two; pip lists what LLaMA-Factory asks for and these tests do without)"
	@$(PYTHON) -m venv --clear .venv-llamafactory && echo '*' > .venv-llamafactory/.gitignore
	@.venv-llamafactory/bin/python $(TPIP) $(TORCH)
	@.venv-llamafactory/bin/python $(TPIP) --no-deps llamafactory==0.9.5 torchdata==0.11.0
	@.venv-llamafactory/bin/python $(TPIP) -r tests/trainers/llamafactory.txt $(LIGHT)
	@# LLaMA-Factory imports torchaudio, whose wheel needs CUDA: an empty module serves
	@: > "$$(.venv-llamafactory/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchaudio.py"
	@.venv-llamafactory/bin/python $(TPIP) --no-deps -e .
	@touch $@

notebooks: install  ## run the numbered notebooks and the index, save their outputs; then clean, export, README
	$(RUN) nbdev_export
	@$(MAKE) --no-print-directory model
	$(RUN) python nbs/_build.py run
	$(RUN) nbdev_clean
	$(RUN) nbdev_export
	$(RUN) python nbs/_build.py readme

tutorials: model .venv-trl/.installed  ## run nbs/tutorials/, howto/ and gallery/, save their outputs (40 minutes; one of them trains with TRL)
	$(RUN) python nbs/_build.py run --tutorials

readme: install  ## make README.md from nbs/index.ipynb
	$(RUN) python nbs/_build.py readme

lint: install  ## ruff
	$(RUN) ruff check rsr tests nbs setup.py

check: lint  ## all else that CI checks: notebooks, package, README and site in step; the wheel and its light extras in empty environments
	$(RUN) python nbs/_build.py check
	$(RUN) python nbs/_build.py wheel

bench: model  ## how fast the machinery is
	$(RUN) python tests/bench.py

clean:  ## remove builds and caches (not .venv, not output/)
	rm -rf build dist *.egg-info _docs _proc .quarto .pytest_cache .ruff_cache
	find nbs rsr tests \( -name __pycache__ -o -name .ipynb_checkpoints -o -name .last_checked \) -prune -exec rm -rf {} +
