"""One module for each adapter, found by its name: `PAIRS` maps names of pairs to what the contract suite needs."""
