"""`python -m deploy.software DIRECTORY`: makes the demo's software tree there, and says what modules it holds."""

import sys
from pathlib import Path

from deploy.software import build

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python -m deploy.software DIRECTORY")
    print("software:", *build(Path(sys.argv[1])))
