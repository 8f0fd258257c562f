# What people and CI run alike. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
AUDIT := .venv-audit
RTX := .venv-tensorrt
BIN := $(VENV)/bin
MODEL ?= models/bbh-1det
DEMO ?=
WORKERS ?= 3
SOAK ?=

.DEFAULT_GOAL := help
.PHONY: help pictures bench-page demo test test-slow test-peers test-install test-tensorrt lint format docs site bench bench-latency bench-conditioning bench-inference \
  bench-peers bench-scaling bench-replay bench-capacity bench-capacity-long bench-dynesty bench-hour bench-network bench-calibration bench-averages bench-real bench-coverage bench-glitches bench-background \
  bench-thresholds bench-reference bench-alarms bench-sampler bench-mutants bench-outage bench-restart bench-overload bench-engines soak soak-report sbom audit train validate compare clean system-packages

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gwstream needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing gwstream into $(VENV): once, and large, for PyTorch is."
	$(BIN)/pip install --editable '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing gwstream and its tests into $(VENV): once, and large, for PyTorch is."
	$(BIN)/pip install --editable '.[demo,test]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## GW150914 through the daemon, about a minute (options: make demo DEMO="--loop")
	@$(BIN)/gwstream demo $(DEMO)

test: $(VENV)/.test system-packages lint ## all checks and tests (three files at a time, for they wait much; make test WORKERS=1: one)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow and not peers and not install and not tensorrt"

test-peers: $(VENV)/.test $(PEERS)/.done ## the tests that need bilby, PESummary, or Node with npm
	$(BIN)/pytest -m peers

test-install: $(VENV)/.test ## install as the README says on a fresh Debian 12 under systemd (10 minutes; root, debootstrap)
	$(BIN)/pytest -m install -s

test-tensorrt: $(VENV)/.test $(RTX)/.done ## what TensorRT makes of the networks, without a GPU (2 minutes)
	PYTHONPATH=. $(RTX)/bin/python -m pytest -s -m tensorrt tests/test_tensorrt_build.py

test-slow: $(VENV)/.test ## the tests that take minutes
	$(BIN)/pytest -m slow

.PHONY: coverage
coverage: $(VENV)/.test ## lines and branches of the package that the tests run (twice as long as make test)
	@mkdir -p build/coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not peers and not install and not tensorrt" --timeout=900
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/.test ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy --allow-any-generics --implicit-reexport benchmarks tools docs/examples
	$(BIN)/lint-imports

format: $(VENV)/.test ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mosquitto lies in /usr/sbin, which is not on everybody's path
system-packages:
	@missing=""; for pair in mosquitto:mosquitto mosquitto_sub:mosquitto-clients chromium:chromium prometheus:prometheus \
	  docker-compose:docker-compose zsh:zsh fish:fish jq:jq; do \
	  PATH="$$PATH:/usr/sbin" command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  echo "Tests that need these system packages are skipped. To have them: sudo apt-get install$$missing"; fi

docs: $(VENV)/.test ## docs/metrics.md and docs/messages.md from the code
	$(BIN)/python tools/make_reference.py

pictures: $(VENV)/.test ## docs/page-*.png, watch.svg and plot-*.png from the demo (2 minutes)
	$(BIN)/python tools/make_pictures.py

bench-page: $(VENV)/.test ## what the live page costs the daemon and the browser (a minute)
	$(BIN)/python benchmarks/page.py

site: $(VENV)/.test ## the documents as a site, build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file tools/mkdocs.yml

SHORT := latency conditioning inference engines floors overload page scaling replay capacity restart network
bench: $(SHORT:%=bench-%) ## all that take ten minutes each at most (nearly an hour)

bench-latency: $(VENV)/.test ## latency from a frame's rename to an event, stage by stage (6 minutes)
	$(BIN)/python benchmarks/latency.py

bench-conditioning: $(PEERS)/.done ## a second of strain, beside gwpy and ml4gw (1 minute)
	$(PEERS)/bin/python benchmarks/conditioning.py

bench-inference: $(PEERS)/.done ## 2000 draws, beside amplfi and VItamin (4 minutes)
	$(PEERS)/bin/python benchmarks/peers_inference.py

bench-peers: bench-conditioning bench-inference ## both

bench-scaling: $(VENV)/.test ## cost against streams, windows, draws and latents (3 minutes)
	$(BIN)/python benchmarks/scaling.py

bench-replay: $(VENV)/.test ## how fast recordings are replayed (4 minutes)
	$(BIN)/python benchmarks/replay.py

bench-capacity: $(VENV)/.test ## how many detectors stay in real time (10 minutes)
	$(BIN)/python benchmarks/capacity.py --search

bench-capacity-long: $(VENV)/.test ## thirty-two of them for half an hour (40 minutes)
	$(BIN)/python benchmarks/capacity.py --streams 32 --minutes 30

bench-dynesty: $(PEERS)/.done ## a whole posterior by bilby and dynesty, and ours (half an hour; made again, it goes on)
	$(PEERS)/bin/python -W ignore benchmarks/standard.py

bench-hour: $(VENV)/.test ## an hour of simulated strain: recovery, noise events, memory
	$(BIN)/python benchmarks/hour.py

