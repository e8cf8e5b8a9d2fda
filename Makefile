# The two commands of the README, each complete on a machine that has Rust and make:
#
#   make demo    everything on this machine for a look around; ARGS="--duration PT60S" passes options
#   make test    all tests, on a real Kafka, a real PostgreSQL and in a real browser
#
# Further checks of a change:
#
#   make contracts  tests the published APIs with the tools of their users: Schemathesis over both OpenAPI
#                   documents, AsyncAPI's parser, the example subscribers in Python, Java and Go
#   make upgrade    tests the upgrade from the release before to this one, under traffic
#   make lint    formatting, clippy, the documentation and the alerts, every warning an error
#   make lint-deploy   the Dockerfile, deploy/ and the workflow, with the linters for them
#   make deny    licences, advisories and banned crates (needs cargo-deny)
#   make sbom    the software bill of materials, CycloneDX, into target/ride-promo.cdx.json (needs
#                cargo-cyclonedx)
#   make bench   throughput and latency against floors, into benches/RESULTS.md; ARGS=--quick only prints

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# The build checks queries against .sqlx, so it needs no database.
export SQLX_OFFLINE := true

.DEFAULT_GOAL := help
.PHONY: help demo test upgrade contracts lint lint-deploy deny sbom bench

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo:
	@scripts/setup.sh demo
	cargo build --locked --release
	$(TARGET_DIR)/release/ride-promo demo $(ARGS)

test:
	@scripts/setup.sh test
	@scripts/kafka-libs.sh "$(TARGET_DIR)/kafka-libs"
	@scripts/browser-libs.sh
	cargo test --locked $(ARGS)

upgrade:
	@scripts/setup.sh test
	@scripts/kafka-libs.sh "$(TARGET_DIR)/kafka-libs"
	@scripts/previous-release.sh "$(TARGET_DIR)/previous-release"
	cargo test --locked --test it upgrade:: -- --ignored $(ARGS)

contracts:
	@scripts/setup.sh contracts
	@scripts/kafka-libs.sh "$(TARGET_DIR)/kafka-libs"
	@scripts/contract-tools.sh "$(TARGET_DIR)/contract-tools"
	cargo test --locked --test it contracts:: -- --ignored $(ARGS)

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	scripts/check-rules.sh "$(TARGET_DIR)"

lint-deploy:
	scripts/lint-deploy.sh $(ARGS)

deny:
	cargo deny check

# Of what the binary is built from on Linux: no tests, no other systems.
sbom:
	cargo cyclonedx --format json --spec-version 1.5 --no-build-deps --target x86_64-unknown-linux-gnu --override-filename ride-promo.cdx
	mv ride-promo.cdx.json "$(TARGET_DIR)/"

bench:
	@scripts/setup.sh test
	@scripts/kafka-libs.sh "$(TARGET_DIR)/kafka-libs"
	cargo bench --locked --bench figures -- $(ARGS)
