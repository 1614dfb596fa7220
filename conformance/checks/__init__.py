"""What is put to an engine: operations, layers, logits, generation. Each yields results."""
