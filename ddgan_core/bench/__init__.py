"""Side by side with what one would use instead, on one machine, in one process: `python -m ddgan_core bench`."""
