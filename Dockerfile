# syntax=docker/dockerfile:1
# The service as an image: one binary on a slim Debian, as a user without rights, with nothing to
# write. Build it from the repository's root:
#
#   docker build -t ride-promo .
#   docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges \
#     --env-file ride-promo.env ride-promo doctor

# The version of rust-toolchain.toml; on the same Debian that it will run on, for the same libraries.
FROM rust:1.95.0-slim-bookworm AS build
# The newest of what Debian keeps for this release: only repairs of its security team are newer.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential pkg-config libssl-dev zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Queries are checked against .sqlx, so that building needs no database.
ENV SQLX_OFFLINE=true
# The dependencies' objects are kept between builds, ours never: cargo goes by a file's time, and would
# take what another checkout left for this one's. Hence one build at a time as well.
# Three quarters of the binary are line numbers for a debugger; the functions' names stay.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo clean --locked --release --package ride-promo \
 && cargo build --locked --release --bin ride-promo \
 && install -D target/release/ride-promo /out/ride-promo \
 && strip --strip-debug /out/ride-promo

FROM debian:12-slim
# librdkafka's TLS, its compression, the authorities that sign the world's certificates, and the
# newest rules of time zones.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 tzdata zlib1g \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ride-promo /usr/local/bin/ride-promo
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /
# In a container the listeners are reached from outside of it.
ENV RIDE_PROMO__API__LISTEN=0.0.0.0:8080 \
    RIDE_PROMO__ADMIN__LISTEN=0.0.0.0:8081
EXPOSE 8080 8081
# Alive, not ready: what restarts unhealthy containers must not do so while Kafka is away.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["ride-promo", "healthcheck"]
# Drains within shutdown_timeout, 25 s; what stops it must wait longer than that.
STOPSIGNAL SIGTERM
ENTRYPOINT ["ride-promo"]
CMD ["serve"]
