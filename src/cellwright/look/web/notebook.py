"""A report as an anywidget; needs the extra `widget`."""

from __future__ import annotations

import anywidget
import traitlets

from ..inspection import Inspection
from .app import STATIC
from .report import report_json


class InspectorWidget(anywidget.AnyWidget):
    """The pages' own script, fed with a report's numbers.

    Attributes:
        report: what a report holds, as JSON.
        style: the pages' style sheet; it stays within the widget.
    """

    _esm = STATIC / "cellwright.js"
    report = traitlets.Unicode().tag(sync=True)
    style = traitlets.Unicode().tag(sync=True)

    def __init__(self, inspection: Inspection, beside: Inspection | None = None):
        style = (STATIC / "cellwright.css").read_text(encoding="utf-8")
        super().__init__(report=report_json(inspection, beside), style=style)
