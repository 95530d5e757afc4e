"""Knowledge in language models: entities beside tokens, trees of facts, triples that a decoder attends to."""
