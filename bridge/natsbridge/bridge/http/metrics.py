"""``/metrics`` in Prometheus's text format or OpenMetrics, the latter with exemplars."""

from __future__ import annotations

import sys

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from natsbridge.bridge.http.callers import admin


def registry_of(numbers: Collector) -> CollectorRegistry:
    """Return all that is exported: these numbers, and those of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(numbers)
    if sys.platform == "linux":
        # CPU, memory and descriptors of the process, from /proc.
        ProcessCollector(namespace="bridge", registry=registry)
    return registry


def router(registry: CollectorRegistry, guarded: bool) -> APIRouter:
    """Return the route; where it is ``guarded``, it is for admins' tokens."""
    routes = APIRouter(tags=["health"], dependencies=[Depends(admin)] if guarded else [])

    @routes.get("/metrics", summary="Counts and states for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": kind})

    return routes
