"""The cold path: one servicer a file, conversion and status mapping each in one place."""
