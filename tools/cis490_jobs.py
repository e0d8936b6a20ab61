"""The operator CLI from a checkout: `python tools/cis490_jobs.py status`; installed, it is `cis490-jobs`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from training.fleet.cli import main

    sys.exit(main())
