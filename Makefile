SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help ask test test-vllm check lab lock clean bench

# The first interpreter that is new enough; empty if there is none.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
DEFAULT_Q = Solve the following multiplication: 41 * 74. Give only the result as your final answer.
# Taken literally: a dollar sign in the question is no make variable, and a quote meets no shell.
override Q := $(if $(value Q),$(value Q),$(value DEFAULT_Q))
export Q
ARGS ?=
BENCHMARKS := handover overhead concurrency speculation logprobs published-loop calibration
CHECKED := $(wildcard src tests lab benchmarks)
UV_VERSION := 0.13.9

help:
	@echo 'make ask Q="..."   ask the tiny pair a question'
	@echo 'make test          run the tests (ARGS="-k name -x" goes to pytest)'
	@echo 'make test-vllm     tests on vLLM and transformers, in an environment of their own (2.5 GB, made once)'
	@echo 'make check         format, lint and types'
	@echo 'make bench         run all benchmarks; make bench-NAME one of them (ARGS goes to it):'
	@echo '                   $(BENCHMARKS)'
	@echo 'make lab           make the tiny pair (ARGS goes to python -m lab)'
	@echo 'make lock          resolve the requirements anew'
	@echo 'make clean         remove environments, builds and caches'
	@echo 'Python 3.11 or newer is all that is needed beforehand; PYTHON=... chooses one.'

ask: .venv/.ready
	@.venv/bin/glimprouter ask $(ARGS) -- "$$Q"

test: .venv-test/.ready
	@.venv-test/bin/python -m pytest $(ARGS)

# Contract, exactness and faults on engines that take gigabytes to install. What cannot be had is said, and skipped.
VLLM_TESTS := tests/vllm tests/engines/test_contract.py tests/engines/test_local_hf.py
test-vllm:
	@$(python) tests/vllm/job.py $(VLLM_TESTS) --timeout 420 -k "tests/vllm or (vllm and not fake) or hf" $(ARGS)

check: .venv-test/.ready
	.venv-test/bin/ruff format --check $(CHECKED)
	.venv-test/bin/ruff check $(CHECKED)
	.venv-test/bin/mypy $(CHECKED)

bench: $(BENCHMARKS:%=bench-%)

.PHONY: $(BENCHMARKS:%=bench-%)
$(BENCHMARKS:%=bench-%): bench-%: .venv-test/.ready
	@.venv-test/bin/python -m benchmarks.$(subst -,_,$*) $(ARGS)

lab: .venv-lab/.ready
	@.venv-lab/bin/python -m lab $(ARGS)

# An environment counts as made only when its stamp stands, and the stamp is written last: .locked for what the lock
# names (made from nothing when the lock changes), .ready for the project on top of it. $(1): folder, $(2): command;
# the command is silent unless it fails.
python = $(or $(PYTHON),python3)
quietly = $(2) >$(1)/setup.log 2>&1 || { cat $(1)/setup.log >&2; echo "setting up $(1) failed" >&2; exit 1; }
pip = $(1)/bin/python -m pip --disable-pip-version-check --no-input install
define new_venv
	@$(python) -c 'import sys; v = sys.version.split()[0]; sys.exit( \
	  f"glimprouter needs Python 3.11 or newer, this is {v}: name one with PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@echo "setting up $(1) (once)"
	@rm -rf $(1)
	@$(python) -m venv $(1)
endef

.venv/.locked: requirements/ask.lock
	$(call new_venv,.venv)
	@$(call quietly,.venv,$(call pip,.venv) --no-compile --require-hashes -r requirements/ask.lock)
	@touch $@

# reasoning-gym needs a C compiler on the way in; without one its tests are skipped. It is compiled to bytecode here,
# not on import, where the warnings of its sources would be errors.
.venv-test/.locked: requirements/test.lock requirements/gym.lock
	$(call new_venv,.venv-test)
	@$(call quietly,.venv-test,$(call pip,.venv-test) --no-compile --require-hashes -r requirements/test.lock)
	@if command -v $${CC:-cc} >/dev/null; then \
	  $(call quietly,.venv-test,$(call pip,.venv-test) --require-hashes --no-deps --no-build-isolation -r requirements/gym.lock); \
	else echo "no C compiler: reasoning-gym stays out, its tests are skipped"; fi
	@touch $@

.venv-lab/.locked: requirements/lab.lock
	$(call new_venv,.venv-lab)
	@$(call quietly,.venv-lab,$(call pip,.venv-lab) -r requirements/lab.lock)
	@touch $@

%/.ready: %/.locked pyproject.toml
	@$(call quietly,$*,$(call pip,$*) --no-deps --no-build-isolation --editable .)
	@touch $@

.venv-lock/.locked:
	$(call new_venv,.venv-lock)
	@$(call quietly,.venv-lock,$(call pip,.venv-lock) uv==$(UV_VERSION))
	@touch $@

compile = .venv-lock/bin/uv pip compile --no-config --quiet --no-header --universal --python-version 3.11 $(UPGRADE)
lock: .venv-lock/.locked
	$(compile) --generate-hashes pyproject.toml requirements/ask.in -o requirements/ask.lock
	$(compile) --generate-hashes pyproject.toml requirements/ask.in -o requirements/test.lock \
	  --extra eval --extra gateway --group test -c requirements/ask.lock $(foreach p,reasoning-gym pycosat cellpylib zss,--no-emit-package $(p))
	$(compile) --generate-hashes --no-deps requirements/gym.in -o requirements/gym.lock
	$(compile) pyproject.toml requirements/lab.in --extra eval -o requirements/lab.lock
	@sed -n 's/^# \(torch==\)/\1/p' requirements/lab.in >requirements/lab.tmp
	@cat requirements/lab.lock >>requirements/lab.tmp && mv requirements/lab.tmp requirements/lab.lock

clean:
	rm -rf .venv .venv-test .venv-lab .venv-lock build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests lab benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
