"""Remove padding: move everything that never mixes tokens (attention excepted) to packed `[T, ...]` tensors."""
