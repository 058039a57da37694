# Everything a person types. `make help` lists it.

SUPPORTED := python3 python3.13 python3.12 python3.11
IS_SUPPORTED := 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
PYTHON ?= $(shell for p in $(SUPPORTED); do command -v $$p >/dev/null && $$p -c $(IS_SUPPORTED) 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The other TFLite runtime, for the tests that run on both; it exists for Python 3.11 only.
PYTHON_TFLITE ?= $(shell command -v python3.11)
VENV_TFLITE := .venv-tflite
INSTALLED_TFLITE := $(VENV_TFLITE)/.installed

# Test files that run side by side. One file stays in one process: its fixtures are dear.
WORKERS ?= 2

DATASET ?= wisconsin
DEVICES ?=
ROUNDS ?=
ARGS ?=
OPTIONS = $(if $(DEVICES),--devices $(DEVICES)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

export TF_USE_LEGACY_KERAS := 1
export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: help demo test check lint bench e2e e2e-armv7 install clean
.DEFAULT_GOAL := help

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make demo DATASET=folder:PATH DEVICES=3 ROUNDS=10   a folder of images by class"
	@echo "  make demo DATASET=npz:PATH ARGS='--partition dirichlet:0.5'"

demo: $(INSTALLED) ## a whole fleet on this machine: four clients, a broker, a server, a report
	@$(BIN)/bramble-server demo --dataset '$(DATASET)' $(OPTIONS)

test: $(INSTALLED) $(if $(PYTHON_TFLITE),$(INSTALLED_TFLITE)) ## all tests but those that emulate a Pi
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test ## everything that must hold before a commit

bench: $(INSTALLED) ## what this machine is, and how fast training is on it
	$(BIN)/bramble-bench environment
	$(BIN)/bramble-bench train --model small_cnn --input 64x64x1 --batch 16 --threads 1

e2e: $(INSTALLED) ## from a blank card to a training Pi, on an emulated one: docs/e2e.md
	@$(BIN)/python -m tests.e2e $(ARGS)

e2e-armv7: $(INSTALLED) ## the trainer, the agent's and the codec's tests on an emulated 32-bit Pi
	@$(BIN)/python -m tests.e2e.armv7 $(ARGS)

install: $(INSTALLED) ## the virtual environment in .venv

$(INSTALLED): setup.py
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 on PATH (TensorFlow has no wheel for others): apt install python3.11, or make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make virtual environments: apt install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; exit 1; }
	@echo "installing TensorFlow and the rest into $(VENV): some minutes, about 2.5 GB"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' > $(VENV)/install.log 2>&1 \
		|| { tail -n 20 $(VENV)/install.log; echo "error: the installation failed; all of it: $(VENV)/install.log"; exit 1; }
	@touch $@

$(INSTALLED_TFLITE): setup.py
	@echo "installing the other TFLite runtime into $(VENV_TFLITE)"
	@$(PYTHON_TFLITE) -m venv $(VENV_TFLITE)
	@$(VENV_TFLITE)/bin/python -m pip install --disable-pip-version-check \
		'tflite-runtime==2.14.0' 'numpy<2' pillow psutil 'paho-mqtt>=2.2,<3' cryptography > $(VENV_TFLITE)/install.log 2>&1 \
		|| { tail -n 20 $(VENV_TFLITE)/install.log; exit 1; }
	@touch $@

clean: ## remove what the commands made
	rm -rf $(VENV) $(VENV_TFLITE) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis bramble-demo
