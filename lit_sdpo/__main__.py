"""``python -m lit_sdpo`` is ``lit-sdpo``."""

import sys

from lit_sdpo.main import main

sys.exit(main())
