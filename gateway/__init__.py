"""simroute: the core. Nothing here names an adapter or a dialect, except the wiring in `app`."""
