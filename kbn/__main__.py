"""`python -m kbn` is the command `kbn`, which starts sooner by that name."""

import sys

from kbn_command import main

if __name__ == "__main__":
    sys.exit(main())
