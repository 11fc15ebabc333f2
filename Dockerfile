FROM rust:1.95-slim-bookworm AS build
# aws-lc and jemalloc are C, and need no more than a compiler and make.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
# jemalloc takes the builder's page size for everybody's, and an ARM server's may be larger.
RUN test "$(uname -m)" != aarch64 \
    || printf '[env]\nJEMALLOC_SYS_WITH_LG_PAGE = "16"\n' >> "${CARGO_HOME:-$HOME/.cargo}/config.toml"
WORKDIR /src

# The dependencies alone, under empty sources: this layer lasts until Cargo.toml or Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked \
    && rm -r src

# What is needed and no more: .dockerignore lets nothing else in.
COPY . .
# Cargo goes by the time of a file, and the empty sources may be younger than the real ones.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked


FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 doorward \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin doorward
COPY --from=build /src/target/release/doorward /usr/local/bin/doorward

# By number, so that a platform which demands a user other than root can see that it is one.
USER 10001:10001
# Needs DATABASE_URL, SECRET_KEY and PUBLIC_URL from whoever runs it.
ENV DOORWARD_ENV=production HOST=0.0.0.0 PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["doorward", "healthcheck"]
ENTRYPOINT ["doorward"]
CMD ["serve"]
