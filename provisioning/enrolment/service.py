"""The enrolment service: `EnrolmentDesk` behind HTTPS, in a thread of its own.

aiohttp reads HTTP; it is the web library with the longest record of its kind, is kept well, and shows a
client's certificate, which uvicorn does not. The server's certificate is the fleet's, so a device knows
whom it tells its token. A client's certificate is asked for and not demanded, since a device that enrols
has none; whether it is revoked or over is looked up in the authority's ledger, so a revocation holds at the
next request, and the device is told why instead of losing the connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self, TypeVar, cast

from aiohttp import web

from compression.records import Record, RecordError, dumps, loads
from edge_client.session.tls import NO_CHECK_TIME
from edge_client.wire.enrolment import (
    BEARER,
    ENROL_PATH,
    MAX_BODY_BYTES,
    RENEW_PATH,
    REPORT_PATH,
    EnrolRequest,
    IssuedCertificate,
    Refusal,
    RenewRequest,
    StepReport,
)
from provisioning.enrolment.desk import EnrolmentDesk
from provisioning.enrolment.errors import EnrolmentServiceError, RefusedError
from provisioning.enrolment.limits import RateLimit
from provisioning.pki.authority import FleetCA
from provisioning.pki.errors import PkiError
from provisioning.pki.identity import ensure_server_certificate, listening_names

log = logging.getLogger(__name__)

FOLDER, KEY, CERTIFICATE = "enrolment", "server.key", "server.crt"  # in the authority's folder
HANDSHAKE_S = 20.0  # weak Wi-Fi and a Pi Zero
BODY_S = 20.0
CONNECTION_S = 60.0  # a connection's whole life: no request of ours takes longer, and slow headers end here
MOST_CONNECTIONS = 256
REQUESTS = 240, 4.0  # of one address: burst, per second. A hospital's devices may share one
FAILURES = 30, 0.1  # of one address: what proved nothing or was no request
SUSPICIOUS = (400, 401, 404, 405, 413)
R = TypeVar("R", bound=Record)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EnrolmentService:
    """Starts on entering, ends on leaving. `port` 0 takes a free one."""

    def __init__(
        self, authority: FleetCA, desk: EnrolmentDesk, *, host: str, port: int, names: Sequence[str]
    ) -> None:
        self._authority, self._desk, self._names = authority, desk, listening_names(host, names)
        self._host, self.port = host, port
        self._requests, self._failures = RateLimit(*REQUESTS), RateLimit(*FAILURES)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Event | None = None

    def __enter__(self) -> Self:
        started: Future[int] = Future()
        context = self._context()
        self._thread = threading.Thread(
            target=self._run, args=(context, started), name="enrolment", daemon=True
        )
        self._thread.start()
        self.port = started.result()
        log.info("enrolment on %s:%d", self._host, self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._done is not None:
            self._loop.call_soon_threadsafe(self._done.set)
        if self._thread is not None:
            self._thread.join()

    # ---- the thread ----

    def _run(self, context: ssl.SSLContext, started: Future[int]) -> None:
        try:
            asyncio.run(self._serve(context, started))
        finally:
            if not started.done():  # or whoever waits for it waits for ever
                started.set_exception(EnrolmentServiceError("the enrolment service failed as it started"))

    async def _serve(self, context: ssl.SSLContext, started: Future[int]) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handle_signals=False,
            auto_decompress=False,  # nobody who means well compresses a kilobyte
            shutdown_timeout=1.0,
        )
        await runner.setup()
        try:
            listener = await self._listen(runner, context)
        except (OSError, OverflowError) as exc:
            reason = getattr(exc, "strerror", None) or exc
            text = f"enrolment cannot listen on {self._host} port {self.port}: {reason}; choose another port"
            started.set_exception(EnrolmentServiceError(text))
        else:
            started.set_result(listener.sockets[0].getsockname()[1])
            await self._done.wait()
            listener.close()
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner, context: ssl.SSLContext) -> asyncio.Server:
        loop, server = asyncio.get_running_loop(), cast(web.Server, runner.server)

        def connection() -> asyncio.Protocol:
            if len(server.connections) >= MOST_CONNECTIONS:
                return _Crowded()
            handler = server()
            loop.call_later(CONNECTION_S, handler.force_close)
            return handler

        return await loop.create_server(
            connection, self._host, self.port, ssl=context, ssl_handshake_timeout=HANDSHAKE_S, backlog=512
        )

    def _context(self) -> ssl.SSLContext:
        """Our certificate, and whose clients' we read; made or renewed if need be."""
        folder = self._authority.directory / FOLDER
        folder.mkdir(exist_ok=True, mode=0o700)
        ensure_server_certificate(self._authority, folder / KEY, folder / CERTIFICATE, self._names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.num_tickets = 0  # a device asks once and goes
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
        context.load_verify_locations(cafile=self._authority.certificate_file)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= NO_CHECK_TIME  # the ledger knows, and can say so
        return context

    # ---- requests ----

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        application.router.add_post(ENROL_PATH, self._enrol)
        application.router.add_post(RENEW_PATH, self._renew)
        application.router.add_post(REPORT_PATH, self._report)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count, answer, and make every failure a `Refusal`."""
        address, now = request.remote or "", time.monotonic()
        wait_s = max(limit.wait_s(address, now) for limit in (self._requests, self._failures))
        if wait_s > 0:
            retry = {"Retry-After": str(math.ceil(wait_s))}
            return _answer(Refusal("too many requests from this address"), 429, retry)
        self._requests.take(address, now)
        try:
            return await handler(request)
        except RefusedError as exc:
            status, reason = int(exc.status), str(exc)
        except web.HTTPException as exc:
            status, reason = exc.status, exc.reason
        except (PkiError, EnrolmentServiceError, sqlite3.Error, OSError) as exc:
            log.error("enrolment: %s", exc)
            status, reason = 503, "the server cannot do this now; its log says why"
        if status in SUSPICIOUS:
            self._failures.take(address, now)
        log.info("enrolment: refused %s of %s (%d): %s", request.path[:20], address, status, reason[:300])
        return _answer(Refusal(reason[:500]), status)

    async def _enrol(self, request: web.Request) -> web.Response:
        body, token = await _body(request, EnrolRequest), _token(request)
        if token is None:
            raise RefusedError(401, "an enrolment needs a token")
        return _answer(IssuedCertificate(await asyncio.to_thread(self._desk.enrol, body, token)))

    async def _renew(self, request: web.Request) -> web.Response:
        body, presented = await _body(request, RenewRequest), _presented(request)
        if presented is None:
            raise RefusedError(401, "a renewal needs the certificate that is to be renewed")
        return _answer(IssuedCertificate(await asyncio.to_thread(self._desk.renew, body, presented)))

    async def _report(self, request: web.Request) -> web.Response:
        body, token, presented = await _body(request, StepReport), _token(request), _presented(request)
        if token is None and presented is None:
            raise RefusedError(401, "a report needs a token or a certificate")
        await asyncio.to_thread(self._desk.report, body, token=token, presented=presented)
        return web.Response(status=204)


class _Crowded(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


async def _body(request: web.Request, cls: type[R]) -> R:
    try:
        async with asyncio.timeout(BODY_S):
            data = await request.read()
        return loads(cls, data, max_bytes=MAX_BODY_BYTES)
    except TimeoutError as exc:
        raise RefusedError(408, f"the body did not come within {BODY_S:g} s") from exc
    except RecordError as exc:
        raise RefusedError(400, str(exc)) from exc


def _token(request: web.Request) -> str | None:
    header = request.headers.get("Authorization", "")
    return header.removeprefix(BEARER) if header.startswith(BEARER) else None


def _presented(request: web.Request) -> bytes | None:
    """The client's certificate (DER), which TLS has verified; None where it sent none."""
    tls = request.get_extra_info("ssl_object")
    return tls.getpeercert(binary_form=True) if tls is not None else None


def _answer(record: Record, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=dumps(record), status=status, content_type="application/json", headers=headers)
