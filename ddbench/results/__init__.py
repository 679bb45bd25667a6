"""Results: records, the conditions under which they are comparable, scores, published numbers, export."""
