# Everything a developer types. `make` lists it.
PYTHON := .venv/bin/python
NATIVE := $(PYTHON) -m infra.native
CODE := shared services infra bench models tests
PYTEST := $(PYTHON) -m pytest
# Most tests wait for processes: four side by side, each with servers of its own (JOBS=0: one after the other).
JOBS ?= 4
PYTEST_JOBS := $(PYTEST) -n $(JOBS) --dist worksteal
# Further arguments for pytest: make test-unit TESTARGS="-k retry"
TESTARGS ?=

COMPOSE := docker compose
# Whether containers of this project exist.
CONTAINERS := command -v docker >/dev/null 2>&1 && test -n "$$($(COMPOSE) ps --all --quiet 2>/dev/null)"
SCALED := $(strip $(if $(GATEWAYS),gateway=$(GATEWAYS)) $(if $(STATUS_APIS),status-api=$(STATUS_APIS)) \
	$(if $(WORKERS),worker=$(WORKERS)) $(if $(CONSUMERS),status-consumer=$(CONSUMERS)))

.DEFAULT_GOAL := help
.PHONY: help setup demo run up build scale down ps logs key admin dead rebuild test test-all test-compose test-unit test-structure test-integration test-e2e test-faults lint format type \
	schemas definitions lock bench clean packages engine engine-down test-images

help: ## list the targets
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
		printf '  %-18s%s\n' "$$name" "$$text"; done

##@ run

MODEL := models/tiny-newbie/model_index.json
VIDEO_MODEL := models/tiny-easyanimate/model_index.json
IMAGE_TO_VIDEO_MODEL := models/tiny-easyanimate-inp/model_index.json

setup: packages .state/venv $(MODEL) $(VIDEO_MODEL) $(IMAGE_TO_VIDEO_MODEL) ## install what is missing: system packages, .venv, the tiny models

packages:
	@infra/native/install-packages.sh

.state/venv: requirements.lock | packages
	@python3 -c 'import sys; sys.exit("setup: Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@test -x $(PYTHON) || python3 -m venv .venv
	@echo "setup: installing Python packages into .venv"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@mkdir -p .state && touch $@

$(MODEL): models/make_tiny_newbie.py | .state/venv
	@$(PYTHON) models/make_tiny_newbie.py
	@touch $@

$(VIDEO_MODEL): models/make_tiny_easyanimate.py models/tiny_folder.py | .state/venv
	@$(PYTHON) -m models.make_tiny_easyanimate
	@touch $@

$(IMAGE_TO_VIDEO_MODEL): models/make_tiny_easyanimate.py models/tiny_folder.py | .state/venv
	@$(PYTHON) -m models.make_tiny_easyanimate --kind inp
	@touch $@

demo: setup ## make one picture end to end and show where it is (KEEP=1: leave the stack running)
	@$(NATIVE) demo $(if $(KEEP),--keep)

run: setup ## start everything and stay; Ctrl-C stops it (BACKGROUND=1: do not stay)
	@$(NATIVE) up $(if $(BACKGROUND),,--foreground)

down: ## stop everything, native and in containers (VOLUMES=1: and forget what the containers kept)
	@test ! -x $(PYTHON) || $(NATIVE) down
	@! $(CONTAINERS) || $(COMPOSE) down $(if $(VOLUMES),--volumes)

ps: ## what is running, native and in containers
	@{ test ! -x $(PYTHON) || $(NATIVE) ps; \
	! $(CONTAINERS) || $(COMPOSE) ps --format 'table {{.Name}}\t{{.Status}}\t{{.Ports}}'; } \
	| awk '!/^nothing is running$$/ { print; found = 1 } END { if (!found) print "nothing is running" }'

logs: ## a task's story (TASK=<id>), or follow all logs
	@$(NATIVE) logs $(if $(TASK),--task $(TASK))

key: setup ## make an API key for the native stack (TENANT=<id>; PLAN=<plan> makes the tenant)
	@$(NATIVE) admin key create --tenant $(TENANT) $(if $(PLAN),--plan $(PLAN))

admin: setup ## tenants and keys of the native stack (ARGS="tenant list", "key rotate <prefix>", "tenant suspend <id>")
	@$(NATIVE) admin $(ARGS)

dead: setup ## the tasks that were given up (ARGS="list --model <id>", "show <id>", "replay <id>", "drop <id>")
	@$(NATIVE) dead $(or $(ARGS),list)

