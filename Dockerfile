# The same .venv as `make run` makes, in two stages: the first has make, the second only what serves.
FROM python:3.11-bookworm AS build
WORKDIR /app
COPY . .
RUN make PYTHON=python3 .venv/run.stamp

# pg_dump and pg_restore for backups, with the libraries they need: slim images have none, Debian's are too old.
FROM postgres:18-bookworm AS postgresql
RUN mkdir -p /tools/lib && cp /usr/lib/postgresql/*/bin/pg_dump /usr/lib/postgresql/*/bin/pg_restore /tools/lib/ \
    && ldd /tools/lib/pg_dump /tools/lib/pg_restore | awk '$3 ~ "^/" && $1 !~ "^lib(c|m)[.]so" {print $3}' | sort -u \
    | xargs cp -L -t /tools/lib \
    && for tool in pg_dump pg_restore; do \
        printf '#!/bin/sh\nLD_LIBRARY_PATH=/opt/postgresql/lib exec /opt/postgresql/lib/%s "$@"\n' "$tool" > "/tools/$tool" \
        && chmod 0755 "/tools/$tool"; done

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin simroute \
    && install -d -o simroute -g simroute -m 0700 /app/var /backups
COPY --from=postgresql /tools /opt/postgresql
COPY --from=build /app /app
WORKDIR /app
USER simroute
ENV HOST=0.0.0.0 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/postgresql:$PATH
EXPOSE 8000
VOLUME /app/var
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["/app/.venv/bin/python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT', '8000')}/health\", timeout=4)"]
CMD ["/app/.venv/bin/simroute", "serve"]
