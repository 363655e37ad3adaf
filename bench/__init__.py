"""How fast the gateway is, beside the bare parts it is made of. `python -m bench` measures; nothing imports this."""