bench-calibration: $(VENV)/.test ## how soon live calibration finds a fault (a quarter of an hour)
	$(BIN)/python benchmarks/calibration.py

bench-network: $(VENV)/.test ## which signals two detectors find together, and what chance makes (5 minutes)
	$(BIN)/python benchmarks/network.py

bench-mutants: $(VENV)/.test ## 150 000 damaged frames through the reader: none crashes it or passes for strain
	$(BIN)/python benchmarks/mutants.py

bench-overload: $(VENV)/.test ## more live strain than the machine holds: what is given up, latency, recovery (4 minutes)
	$(BIN)/python benchmarks/overload.py

bench-engines: $(VENV)/.test ## what each engine costs for each model, and how far it is from torch (5 minutes)
	$(BIN)/python benchmarks/engines.py

bench-floors: $(VENV)/.test ## each hot path against its floor on this machine (2 minutes)
	$(BIN)/python benchmarks/floors.py

bench-outage: $(VENV)/.test ## a broker away for ten minutes: what is delivered afterwards, and how soon (13 minutes)
	$(BIN)/python benchmarks/outage.py

bench-restart: $(VENV)/.test ## how soon a killed daemon is back (2 minutes)
	$(BIN)/python benchmarks/restart.py

soak: $(VENV)/.test ## 72 detector-hours of strain and a thousand faults, in the background (2 hours; made again, it goes on)
	$(BIN)/python benchmarks/soak.py --background $(SOAK)

soak-report: $(VENV)/.test ## how the soak goes; fails where anything was lost
	$(BIN)/python benchmarks/soak.py --report $(SOAK)

bench-averages: $(VENV)/.test ## what a short PSD history costs, Gaussian and Student-t (a quarter of an hour)
	$(BIN)/python benchmarks/averages.py

bench-real: bench-coverage bench-glitches bench-background bench-thresholds bench-reference bench-alarms ## all on real data

bench-coverage: $(VENV)/.test ## injections into real noise (half an hour; needs ../shared/data, as the next four)
	$(BIN)/python benchmarks/coverage.py

bench-glitches: $(VENV)/.test ## real glitches in noise: how many pass as good
	$(BIN)/python benchmarks/glitches.py

bench-background: $(VENV)/.test ## false events in real noise, loud glitches, time slides
	$(BIN)/python benchmarks/background.py

bench-thresholds: $(VENV)/.test ## thresholds of the quality, leaving one event out; after the two before
	$(BIN)/python benchmarks/thresholds.py

bench-reference: $(VENV)/.test ## real events against their exact posteriors
	$(BIN)/python benchmarks/reference.py

bench-alarms: $(VENV)/.test ## false events in three days of Gaussian noise
	$(BIN)/python benchmarks/alarms.py --hours 72

# peers get an environment of their own, which sees the packages of ours
$(PEERS)/.done: $(VENV)/.test Makefile
	$(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(PEERS)/bin/python -c \
	  'import sysconfig; print(sysconfig.get_path("purelib"))')/gwstream.pth"
	pwd >> "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gwstream.pth"
	$(PEERS)/bin/pip install bilby dynesty pesummary pyarrow 'jaxtyping<0.4'
	$(PEERS)/bin/pip install --no-deps ml4gw amplfi  # with what they ask for, pip would put another torch in
	@touch $@

# TensorRT-RTX, for TensorRT itself is not on PyPI, and both are one module: never in .venv; it sees ours, torch among it
$(RTX)/.done: $(VENV)/.test
	$(PYTHON) -m venv $(RTX)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(RTX)/bin/python -c \
	  'import sysconfig; print(sysconfig.get_path("purelib"))')/gwstream.pth"
	$(RTX)/bin/pip install 'torch-tensorrt-rtx==2.13.0'
	@touch $@

bench-sampler: $(PEERS)/.done ## the exact posterior against bilby and dynesty (half an hour)
	$(PEERS)/bin/python benchmarks/sampler.py

# the tools that look at the packages get an environment of their own as well
$(AUDIT)/.done: Makefile
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install 'cyclonedx-bom>=7.5,<8' 'pip-audit>=2.10,<3'
	@touch $@

sbom: $(AUDIT)/.done $(VENV)/.demo ## build/sbom.cdx.json: every package a user runs, with licences and hashes
	$(AUDIT)/bin/python tools/sbom.py $(BIN)/python build/sbom.cdx.json

audit: sbom ## ask a database of known vulnerabilities about each of them
	$(AUDIT)/bin/python tools/audit.py build/sbom.cdx.json

train: $(VENV)/.demo ## train models/bbh-1det (another: MODEL=folder), resuming where it stopped
	$(BIN)/gwstream train $(MODEL)/model.toml $(if $(wildcard runs/$(notdir $(MODEL))/checkpoint.safetensors),--resume)

validate: $(VENV)/.demo ## measure models/bbh-1det (another: MODEL=folder) and write its report
	$(BIN)/gwstream validate $(MODEL)

compare: $(VENV)/.demo ## one table over all models, models/README.md
	$(BIN)/gwstream compare models/*/

clean: ## remove what was made, but not .venv
	rm -rf build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
