"""`python -m demo`: makes the demo model."""

import sys

from demo.model import main

if __name__ == "__main__":
    sys.exit(main())
