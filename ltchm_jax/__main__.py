"""`python -m ltchm_jax` is the `ltchm` command."""

import sys

from ltchm_jax.cli import main

sys.exit(main())
