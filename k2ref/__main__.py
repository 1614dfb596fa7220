"""`python -m k2ref` is the command `k2ref`."""

from k2ref.cli import main

raise SystemExit(main())
