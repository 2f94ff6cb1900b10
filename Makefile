# The index. `make help` lists the everyday targets, `make help ALL=1` all of them.
# RECIPE=<data_recipes/*.yaml> RUN=<runs/*> CLUSTER=<slurm/clusters/*.yaml> SET="stage1.lr=1e-5 serve.port=0" DRY=1 FRESH=1

PYTHON ?= python3
VARIABLES := RECIPE RUN CLUSTER SET DRY WAIT FRESH FG STAGE RANK MODEL MODEL_URL CATEGORIES CHECKPOINTS RUNS GATE REPO DATA WRONG OUT N DEVICE TORCH_INDEX_URL ALL \
	CMD DB SETTINGS SHARED DEVCLUSTER FULL WATCH
# Values reach the programs through the environment and as they were typed: neither make nor a shell ever expands them.
# Only what was given is exported: an empty RANK would make DeepSpeed believe that a launcher had numbered it.
GIVEN := $(foreach name,$(VARIABLES),$(if $(filter undefined,$(origin $(name))),,$(name)))
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
export $(GIVEN)

# Questions and logs are Chinese too: in another encoding than UTF-8 (LANG=zh_CN.GBK) printing them would be an error.
export PYTHONUTF8 := 1

READY := PYTHON='$(PYTHON)' sh slurm/env/setup.sh
PY := .venv/bin/python
SUBMIT := $(PY) -m slurm.submit
STATUS := $(PY) -m slurm.status

.DEFAULT_GOAL := help
.PHONY: help setup demo test stage1 stage2 serve bfcl status report logs cancel endpoint chat fetch preview surgery \
	teacher data baseline all compare smoke worldbench publish iterations oracle bfcl-data test-full check clean \
	devcluster-up devcluster-run devcluster-down test-cluster cluster-check
.SILENT:
# One target after the other, also where the shell's MAKEFLAGS says -j: stage2 waits for stage1.
.NOTPARALLEL:

help:
	awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile
	if [ -n "$$ALL" ]; then awk -F ':.*#[+] ' '/^[a-z0-9-]+:.*#[+] /{printf "  make %-15s %s\n", $$1, $$2}' Makefile; \
	else echo '  make help ALL=1   the other targets'; fi
	echo 'Variables: RECIPE= RUN= CLUSTER= SET="stage1.lr=1e-5" DRY=1 FRESH=1 FG=1; without RECIPE: v2, which needs GPUs'

demo: ## the whole chain on this machine with a tiny model: data, two training stages, server, BFCL
	$(READY)
	$(SUBMIT) demo

test: ## the tests, a real two-rank training and a real server among them
	$(READY)
	$(PY) -m pytest -q -m "not full and not cluster and not gpu"

stage1: ## train stage 1 (surgery and data before it, where they are missing)
stage2: ## train stage 2
serve: ## serve the run's newest model, in the background (FG=1: in front); make cancel ends it
bfcl: ## measure the run's model: held-out accuracy and BFCL; CATEGORIES= MODEL= MODEL_URL= CHECKPOINTS=all
surgery: #+ special tokens into the base model; MODEL=folder-or-id OUT=folder for a model of your own
teacher: #+ let the teacher answer the recipe's prompts
data: #+ build the shards; STAGE=stage1 those of one stage
baseline: #+ held-out accuracy before training
report: ## write runs/<RUN>/report/index.html
stage1 stage2 serve bfcl surgery teacher data baseline report:
	if [ "$@" = surgery ] && [ -n "$$MODEL" ]; then \
		$(READY) && $(PY) -m octupus.surgery --model "$$MODEL" --out "$${OUT:?name the folder to write: OUT=...}"; \
	elif [ "$@" = data ] && [ -n "$$STAGE" ]; then \
		set -f; $(READY) --for $@ && $(SUBMIT) stage surgery && $(PY) -m data_recipes.build "$$STAGE" \
			$${RECIPE:+--recipe "$$RECIPE"} $${RUN:+--run "$$RUN"} $${SET:+--set $$SET}; \
	elif [ "$@" = bfcl ] && [ -n "$$MODEL_URL" ]; then \
		$(READY) --only bfcl && .venv-bfcl/bin/python -m slurm.measured; \
	elif [ "$@" = bfcl ] && [ -n "$$CHECKPOINTS" ]; then \
		$(READY) && $(PY) -m slurm.checkpoints; \
	else \
		$(READY) --for $@ && $(SUBMIT) stage $@; \
	fi