rebuild: setup ## fill an empty status database from the bucket, while the stack runs (ARGS="--after <task id>")
	@$(NATIVE) rebuild $(ARGS)

##@ run in containers

up: ## build the images, start everything in containers and wait until it is ready
	@infra/compose/make-secrets.sh
	@$(COMPOSE) up --detach --build --wait
	@echo "Atelier is at http://$$($(COMPOSE) port nginx 8080)"
	@echo "a key:      $(COMPOSE) run --rm admin key create --tenant acme --plan standard"
	@echo "stop it:    make down"

build: ## build the images
	@$(COMPOSE) build

scale: ## more or fewer containers of a service (GATEWAYS=4 STATUS_APIS=2 WORKERS=2 CONSUMERS=2)
	@test -n "$(SCALED)" || { echo "make scale GATEWAYS=<n> STATUS_APIS=<n> WORKERS=<n> CONSUMERS=<n>" >&2; exit 2; }
	@$(COMPOSE) up --detach --wait --no-recreate --no-deps $(foreach pair,$(SCALED),--scale $(pair)) \
		$(foreach pair,$(SCALED),$(firstword $(subst =, ,$(pair))))

##@ check

test: setup ## everything but the long fault runs: lint and all tests
	@$(MAKE) --no-print-directory -j 2 lint test-all

# The stack of containers alone: two of them side by side would be most of a small machine.
test-all: setup
	$(PYTEST) tests/compose -m 'not faults and not gpu' $(TESTARGS)
	$(PYTEST_JOBS) tests --ignore=tests/compose -m 'not faults and not gpu' $(TESTARGS)

test-compose: setup ## the whole stack of containers, where an engine and the images are, restarts of each part included
	$(PYTEST) tests/compose $(TESTARGS)

test-unit: setup ## the fast tests: no sockets, no processes
	$(PYTEST) -n 2 tests/unit tests/contract -m 'not exhaustive and not faults and not gpu' \
		--hypothesis-profile=fast $(TESTARGS)

test-structure: setup ## what may import what, sizes, documents that say what the code does
	$(PYTEST) tests/architecture $(TESTARGS)

test-integration: setup ## tiny models, real processes, RabbitMQ, SeaweedFS, nginx
	$(PYTEST_JOBS) tests/backends tests/integration tests/worker_process -m 'not faults and not gpu' $(TESTARGS)

test-e2e: setup ## whole stacks
	$(PYTEST) tests/e2e tests/chaos -m 'not faults and not gpu' $(TESTARGS)

test-faults: setup ## the long fault-injection runs
	$(PYTEST) tests -m faults $(TESTARGS)

lint: setup ## ruff and mypy
	.venv/bin/ruff check --quiet $(CODE)
	.venv/bin/ruff format --check --quiet $(CODE)
	.venv/bin/mypy

type: setup ## mypy alone
	.venv/bin/mypy

format: setup ## format the code and fix what can be fixed
	.venv/bin/ruff format $(CODE)
	.venv/bin/ruff check --fix $(CODE)

bench: setup ## measure, and write bench/results/latest.json (ONLY=<name>: one of them)
	$(PYTHON) -m bench $(if $(ONLY),--only $(ONLY))

engine: ## a Docker engine and Compose, where none answers (engine-down stops it)
	@infra/engine/engine.sh start

engine-down: ## stop the engine that this checkout started
	@infra/engine/engine.sh stop

test-images: ## pull the images of the tests' servers and of the stack of containers (TEST_SERVERS=auto|containers|local decides)
	@infra/engine/test-images.sh

##@ generate

schemas: setup ## the JSON Schemas of the contracts
	$(PYTHON) -m shared.contracts.schemas

# What the manifests for Kubernetes need.
.PHONY: k8s k8s-secrets
k8s: setup ## what the manifests of deploy/k8s share with the rest
	$(PYTHON) -m infra.kubernetes

k8s-secrets: ## make the secrets of an overlay of deploy/k8s where they are missing (OVERLAY=single-node)
	infra/kubernetes/make-secrets.sh deploy/k8s/overlays/$(or $(OVERLAY),single-node)/secrets

definitions: setup ## infra/rabbitmq/definitions.json from the topology
	$(PYTHON) -m shared.messaging.definitions

lock: packages ## requirements.lock from pyproject.toml, every version moved to its newest, and the locks of the images (IMAGES=only: those alone)
	infra/native/lock.sh

clean: down ## remove everything that was made here, except the environment
	rm -rf .run .pytest_cache .mypy_cache .ruff_cache .hypothesis build bench/results/latest.json
