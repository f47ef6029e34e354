"""``python -m eventbus_tasks`` is ``ebt``."""

from __future__ import annotations

import sys

from eventbus_tasks._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
