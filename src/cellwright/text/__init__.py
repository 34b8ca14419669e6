"""Language models of text: corpora, tokenizers, runs, figures, samples."""

from ..extras import require

require("cellwright.text", "train")
