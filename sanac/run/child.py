"""`python -m sanac.run.child PARENT ARGS...`: runs the command line in a process that ends with its parent."""

import runpy
import sys

from sanac.core.process import end_with


def main() -> int:
    """Run the command line; it exits with its own code."""
    parent = int(sys.argv.pop(1))
    if not end_with(parent):
        return 1
    sys.argv[0] = "sanac"
    runpy.run_module("sanac", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
