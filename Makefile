# Everything here needs only Python 3.11, 3.12 or 3.13 and make; `make setup` brings the rest into .venv.

VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

# The first Python found that the package supports; `make PYTHON=… setup` names another. Where there is none, uv downloads one.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)
VENV_MAKER := $(if $(PYTHON),$(PYTHON) -m venv,uv venv --quiet --seed --allow-existing --python=3.13)

# What the image is for, the program that builds it, and more flags of the build, such as --platform=linux/amd64.
ACCELERATOR ?= cpu
DOCKER ?= $(shell for program in docker podman; do $$program version >/dev/null 2>&1 && echo $$program && break; done)
BUILD_FLAGS ?=

.PHONY: setup demo image push test test-unit test-tpu test-cloud test-image chaos mutants bench bench-gpu lint lock format clean

setup: $(VENV)/complete

$(VENV)/complete: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || command -v uv >/dev/null || { echo "Python 3.11, 3.12 or 3.13 was not found: install one, or install uv, \
	which downloads one, or name one with make PYTHON=/path/to/python3 setup"; exit 2; }
	$(VENV_MAKER) $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	rm -rf $(DEMO)
	$(BIN)/python -m trainer.demo --output=$(DEMO)/films
	$(BIN)/python -m trainer.prepare --csv=$(DEMO)/films/films.csv --images=$(DEMO)/films --output=$(DEMO)/data \
		--height=96 --width=64
	$(BIN)/python -m trainer.task --data_dir=$(DEMO)/data --job_dir=$(DEMO)/job --model=cnn --epochs=15 --batch_size=32
	@echo "These posters are drawn: the metrics above show that the program works, not how well it would do on real posters."
	@echo "Open $(DEMO)/job/evaluation/report.html in a browser."

image:
	@test -n "$(DOCKER)" || { echo "Neither docker nor podman answers: start one, or name another with make DOCKER=… $@"; exit 2; }
	$(DOCKER) build --build-arg=ACCELERATOR=$(ACCELERATOR) --tag=$(or $(IMAGE),poster-trainer:$(ACCELERATOR)) $(BUILD_FLAGS) .

push:
	@test -n "$(IMAGE)" || { echo "IMAGE is missing: make push IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/poster-trainer:TAG"; exit 2; }
	@$(MAKE) --no-print-directory image
	$(DOCKER) push $(IMAGE)

# The tests start hundreds of processes: compiled files spare each of them a moment.
unexport PYTHONDONTWRITEBYTECODE

