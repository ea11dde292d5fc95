"""uvicorn around the application: limits of connections, and a stop that leaves nobody without an answer."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from types import FrameType

import uvicorn

from captionary.online.service.app import create_app
from captionary.online.service.services import Services
from captionary.online.service.settings import is_loopback

__all__ = ["DrainingServer", "serve"]

_logger = logging.getLogger("captionary.service")
_CONNECTIONS = 2000
"""Open at once; each idle one costs some kilobytes."""


class DrainingServer(uvicorn.Server):
    """On SIGTERM says that it is not ready, goes on for a while, then refuses connections and finishes what is open.

    A load balancer that asks `/readyz` has by then stopped sending. A second signal shortens the wait.

    Args:
        config: of uvicorn.
        services: that are told.
        drain: seconds between the two.
    """

    def __init__(self, config: uvicorn.Config, services: Services, drain: float) -> None:
        super().__init__(config)
        self.services, self.drain = services, drain
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Remember the loop, and say where the service is once it listens."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in getattr(self, "servers", ()):
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                _logger.info("listening on http://%s:%d", host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second time, or on Ctrl-C, stop; a third time wait for nobody."""
        del frame
        if self.should_exit:
            self.force_exit = True
        elif self.services.draining or sig == signal.SIGINT or not self.drain or self._loop is None:
            self._stop()
        else:
            _logger.info("draining for %g s", self.drain)
            self._loop.call_soon_threadsafe(self._loop.call_later, self.drain, self._stop)
        self.services.draining = True

    def _stop(self) -> None:
        # Not uvicorn's own handler, which would end the process by the signal once all is closed, instead of by 0.
        self.should_exit = True


def serve(services: Services) -> None:
    """Serve until a signal; then `services` are closed."""
    config, limits = services.config, services.config.limits
    # A thread that scores holds the interpreter for up to so long while the event loop waits for it, after each of the
    # few system calls of a request: with Python's 5 ms an overloaded service could not say so within a second.
    sys.setswitchinterval(0.0001)
    # What was loaded stays: without it a full collection goes through the vocabularies in the middle of a request.
    gc.collect()
    gc.freeze()
    server = DrainingServer(
        uvicorn.Config(
            create_app(services),
            host=config.host,
            port=config.port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            limit_concurrency=_CONNECTIONS,
            backlog=512,
            timeout_keep_alive=65,
            h11_max_incomplete_event_size=32 << 10,
            timeout_graceful_shutdown=round(limits.write_seconds) + 1,
        ),
        services,
        0.0 if is_loopback(config.host) else limits.drain_seconds,
    )
    services.erasures.start()
    server.run()