all: #+ the whole chain of RECIPE
	$(READY) --for $@
	$(SUBMIT) all

status: ## what the runs are doing, here and on Slurm, and what to do next; WATCH=1 live
logs: ## follow the log of a stage: STAGE=stage1 RANK=0
cancel: ## end what runs or waits of a run, its server included; STAGE= that stage and what waits for it
endpoint: #+ where the run's server answers, its key, and how to reach it from a laptop
chat: #+ talk to the run's server in this terminal, with two small tools
status logs cancel endpoint chat:
	[ -x $(PY) ] || $(READY)
	$(STATUS) $@

fetch: #+ everything that RECIPE names on the hub, sizes first; HF_ENDPOINT= names a mirror
	$(READY)
	set -f; $(PY) -m data_recipes.fetch $${RECIPE:+--recipe "$$RECIPE"} $${SET:+--set $$SET}

preview: #+ what the model is trained on, supervised tokens in colour: N=3
	$(READY)
	set -f; $(PY) -m data_recipes.preview $${RECIPE:+--recipe "$$RECIPE"} $${RUN:+--run "$$RUN"} $${N:+--n "$$N"} \
		$${SET:+--set $$SET}

setup: #+ the two environments, .venv and .venv-bfcl: DEVICE=cuda|cpu
	$(READY)

compare: #+ is one run better than another: RUNS="a b" GATE=a
worldbench: #+ multi-turn tool use in worlds that were never trained on, at a run's endpoint or MODEL_URL=; N=20
smoke: #+ ten calls against a run's endpoint, or MODEL_URL=
publish: #+ a run to the hub: RUN= REPO=owner/name DATA=1 DRY=1
iterations: #+ docs/iterations.md from the score files of the runs
compare smoke worldbench publish iterations:
	$(READY)
	$(PY) -m slurm.after $@

oracle: #+ what the path costs a perfect model, per category: CATEGORIES="simple_java live" WRONG=1
	$(READY)
	$(PY) -m slurm.oracle

bfcl-data: #+ BFCL's questions, tools and answers into .cache/bfcl
	$(READY)
	.venv-bfcl/bin/python -I -X utf8 eval/bfcl_cli.py dump .cache/bfcl

check: #+ ruff, mypy and the quick tests: before each commit
	$(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q -m "not full and not cluster and not gpu" tests/unit tests/golden

test-full: #+ every test that needs neither a cluster nor a GPU; hours
	$(READY)
	$(PY) -m pytest -q -m "not cluster and not gpu"

cluster-check: #+ is a cluster sound? a short job in each partition of CLUSTER= says what to mend: N=2 nodes each
	[ -x $(PY) ] || $(READY)
	$(PY) -m slurm.check

devcluster-up: #+ a real Slurm with four nodes on this machine: DB=mariadb SETTINGS=unfriendly SHARED=1 DEVCLUSTER=name
devcluster-run: #+ a command inside it: CMD="make demo CLUSTER=devcluster"
devcluster-down: #+ its end, without a trace
devcluster-up devcluster-run devcluster-down:
	[ -x $(PY) ] || $(READY)
	$(PY) -m slurm.devcluster $(@:devcluster-%=%)

test-cluster: #+ the chain and its faults on a real Slurm with four nodes; FULL=1 in every configuration
	$(READY)
	$(PY) -m tests.cluster

clean: #+ caches of the tools; ALL=1 the environments too
	find octupus slurm data_recipes eval tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	if [ -n "$$ALL" ]; then rm -rf .venv .venv-bfcl .cache; fi
