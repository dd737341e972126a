"""Generated stubs of the journal's own messages, proto/limiter/journal/v1: made by
scripts/generate_stubs.py."""
