# make demo   four peers on this machine train one model together, then a report (about five minutes)
# make test   format, lint, types and every test
# make check  format, lint and types only
# make wheelhouse  what docker/Dockerfile installs, into docker/wheelhouse: then no index is asked
# make torchft-venv  what benchmarks.recovery and benchmarks.wan compare with, in .venv-torchft
#
# The others set up everything they need in .venv. TORCH_INDEX names a package index that torch is
# taken from; empty means pip's own configuration (on Linux the public index then brings the CUDA
# build, some gigabytes; https://download.pytorch.org/whl/cpu has the small one).
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
TORCHFT_VENV ?= .venv-torchft
PYTEST_ARGS ?=

.PHONY: demo test check format proto check-proto wheelhouse torchft-venv clean

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "diloco-peer needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/diloco-peer demo runs/demo

test: check check-proto
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The stubs come from the oldest grpcio-tools whose output every allowed protobuf can load.
PROTOC := .venv-proto/bin/python -m grpc_tools.protoc -I. \
  --python_out=$$OUT --pyi_out=$$OUT --grpc_python_out=$$OUT protocol/wire/diloco.proto

.venv-proto/.ready:
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/pip install --quiet --disable-pip-version-check 'grpcio-tools==1.67.1' 'setuptools<81'
	@touch $@

proto: .venv-proto/.ready
	OUT=.; $(PROTOC)

check-proto: .venv-proto/.ready
	@OUT=$$(mktemp -d) && trap 'rm -rf "$$OUT"' EXIT && $(PROTOC) && \
	  diff -r -x __pycache__ -x '*.proto' -x '__init__.py' -x codec.py -x offers.py -x claims.py "$$OUT/protocol/wire" protocol/wire && \
	  echo "stubs match protocol/wire/diloco.proto"

docker/wheelhouse/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "the image has Python 3.11, and so must its wheels; set PYTHON=/path/to/python3.11"; exit 2; }
	rm -rf docker/wheelhouse
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check -c constraints.txt -w docker/wheelhouse \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) setuptools .
	rm docker/wheelhouse/diloco_peer-*.whl
	@touch $@

wheelhouse: docker/wheelhouse/.ready

# Dated nightlies are the only releases. What benchmarks/torchft_peer.py imports of this project needs
# the rest of constraints.txt that is installed here.
$(TORCHFT_VENV)/.ready: benchmarks/torchft-constraints.txt constraints.txt
	$(PYTHON) -m venv $(TORCHFT_VENV)
	$(TORCHFT_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(TORCHFT_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -c benchmarks/torchft-constraints.txt torchft-nightly blake3 numpy pydantic
	@touch $@

torchft-venv: $(TORCHFT_VENV)/.ready

clean:
	rm -rf $(VENV) .venv-proto .venv-torchft docker/wheelhouse build *.egg-info
