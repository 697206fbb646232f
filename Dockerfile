# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# Dependencies are compiled once a machine: they stay in the cache mounts, whatever changes in our own sources. A cache
# mount is no part of the image, hence the copies.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked -p iotflow -p iotflow-load \
    && install -D -t /out target/release/iotflow target/release/iotflow-load

FROM debian:bookworm-slim
COPY --from=build /out/ /usr/local/bin/
# No name is needed for a user that owns nothing. docker-compose.yml and scripts/compose-secrets know the number.
USER 10001:10001
# A container's loopback is reached by nobody.
ENV HOST=0.0.0.0
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["iotflow", "health"]
ENTRYPOINT ["iotflow"]
CMD ["serve"]
