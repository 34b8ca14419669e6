"""Training recurrent networks: BPTT, teacher forcing, checkpoints, and the loop."""
