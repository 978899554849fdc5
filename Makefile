# Every target sets up what it needs: the first call makes .venv from requirements.lock, a second does nothing.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
SERVER_READY := $(VENV)/.ready-server
BENCHMARK_READY := $(VENV)/.ready-benchmark
ROOMS := models/pretrained/rooms-0.5M.safetensors
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: committed-params help setup repro nyu original rooms pretrained sweep studies ui bench test test-server soak lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the environment in .venv

repro: .git $(READY) ## run the pipeline: fetch, preprocess, train, evaluate, report
	@dvc repro

nyu: .git $(READY) committed-params ## train on the official NYU Depth v2 file, downloaded first (2.97 GB)
	@dvc exp run -S fetch.source=nyu_v2 -S train.start_from=$(ROOMS) -S train.epochs=250 -S train.ema_decay=0.998 \
	  -S augment.zoom=1.5 -S augment.colour=0.7

rooms: .git $(READY) committed-params ## make the weights anew that training on NYU begins with: 2500 rendered rooms (20 minutes)
	@dvc exp run -S fetch.rooms.frames=2500 -S fetch.rooms.frames_per_scene=2 -S fetch.rooms.seed=1 \
	  -S fetch.rooms.test_fraction=0.05 -S preprocess.val_fraction=0.05 -S train.epochs=16
	@mkdir -p $(dir $(ROOMS)) && cp -L models/best.safetensors $(ROOMS)

original: .git $(READY) committed-params ## train on NYU by the original recipe: MSE + SSIM, Adam at 1e-4, flips and noise
	@dvc exp run -S fetch.source=nyu_v2 -S augment.at=shards -S augment.zoom=1.0 -S augment.colour=0.0 \
	  -S network.width=16 -S network.attention=0 -S loss.error=mse -S loss.ssim_weight=0.5 \
	  -S train.learning_rate=0.0001 -S train.schedule=constant -S train.weight_decay=0.0 -S train.ema_decay=0.0

pretrained: .git $(READY) ## keep the weights of the finished NYU training in models/pretrained, for git
	@python -m pipeline.export.pretrained

sweep: .git $(READY) ## compare five weights of the loss, two trainings at a time
	@depth sweep -S 'loss.ssim_weight=0.1,0.3,0.5,0.7,0.9' --name ssim-weight --jobs 2

studies: .git $(READY) ## run what is missing of the studies of studies/, write docs/experiments.md (hours)
	@depth study studies/*.yaml

ui: $(READY) ## browse the experiments in MLflow's UI
	@depth ui

bench: $(BENCHMARK_READY) ## measure speeds and costs against their limits
	@depth bench

test: $(READY) ## run the tests
	@OMP_NUM_THREADS=1 pytest -n 2 --dist loadscope

test-server: $(SERVER_READY) ## test against PostgreSQL, an S3 store and MLflow's server (minutes)
	@OMP_NUM_THREADS=1 pytest tests/server --durations=5

soak: $(READY) ## kill trainings at twenty random moments, read 30,000 damaged files (minutes)
	@OMP_NUM_THREADS=1 DEPTH_MUTATIONS=20 pytest -n 2 tests/data/test_damage.py
	@OMP_NUM_THREADS=1 DEPTH_KILLS=20 pytest -n 2 tests/stages/test_train.py -k kill_9

lint: $(READY) ## check style and types
	@ruff check . && ruff format --check . && mypy

format: $(READY) ## format the code
	@ruff check --fix . ; ruff format .

clean: ## remove the environment (data, models and runs stay)
	rm -rf $(VENV)

# These recipes change some parameters and take the others as committed, not as the last experiment left them.
committed-params:
	@git diff --quiet HEAD -- params.yaml || { echo "error: params.yaml differs from the commit, as experiments leave it;\
	 run: git restore params.yaml" >&2; exit 1; }

# A tarball has no history, and DVC needs a commit to compare with.
.git:
	@echo "error: this is no git repository, and DVC needs one; run: git init && git add -A && git commit -m start" >&2
	@exit 1

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up $(VENV) (a few minutes on first use)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: $(PYTHON) cannot make a virtual environment; on Debian install python3-venv" >&2; exit 1; }
	@{ $(VENV)/bin/pip install -q -r requirements.lock && $(VENV)/bin/pip install -q --no-deps -e . ; } \
	  >$(VENV)/setup.log 2>&1 || { tail -n 5 $(VENV)/setup.log >&2; \
	  if grep -qiE "(gcc|cc|c\+\+|compiler).*(not found|no such file|failed|required)|error: command '[^']*(gcc|cc|c\+\+)" $(VENV)/setup.log; \
	  then echo "error: a package must be compiled here and no compiler was found; on Debian install build-essential and python3-dev" >&2; \
	  else echo "error: the packages of requirements.lock could not be installed; $(VENV)/setup.log has the reason" >&2; fi; exit 1; }
	@touch $@

$(SERVER_READY): requirements-server.lock $(READY)
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing postgresql" && apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql >/dev/null; } || { \
	  echo "error: PostgreSQL is needed; on Debian: sudo apt-get install postgresql" >&2; exit 1; }
	@$(VENV)/bin/pip install -q -r requirements-server.lock -c requirements.lock >$(VENV)/setup.log 2>&1 || { \
	  tail -n 5 $(VENV)/setup.log >&2; \
	  echo "error: the packages of requirements-server.lock could not be installed; $(VENV)/setup.log has the reason" >&2; exit 1; }
	@touch $@

# Without dependencies, which requirements.lock has: none of these may bring another torch, or torchvision.
$(BENCHMARK_READY): requirements-benchmark.lock requirements-export.lock $(READY)
	@$(VENV)/bin/pip install -q --no-deps -r requirements-benchmark.lock -r requirements-export.lock >$(VENV)/setup.log 2>&1 || { \
	  tail -n 5 $(VENV)/setup.log >&2; \
	  echo "error: the packages of requirements-benchmark.lock and requirements-export.lock could not be installed; $(VENV)/setup.log has the reason" >&2; exit 1; }
	@touch $@
