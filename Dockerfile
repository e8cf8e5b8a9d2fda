# syntax=docker/dockerfile:1
# The service as an image: one binary on a slim Debian, with an unprivileged user and no writable files.
# Build it from the repository's root:
#
#   docker build -t ride-promo .
#   docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges \
#     --env-file ride-promo.env ride-promo doctor

# The version of rust-toolchain.toml, on the Debian of the final image, so that the libraries are the same.
FROM rust:1.95.0-slim-bookworm AS build
# Not pinned: within a release Debian changes packages only for security and serious bugs.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential pkg-config libssl-dev zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The build checks queries against .sqlx, so it needs no database.
ENV SQLX_OFFLINE=true
# The cache keeps the dependencies' objects between builds, but not ours: cargo compares file times, and
# would use another checkout's objects for this one. For the same reason builds run one at a time.
# Three quarters of the binary are debug line numbers; they are removed, the functions' names stay.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo clean --locked --release --package ride-promo \
 && cargo build --locked --release --bin ride-promo \
 && install -D target/release/ride-promo /out/ride-promo \
 && strip --strip-debug /out/ride-promo

FROM debian:12-slim
# For librdkafka's TLS and compression, the public certificate authorities, and the newest time zone rules.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 tzdata zlib1g \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ride-promo /usr/local/bin/ride-promo
# A number, so that Kubernetes can check that it is not root.
USER 65532:65532
WORKDIR /
# The listeners must be reachable from outside of the container.
ENV RIDE_PROMO__API__LISTEN=0.0.0.0:8080 \
    RIDE_PROMO__ADMIN__LISTEN=0.0.0.0:8081 \
    RIDE_PROMO__METRICS__LISTEN=0.0.0.0:8082
EXPOSE 8080 8081 8082
# Liveness, not readiness: an unhealthy container may be restarted, which must not happen while Kafka is
# unavailable.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["ride-promo", "healthcheck"]
# The service stops within shutdown_timeout (25 s). The supervisor that stops it must wait longer.
STOPSIGNAL SIGTERM
ENTRYPOINT ["ride-promo"]
CMD ["serve"]
