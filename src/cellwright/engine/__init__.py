"""What runs a cell over time. An engine knows the language, not the layers."""
