"""``python -m kernel``: start the kernel in the foreground."""

import sys

from kernel.boot import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
