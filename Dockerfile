# One static program and its configuration: no shell, no root, and nothing to write to but /state.
# README says how it runs on Railway. Elsewhere:
#
#   docker build -t portcullis .
#   docker run --read-only -v portcullis:/state -p 7979:7979 -e PORT=7979 -e PORTCULLIS_TOKEN -e BOUNCER_TOKEN ...

FROM rust:1.95.0-bookworm AS build
# The compiler that is there; the lints that rust-toolchain.toml also names are not needed.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN apt-get update \
    && apt-get install -y --no-install-recommends musl-tools \
    && rustup target add x86_64-unknown-linux-musl
# Only C is compiled by musl-gcc: linked by it, the program would look for a loader that is not there.
ENV CC_x86_64_unknown_linux_musl=musl-gcc \
    CARGO_PROFILE_RELEASE_DEBUG=false \
    CARGO_PROFILE_RELEASE_STRIP=symbols
WORKDIR /src
COPY . .
# FEATURES=--no-default-features leaves Kafka and its OpenSSL out, and is built sooner.
ARG FEATURES="--features kafka-tls-vendored"
RUN cargo build --release --locked --target x86_64-unknown-linux-musl ${FEATURES} --bin portcullis \
    && mkdir -p /image/state \
    && cp target/x86_64-unknown-linux-musl/release/portcullis /image/portcullis

FROM scratch
COPY --from=build /image/portcullis /portcullis
COPY deploy/railway/portcullis.yaml /portcullis.yaml
# A new volume of Docker's takes its owner from here. Railway's belong to root: see README.
COPY --from=build --chown=65532:65532 /image/state /state
USER 65532:65532
ENTRYPOINT ["/portcullis"]
CMD ["run"]
