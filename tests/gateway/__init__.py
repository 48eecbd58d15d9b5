"""A fake gateway: a real HTTP server on loopback that charges, limits, fails on command, and writes down the truth."""
