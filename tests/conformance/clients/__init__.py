"""One driver per client: `registry.py` says what its head has, `driver.py` and `driver.js` how it is built."""
