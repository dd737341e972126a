"""Generated stubs of the API, proto/limiter/v1: made by scripts/generate_stubs.py."""
