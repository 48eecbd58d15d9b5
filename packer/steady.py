"""A limit that stays: what fails in a batch says nothing of how much may be in flight."""

from __future__ import annotations

from packer.limiter import Limiter


class SteadyLimiter(Limiter):
    """A fixed limit that failures do not lower; refusals still freeze."""

    @property
    def limit(self) -> int:
        """How many requests may be in flight."""
        assert self.fixed is not None, "nothing is searched for"
        return self.fixed
