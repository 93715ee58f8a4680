"""The most memory that a process has had, measured by itself.

What goes in: nothing. What comes out: source for a process of its own: `peak()`, in KiB.
"""

PEAK = """
import resource
from pathlib import Path
def peak():  # on Linux getrusage begins with the size of the process that started this one, and hides what is less
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.read_text().partition("VmHWM:")[2].split()[0])
"""
