"""Benchmarks of limiter: asv suites; `python -m benchmarks.report` prints one table of them."""
