"""Settings of `serving`."""

from pydantic import Field, NonNegativeInt, PositiveInt

from product1m.config.section import Section


class ServerConfig(Section):
    """The server of `product1m serve`; no step reads it, and no run has it as a parameter."""

    workers: NonNegativeInt = 0
    """Photos answered at the same time, each by one thread. 0: the processors that this process may
    use (ours)."""
    max_waiting: PositiveInt = 32
    """Photos that may wait for a worker; further requests get the status 503 and when to try
    again (ours)."""
    max_connections: PositiveInt = 256
    """Connections at the same time; further ones get the status 503 (ours)."""
    deadline_s: float = Field(default=20.0, gt=0)
    """A request that is not answered after this time is ended; headers, upload and waiting count
    (ours)."""
    max_answers: PositiveInt = 100
    """Maximum number of answers per box that a request may ask for (ours)."""
    keep_queries: str = ""
    """Folder to keep every photo that was searched in, with its title and answers. Empty: no photo
    and no title is kept, and none is logged (ours)."""
    follow_interval_s: float = Field(default=15.0, gt=0)
    """How often the server looks for a newer catalogue (ours)."""
