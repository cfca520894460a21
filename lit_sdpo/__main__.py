"""``python -m lit_sdpo`` is ``lit-sdpo``."""

import sys

from lit_sdpo.cli import main

sys.exit(main())
