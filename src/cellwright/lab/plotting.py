"""An experiment's plot as a file."""

from __future__ import annotations

import io
from pathlib import Path

from ..files import write_atomically
from ..look.plotting import COLOURS, STYLE, label, look
from .experiment import Experiment, Rows

__all__ = ["COLOURS", "label", "look", "save_plot"]


def save_plot(experiment: Experiment, rows: Rows, path: Path) -> None:
    """Draw an experiment's plot into a PNG file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        experiment.draw(rows, figure)
        picture = io.BytesIO()
        # No date and no version inside: the same rows give the same file.
        figure.savefig(picture, format="png", metadata={"Software": None})
    write_atomically(path, picture.getvalue())
