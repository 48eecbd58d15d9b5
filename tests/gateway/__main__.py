"""`python tests/gateway`: a gateway to rehearse a job against."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run as a folder, this one is where modules are looked for first; its name is that of a package
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from gateway.command import main

    sys.exit(main())
