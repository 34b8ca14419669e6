"""Models of pairs: an input text, and the output text that belongs to it."""

from ...extras import require

require("cellwright.text.pairs", "train")
