"""Everything computed from saved answers and features: scores, intervals, models, figures, tables and the report."""

import contextlib
import os
import sys

# A notebook's `!commands` inherit its backend, which may not be installed here. Nothing here opens a window.
if "matplotlib" not in sys.modules and (_backend := os.environ.pop("MPLBACKEND", None)) is not None:
    import matplotlib

    os.environ["MPLBACKEND"] = _backend
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend
