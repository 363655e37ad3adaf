"""A storm over real processes, and the accounts made up after it.

`python -m tests.chaos` (or `make chaos`) starts gateway processes on a real database, simulated upstreams and a crowd
of clients, breaks what a seeded plan says while they trade, mends everything, lets time pass until all is settled, and
then compares what the upstreams sold, what the clients heard, what receivers got and what the books say.
"""
