"""Freed memory stays in the process."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from lit_sdpo.rollouts.malloc import keep_freed_memory
taken = keep_freed_memory()
def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(2**25)
print(taken, faults(2**24))
"""


def run(**environment):
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    taken, faults = done.stdout.split()
    return taken == "True", int(faults)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_tensor_takes_the_pages_of_a_freed_one():
    taken, faults = run()
    if not taken:
        pytest.skip("the C library is not glibc")
    assert faults < 1000  # of 16,384 pages
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[0] is False  # the environment's choice counts
