# `make image` and `make test` do all their set-up: Python >= 3.11 is the only need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROMPT ?= a cat in the snow
SEED ?= 0
IMAGE ?= cat.png
NUMERIC := tests/diffusion tests/schedulers tests/test_sampling.py tests/test_seeding.py \
  tests/pipelines/test_parity_with_diffusers.py tests/models/test_autoencoder.py \
  tests/evaluation/test_distances.py tests/evaluation/test_clip_score.py
DEVICE ?= cuda
DEVICE_PAGE ?= build/device
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help image test numerics slow torture api check format lint types docs gpu course pictures experiments \
  setup clean

help:
	@echo 'make image [PROMPT="a fox in the forest"] [SEED=3] [IMAGE=fox.png]   draw a picture'
	@echo 'make test     the test suite (under 6 minutes on 2 cores)'
	@echo 'make slow     the slow tests'
	@echo 'make torture  checkpoints under 200 kills, cut files, flipped bits (minutes)'
	@echo 'make api      the JSON API against its description, by schemathesis (minutes)'
	@echo 'make numerics the mathematics as processors without AVX-512, and without vectors, compute it'
	@echo 'make check    format, lint, types, tests, numerics, docs: what CI runs'
	@echo 'make format   rewrite the code in the house format'
	@echo 'make gpu      on a GPU: what works there and how fast, on one page (DEVICE=cpu rehearses it)'
	@echo 'make course   run the pages of the course and draw their plots'
	@echo 'make pictures draw the pictures of README.md and docs/ with the embedded model (minutes)'
	@echo 'make experiments   measure docs/experiments.md anew (20 minutes of a core)'

image: $(VENV)/.installed
	@$(BIN)/latentdiff generate "$(PROMPT)" --seed $(SEED) -o "$(IMAGE)"
	@echo
	@echo 'The command lies in $(BIN). To draw more, paste:'
	@echo '  $(BIN)/latentdiff generate "a fox in the forest" -o fox.png --seed 3'
	@echo 'or, once for this terminal, so that `latentdiff` alone is found:'
	@echo '  . $(BIN)/activate'

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

torture: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m torture -n 2 --dist worksteal tests/torture

# schemathesis brings many packages that nothing else here needs, so it is installed when it is run.
api: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --constraint constraints.txt 'schemathesis>=4.32'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/web/test_schemathesis.py

check: lint types test numerics docs

# The mathematics again as other processors compute it: without vectors, and with AVX2 alone.
numerics: $(VENV)/.installed-dev
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -n 2 --dist loadfile $(NUMERIC)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -n 2 --dist loadfile $(NUMERIC)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Types are checked on the layout that is installed: pipelines/ and train_scripts/ in their places.
types: $(VENV)/.installed-dev
	rm -rf build/types && mkdir -p build/types
	cp -R latentdiff build/types/latentdiff
	cp -R pipelines build/types/latentdiff/pipelines
	cp -R train_scripts build/types/latentdiff/train_scripts
	cd build/types && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p latentdiff

# On a machine with a GPU: all that has to work there, timed, on one page. DEVICE=cpu rehearses it.
gpu: $(VENV)/.installed-dev
	$(BIN)/latentdiff bench device --device $(DEVICE) -o $(DEVICE_PAGE)

course: $(VENV)/.installed-dev
	$(BIN)/python docs/course/run_course.py

pictures: $(VENV)/.installed-dev
	$(BIN)/python docs/draw_pictures.py

experiments: $(VENV)/.installed-dev
	$(BIN)/python docs/experiments/run_experiments.py

docs: $(VENV)/.installed-dev
	$(BIN)/python tests/docs_examples.py

setup: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "latentdiff needs Python 3.11 or newer; '$(PYTHON)' is" \
	    "$$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Making $(VENV) and installing (once; some minutes) ..."
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the libraries into $(VENV) (once; some minutes) ..."
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the libraries into $(VENV) (once; some minutes) ..."
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,lora]'
	@touch $(VENV)/.installed $@

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache
