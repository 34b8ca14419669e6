"""A report as an anywidget; needs the extra `widget`."""

from __future__ import annotations

from html import escape
from typing import Any

import anywidget
import traitlets

from ..inspection import Inspection
from .app import STATIC
from .report import in_one_file, report_json


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
        self._title = inspection.run.directory.name

    def __repr__(self) -> str:
        return f"<inspector of {self._title}>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """With a page beside the widget, for readers that have no widgets: nbconvert,
        a notebook's viewer."""
        data, metadata = super()._repr_mimebundle_(**options) or ({}, {})
        page = escape(in_one_file(repr(self), "report", self.report))
        look = 'style="width: 100%; height: 48rem; border: 0"'
        frame = f'<iframe title="inspector" srcdoc="{page}" {look}></iframe>'
        return {**data, "text/html": frame}, metadata
