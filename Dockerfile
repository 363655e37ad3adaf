# The same .venv as `make run` makes, in two stages: the first has make, the second only what serves.
FROM python:3.11-bookworm AS build
WORKDIR /app
COPY . .
RUN make PYTHON=python3 .venv/run.stamp

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin simroute \
    && install -d -o simroute -g simroute -m 0700 /app/var
COPY --from=build /app /app
WORKDIR /app
USER simroute
ENV HOST=0.0.0.0 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
VOLUME /app/var
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["/app/.venv/bin/python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT', '8000')}/health\", timeout=4)"]
CMD ["/app/.venv/bin/simroute", "serve"]
