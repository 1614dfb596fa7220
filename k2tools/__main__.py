import sys

from k2tools.cli import main

sys.exit(main())
