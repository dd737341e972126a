"""The design's semantics as naive Python, and the property tests that compare with them."""
