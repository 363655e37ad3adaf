"""Clients that others wrote, and scripts as people write them, against a gateway that really runs: client × call.

`clients/` has a driver for each, found by its file name. `make conformance` runs all of them and writes the table of
`docs/clients.md` and the README; `test_short_form.py` runs those that the tests' own environment has.
"""
