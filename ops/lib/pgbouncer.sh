# shellcheck shell=bash
# Finds or gets the program pgbouncer, for the tests behind a pooler. To be sourced, after postgres.sh.
#
#   pgbouncer_find             prints its path, or fails
#   pgbouncer_install [--yes]  gets it, after asking unless --yes is given or CI=true
#
# Only the program matters, as with Postgres: the tests start their own.

# HUBCAST_PGBOUNCER in the environment decides alone if it is set.
pgbouncer_find() {
    local program
    for program in "${HUBCAST_PGBOUNCER:-$(command -v pgbouncer)}" /usr/sbin/pgbouncer /usr/local/sbin/pgbouncer; do
        if [ -n "$program" ] && "$program" --version >/dev/null 2>&1; then
            printf '%s\n' "$program"
            return 0
        fi
        if [ -n "${HUBCAST_PGBOUNCER:-}" ]; then
            pg__say "HUBCAST_PGBOUNCER=$HUBCAST_PGBOUNCER does not run"
            return 1
        fi
    done
    return 1
}

pgbouncer_install() {
    local yes=false way
    if [ "${1:-}" = --yes ] || [ "${CI:-}" = true ]; then yes=true; fi
    for way in $(pg__ways); do
        case $way in
        apt) set -- pg__as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer ;;
        dnf) set -- pg__as_root dnf install -y -q pgbouncer ;;
        apk) set -- pg__as_root apk add --quiet pgbouncer ;;
        brew) set -- brew install --quiet pgbouncer ;;
        *) continue ;;
        esac
        if [ "$yes" = false ]; then
            pg__agreed PgBouncer "$way install pgbouncer" || continue
        fi
        pg__say "installing PgBouncer with $way"
        if [ "$way" = apt ]; then
            pg__as_root apt-get update -qq >&2 || pg__say 'apt-get update failed; trying with the list that is here'
        fi
        if "$@" >&2 && pgbouncer_find >/dev/null; then return 0; fi
        pg__say 'that gave no working PgBouncer'
    done
    pg__say 'No PgBouncer. Install it, or set HUBCAST_PGBOUNCER to its path.'
    return 1
}
