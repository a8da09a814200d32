"""Gunicorn's own lines in the shape of ours: ``logger_class`` of a gunicorn configuration."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger


class RootLogger(Logger):  # type: ignore[misc] # gunicorn has no types
    """Hands everything to the root logger, which ``shared.logging.configure`` has set up."""

    def setup(self, cfg: Any) -> None:  # noqa: ANN401 - gunicorn's configuration object
        """Take gunicorn's handlers away again."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True
