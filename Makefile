# make demo, make test: each sets up .venv on the first call and then does its job. `make help` lists everything.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= out/demo
BAG    ?=
TESTS  ?= test
PYTEST_FLAGS ?=
FUZZ_FLAGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Set by the ROS wheels of some other environment, it would keep this one from setting itself up.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

INPUTS := pyproject.toml setup.py constraints.txt package.xml CMakeLists.txt Makefile \
          $(wildcard interfaces/*.py interfaces/*/msg/*.msg msg/*.msg launch/*.py config/*.* config/*/*.* scripts/*_node)

# The prefix of a sourced ROS 2, or nothing. With one, its rclpy and messages are used and none are installed: .venv sees
# the system's packages, numpy stays the one that ROS was built with, and CMake builds the interfaces of msg/.
ROS := $(shell $(PYTHON) interfaces/policy.py 2>/dev/null)
STAMP := $(VENV)/.installed$(subst /,-,$(ROS))
ifeq ($(ROS),)
  VENV_FLAGS :=
  PIP_FLAGS  := -c constraints.txt
  USE        :=
else
  VENV_FLAGS := --system-site-packages
  PIP_FLAGS  :=
  ROS_BUILD  := $(VENV)/ros
  ROS_LOG    := build/ros.log
  # The checkout comes first, so that edited code is what runs; it joins the built sdt_ros.msg of $(ROS_BUILD).
  USE = AMENT_CURRENT_PREFIX=$(CURDIR)/$(ROS_BUILD); export AMENT_CURRENT_PREFIX; set +u; \
        . $(ROS_BUILD)/share/sdt_ros/local_setup.sh; set -u; export PYTHONPATH=$(CURDIR):$${PYTHONPATH:-};
endif

.PHONY: help demo fuzz test lint install clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10
	@echo
	@echo 'Variables: PYTHON=python3.12 (3.10 to 3.14), BAG=path of a recording, OUT=folder of the demo,'
	@echo '           TESTS=test/test_decoder.py, PYTEST_FLAGS="-k name"'

demo: $(STAMP) ## play a recording (BAG=path, or a generated one) through the node, write pictures and figures to OUT
	@$(USE) $(BIN)/sdt demo $(if $(BAG),--bag "$(BAG)") --out "$(OUT)"

test: $(STAMP) ## run all tests
	@$(USE) $(BIN)/python -m pytest $(PYTEST_FLAGS) $(TESTS)

fuzz: $(STAMP) ## run 20 million mutated packets through the decoders (FUZZ_FLAGS="--packets 100000")
	@$(USE) $(BIN)/python test/fuzz/packets.py $(FUZZ_FLAGS)

lint: $(STAMP) ## run ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

install: $(STAMP) ## set up .venv only

$(STAMP): $(INPUTS)
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here. Install Python 3.10 to 3.14, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || { echo "make: $$($(PYTHON) --version) does not fit, 3.10 to 3.14 do. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@command -v g++ >/dev/null || { echo "make: no C++ compiler (g++). On Debian and Ubuntu: sudo apt install g++" >&2; exit 1; }
	@test ! -x $(BIN)/python || grep -q 'include-system-site-packages = $(if $(ROS),true,false)' $(VENV)/pyvenv.cfg || { echo "make: $(VENV) was made $(if $(ROS),without,with) a sourced ROS 2. Run make clean first" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV) with $$($(PYTHON) --version)$(if $(ROS), and the ROS 2 of $(ROS))"; $(PYTHON) -m venv $(VENV_FLAGS) $(VENV); }
	@echo "Installing into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -e '.[ros,test]'
	@# spikingjelly, which the neurons are compared with, asks for torchvision and torchaudio and needs neither here.
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) loguru && \
	  $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -c constraints.txt spikingjelly; fi
ifneq ($(ROS),)
	@$(BIN)/python -c 'import rclpy' 2>/dev/null || { echo "make: the ROS 2 of $(ROS) does not import in $$($(BIN)/python --version): use the Python it was built for" >&2; exit 1; }
	@$(BIN)/python -c 'import event_camera_msgs.msg' 2>/dev/null || { echo "make: the sourced ROS 2 has no event_camera_msgs. Install it: sudo apt install ros-$${ROS_DISTRO:-DISTRO}-event-camera-msgs" >&2; exit 1; }
	@command -v cmake >/dev/null || { echo "make: no cmake to build the ROS interfaces with: sudo apt install cmake" >&2; exit 1; }
	@# From a copy: CMake refuses header folders (numpy's, in .venv) that lie inside the source folder.
	@rm -rf build/ros build/ros-source && mkdir -p build/ros-source && \
	  cp -r CMakeLists.txt package.xml msg sdt_ros scripts launch config build/ros-source/ && \
	  cmake -S build/ros-source -B build/ros -DCMAKE_INSTALL_PREFIX=$(CURDIR)/$(ROS_BUILD) -DBUILD_TESTING=OFF > $(ROS_LOG) 2>&1 && \
	  cmake --build build/ros --parallel >> $(ROS_LOG) 2>&1 && cmake --install build/ros >> $(ROS_LOG) 2>&1 || \
	  { tail -n 30 $(ROS_LOG) >&2; echo "make: building the interfaces failed, see $(ROS_LOG)" >&2; exit 1; }
endif
	@touch $@

clean: ## remove .venv and everything that was built or generated
	rm -rf $(VENV) build install log dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
