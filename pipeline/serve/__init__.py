"""The web page and the HTTP API: one process, models loaded once, requests looked at together."""
