"""The online trainer: adaptive embeddings that follow the hot set."""
