"""Runs a module as a program that gets a core only while nobody else wants it: ``python -m maac_ros.idle MODULE ...``.

The operating system is told before anything is imported, which is most of the work of a short program.
"""

import os
import runpy
import sys

if __name__ == "__main__":
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
