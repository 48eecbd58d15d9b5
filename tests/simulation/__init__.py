"""The runner over a simulated clock, network and disk: a seed is a whole job, and the same seed is the same job."""
