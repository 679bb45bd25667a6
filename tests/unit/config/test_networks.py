"""The catalogue of networks."""

import os
import subprocess
import sys


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, ddbench.config.networks; sys.exit('torch' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
