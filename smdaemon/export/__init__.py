"""One export as a short pipeline, and the write queue with its byte budget."""
