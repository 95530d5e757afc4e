# `make help` lists the targets. Every path is relative, so the checkout may lie in a folder with spaces in its name.
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check
CORE = $(wildcard minigrad/_core/*.p[yx]* minigrad/_core/loops/*.p[yx]*)
CHECKED = $(wildcard setup.py minigrad nn tests examples benchmarks tools)

# What a copy of the checkout needs to build and test itself. The copies keep the dates, so that make works in them too.
TREE = $(wildcard setup.py pyproject.toml MANIFEST.in Makefile .ci *.md LICENSE minigrad nn tests examples benchmarks docs tools)
copy_tree = mkdir -p $(1) && find $(1) -path '*/.venv' -prune -o -type f ! -name '*.so' ! -path '*/build/*' -exec rm -f {} + \
	&& tar -cf - --exclude='*.so' --exclude='__pycache__' $(TREE) | tar -xf - -C $(1)

SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

GPU_TESTS = $(wildcard tests/test_cuda*.py tests/test_device*.py tests/test_graphed*.py) tests/test_nccl.py tests/test_transfers.py

.PHONY: help demo test dev lint format pytest wheel bench bench-gpu debug sanitize test-gpu nightly clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.demo ## set up, then train a classifier of handwritten digits
	$(PY) examples/train_digits.py $(DEMO_ARGS)

test: lint ## set up, then lint, run the tests, and build and try the wheel
	@$(MAKE) --no-print-directory -j2 pytest wheel # most tests leave a processor free

dev: $(VENV)/.dev ## set up a .venv for development: editable install, tests, linters

lint: $(VENV)/.dev ## ruff, cython-lint, codespell, mypy
	$(PY) -m ruff check $(CHECKED)
	$(PY) -m ruff format --check $(CHECKED)
	PATH="$(VENV)/bin:$$PATH" cython-lint minigrad
	$(PY) -m codespell_lib
	@# mypy looks packages up by their folders: show it one where nn/ lies at minigrad/nn.
	@rm -rf build/mypy && mkdir -p build/mypy/minigrad && cd build/mypy/minigrad && ln -s ../../../minigrad/* ../../../nn .
	cd build/mypy && ../../$(PY) -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p minigrad

format: $(VENV)/.dev ## rewrite the sources the way lint wants them
	$(PY) -m ruff check --fix $(CHECKED)
	$(PY) -m ruff format $(CHECKED)

pytest: $(VENV)/.dev ## the tests; PYTEST_ARGS="-k softmax" for some of them
	$(PY) -m pytest $(PYTEST_ARGS)

wheel: $(VENV)/.dev ## build dist/*.whl through the sdist, and try it in an environment of its own
	@rm -rf dist && mkdir -p build
	nice $(PY) -m build --outdir dist . > build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@! grep -E '\.[ch]:[0-9:]+ warning:|warning: .*\.p(yx|xd|xi):' build/wheel.log # the core compiles without a warning
	$(PY) tools/check_wheel.py dist/*.whl

bench: $(VENV)/.dev ## measure, in build/bench.*; against PyTorch too where .venv has it; BENCH_ARGS="--sweep"
	@mkdir -p build
	$(PY) -m benchmarks --json build/bench.json --plot build/bench.png $(BENCH_ARGS)

bench-gpu: $(VENV)/.dev ## measure on a GPU beside PyTorch, in build/bench-gpu.json; BENCH_ARGS="--quick" without one
	@mkdir -p build
	$(PY) -m benchmarks.gpu --json build/bench-gpu.json $(BENCH_ARGS)

debug: ## build with bounds checks and assertions, and run the tests, in build/trees/debug
	@$(call copy_tree,build/trees/debug)
	MINIGRAD_DEBUG=1 $(MAKE) -C build/trees/debug pytest VENV=.venv

sanitize: ## the same under AddressSanitizer and UndefinedBehaviorSanitizer, in build/trees/sanitize
	@$(call copy_tree,build/trees/sanitize)
	MINIGRAD_DEBUG=1 CFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" $(MAKE) -C build/trees/sanitize dev VENV=.venv
	cd build/trees/sanitize && LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so.6)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONMALLOC=malloc \
		.venv/bin/python -m pytest --capture=sys $(PYTEST_ARGS)

test-gpu: $(VENV)/.dev ## the tests of the GPU backend on a GPU, which must be there (pip install 'minigrad[gpu]')
	MINIGRAD_TEST_GPU=1 $(PY) -m pytest $(GPU_TESTS) $(PYTEST_ARGS)

nightly: $(VENV)/.dev ## the tests with twenty times the examples, other ones in every run
	HYPOTHESIS_PROFILE=nightly $(PY) -m pytest $(PYTEST_ARGS)

clean: ## remove everything that make made, .venv included
	rm -rf build dist *.egg-info $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find minigrad nn tests examples benchmarks tools -name '__pycache__' -prune -exec rm -rf {} + 2>/dev/null || true
	rm -f minigrad/_core/*.so minigrad/_core/loops/*.so

# .venv/.python: the environment with what the build needs; .demo and .dev: minigrad in it with that extra.
# Both install in place (editable), so only a changed core or pyproject.toml calls for a new one.
$(VENV)/.python: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "minigrad needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(VENV)/build-requires.txt
	$(PIP) install --quiet -r $(VENV)/build-requires.txt
	@touch $@

$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: $(VENV)/.python setup.py $(CORE)
	$(PIP) install --quiet --no-build-isolation --editable '.[$*]'
	@touch $@