# One test process more than cores, because some tests wait; those of one file share its fixtures, and the long files come first.
TEST_PROCESSES := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST := $(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder

test: setup
	$(PYTEST)

test-unit: setup
	$(PYTEST) tests/unit

# The long form of the fault-injection tests.
chaos: setup
	POSTER_LONG=1 $(BIN)/python -m pytest tests/integration/test_multi_worker.py tests/integration/test_network_cut.py \
		tests/integration/test_peers.py tests/integration/test_resume.py tests/integration/test_kubernetes_conformance.py \
		tests/integration/test_launch_vertex.py
	$(BIN)/python -m tests.support.long_chaos

# The long form of the tests against an imitated Cloud Storage on this machine.
test-cloud: setup
	POSTER_LONG=1 $(BIN)/python -m pytest tests/integration/test_storage_server.py tests/integration/test_storage_objects.py \
		tests/integration/test_prepare_storage.py tests/integration/test_storage_job.py

# Small faults put into the code, one at a time, and the tests that notice them. SEED draws others.
COUNT ?= 60
SEED ?= 1
mutants: setup
	$(BIN)/python -m tests.support.mutants $(COUNT) --seed=$(SEED)

# Builds the image with podman, as root, and runs jobs in it; `make test-image ACCELERATOR=gpu` does so for the GPU image.
test-image: setup
	POSTER_LONG=1 ACCELERATOR=$(ACCELERATOR) $(BIN)/python -m pytest --capture=no --timeout=3600 tests/integration/test_image.py

BENCH := $(VENV)/bench/bin/python -m

# Every row of benchmarks/RESULTS.md: about two hours on two idle cores. Each line alone prints its own rows.
bench: $(VENV)/bench/complete
	$(BENCH) benchmarks.prepare --posters=10000
	$(BENCH) benchmarks.input --posters=12000
	$(BENCH) benchmarks.step --model=cnn --repeats=15
	$(BENCH) benchmarks.step --model=resnet --repeats=15
	$(BENCH) benchmarks.end_to_end
	$(BENCH) benchmarks.two_workers --model=resnet
	$(BENCH) benchmarks.two_workers --model=cnn
	$(BENCH) benchmarks.overhead --posters=8000
	$(BENCH) benchmarks.start_up
	$(BENCH) benchmarks.recovery
	$(BENCH) benchmarks.inference
	$(BENCH) benchmarks.memory

# The rows that a GPU changes, on a machine with a GPU and its driver. Never run so far: no GPU was at hand.
bench-gpu: $(VENV)/bench-gpu/complete
	$(VENV)/bench-gpu/bin/python -m benchmarks.step --model=cnn --batch_size=256 --steps=50
	$(VENV)/bench-gpu/bin/python -m benchmarks.step --model=resnet --batch_size=256 --steps=50
	$(VENV)/bench-gpu/bin/python -m benchmarks.end_to_end --posters=12000 --steps=140
	$(VENV)/bench-gpu/bin/python -m benchmarks.overhead --posters=8000
	$(VENV)/bench-gpu/bin/python -m benchmarks.start_up
	$(VENV)/bench-gpu/bin/python -m benchmarks.inference

$(VENV)/bench/complete: requirements.lock
$(VENV)/bench-gpu/complete: requirements-gpu.lock
$(VENV)/bench/complete $(VENV)/bench-gpu/complete: benchmarks/requirements.txt | setup
	$(VENV_MAKER) $(@D)
	$(@D)/bin/pip install --quiet --requirement $(filter %.lock,$^) --requirement benchmarks/requirements.txt
	$(@D)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lint: setup
	$(BIN)/hadolint Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform=darwin
	$(BIN)/lint-imports

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version=3.11 --no-header --no-emit-index-url --no-emit-find-links \
	pyproject.toml

# Brings every requirement to the newest version that pyproject.toml admits. The images' locks begin as copies of the development
# lock: uv keeps the versions that it finds in its output file where it can.
lock: setup
	$(BIN)/pip install --quiet uv
	$(COMPILE) --upgrade --extra=dev --output-file=requirements.lock
	for lock in requirements-cpu.lock requirements-gpu.lock $(VENV)/tpu.lock; do cp requirements.lock $$lock; done
	$(COMPILE) --extra=fsspec --output-file=requirements-cpu.lock
	$(COMPILE) --extra=fsspec --extra=gpu --output-file=requirements-gpu.lock
	echo tensorflow > $(VENV)/replaced-on-tpu.txt
	$(COMPILE) --extra=fsspec --group=tpu --excludes=$(VENV)/replaced-on-tpu.txt --output-file=$(VENV)/tpu.lock
	echo "# For a TPU: pip install --no-deps --requirement requirements-tpu.lock" > requirements-tpu.lock
	echo "# Without --no-deps pip adds tensorflow, whose files overwrite those of tensorflow-tpu." >> requirements-tpu.lock
	cat $(VENV)/tpu.lock >> requirements-tpu.lock

# The unit tests on the releases that a TPU needs, with TensorFlow's build for CPUs.
test-tpu: $(VENV)/tpu/complete
	$(VENV)/tpu/bin/python -m pytest --numprocesses=auto --dist=loadfile tests/unit tests/integration/test_xla.py

# What requirements-tpu.lock does not name comes from the development lock.
$(VENV)/tpu/complete: requirements-tpu.lock requirements.lock | setup
	$(VENV_MAKER) $(VENV)/tpu
	sed -e 's/^tensorflow-tpu==/tensorflow==/' -e '/^libtpu==/d' requirements-tpu.lock > $(VENV)/tpu/runtime.txt
	awk -F== 'NR == FNR { runtime[$$1] } NR > FNR && !($$1 in runtime)' $(VENV)/tpu/runtime.txt requirements.lock > $(VENV)/tpu/dev.txt
	$(VENV)/tpu/bin/pip install --quiet --no-deps --requirement $(VENV)/tpu/runtime.txt --requirement $(VENV)/tpu/dev.txt
	$(VENV)/tpu/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
