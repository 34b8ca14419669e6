"""Runs on the Hugging Face Hub, by its own mixin."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download

from .runs import PairsRun, TextRun, load_run

CARD = """---
{{ card_data }}
---

A recurrent net, trained by [cellwright](https://pypi.org/project/cellwright).

```python
import cellwright as cw

run = cw.from_pretrained("{{ repo_id | default("user/name", true) }}")
```
"""


class Published(
    ModelHubMixin, library_name="cellwright", model_card_template=CARD, tags=["rnn"]
):
    """A run as the hub's mixin sees it.

    Args:
        run: what is published, or was loaded.
    """

    def __init__(self, run: TextRun | PairsRun) -> None:
        self.run = run

    def _save_pretrained(self, save_directory: Path) -> None:
        self.run.run.publish(save_directory, self.run.model)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Published:
        if Path(model_id).is_dir():
            return cls(load_run(model_id))
        snapshot = snapshot_download(model_id, **options)
        # The cache is links, and no file of a run may be one that leads out of it.
        folder = tempfile.mkdtemp(prefix="cellwright-")
        try:
            shutil.copytree(snapshot, folder, dirs_exist_ok=True)
            run = load_run(folder)
        except BaseException:
            shutil.rmtree(folder)
            raise
        weakref.finalize(run, shutil.rmtree, folder, ignore_errors=True)
        return cls(run)
