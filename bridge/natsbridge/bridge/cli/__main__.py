"""``python -m natsbridge.bridge.cli``: the command line where no script is installed."""

import sys

from natsbridge.bridge.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
