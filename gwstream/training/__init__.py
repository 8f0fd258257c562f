"""How a model comes to be: bank, data on the fly, the loop, and the proof that it is calibrated."""
