"""What a running vehicle loop shows, over HTTP: a page, health checks, Prometheus metrics. See ``docs/serve.md``.

A process of its own that reads the live folder (:mod:`edge_runtime.live`) and nothing else, so that no visitor can
touch classification. Starlette, uvicorn and prometheus-client are imported when it runs, not before.
"""
