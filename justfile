# Chores of this workspace. Each recipe is a line or two that also work without just.

# Lists the recipes.
default:
    @just --list --unsorted

# Formats all code.
fmt:
    cargo fmt --all

# Everything that a change must pass.
check: fmt-check clippy docs test deny

# Checks the formatting.
fmt-check:
    cargo fmt --all --check

# Lints everything, tests and benches included; a warning is an error.
clippy:
    cargo clippy --workspace --all-targets -- -D warnings

# Builds the documentation; a warning, say a broken link, is an error.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

# Runs all tests, those of the real binary and of the generated code among them.
test *ARGS:
    cargo test --workspace {{ARGS}}

# Checks licences, banned crates and sources, if cargo-deny is installed.
deny:
    @if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; else echo "cargo-deny is not installed: skipped"; fi

# Accepts changed snapshots after a test has failed on them; look at the diff first.
snapshots:
    INSTA_UPDATE=always cargo test -p xlreg-proto

# Measures speed and memory of the whole system; PART is session, roster, idle or start.
bench *PART:
    cargo bench -p xlreg-cli --bench system -- {{PART}}

# Measures how far one registry goes, and draws the curves of docs/performance.md; PART is sessions,
# joins, watchers or stored.
limits *PART:
    cargo bench -p xlreg-cli --bench limits -- {{PART}}

# Kills a registry under load N times, and lets its disk fail; says what is lost: nothing.
kills N="10" *ARGS:
    cargo bench -p xlreg-cli --bench kills -- {{N}} {{ARGS}}

# Lets honest members join amid 12,500 connections that are up to no good; --soak M for M minutes.
abuse *ARGS:
    cargo bench -p xlreg-cli --bench abuse -- {{ARGS}}

# Runs SEEDS seeds of the simulation, from FIRST on; docs/reliability.md says what they show.
simulate SEEDS="10000" FIRST="0":
    cargo run --release -p xlreg-sim -- {{SEEDS}} {{FIRST}}

# Records HISTORIES of a real server, and checks that each can have happened in some order.
linearize HISTORIES="5000" FIRST="0":
    cargo run --release -p xlreg-sim --bin linearize -- {{HISTORIES}} {{FIRST}}

# Forms a cluster of three and shows what its members know.
demo:
    cargo run --release -- run -n 3 -- echo 'I am {name}, rank {rank} of {size}, on {endpoint}, with {peers ,\s {name} on {endpoint}}'

# Writes the code of the .proto files anew.
codegen:
    cargo run -p xtask -- codegen

# Writes the manual pages into target/man.
man:
    cargo run --release -- man target/man

# Fuzzes TARGET until it crashes, or replays the files that are named; see fuzz/README.md.
fuzz TARGET *ARGS:
    fuzz/run {{TARGET}} {{ARGS}}

# Fuzzes each target for ten seconds.
fuzz-smoke:
    fuzz/run --smoke

# All that continuous integration does, smoke runs of the real binary included.
ci *STEPS:
    .ci/run {{STEPS}}
