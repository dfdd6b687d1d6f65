"""The HTTP API and the search page: one process that loads the networks once and batches concurrent requests."""
