"""Stage 1: strain from frames, recordings or simulation, as contiguous `Strain` and `Gap` records per detector."""
