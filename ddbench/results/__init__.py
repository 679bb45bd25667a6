"""Results: records, the conditions that make them comparable, scores, published numbers, export."""
