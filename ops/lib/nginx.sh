# shellcheck shell=bash
# Finds or gets the program nginx, for the tests of ops/examples/nginx.conf. To be sourced, after postgres.sh.
#
#   nginx_find             prints its path, or fails
#   nginx_install [--yes]  gets it, after asking unless --yes is given or CI=true
#
# Only the program matters, as with Postgres: the tests start their own.

# HUBCAST_NGINX in the environment decides alone if it is set.
nginx_find() {
    local program
    for program in "${HUBCAST_NGINX:-$(command -v nginx)}" /usr/sbin/nginx /usr/local/sbin/nginx; do
        if [ -n "$program" ] && "$program" -v >/dev/null 2>&1; then
            printf '%s\n' "$program"
            return 0
        fi
        if [ -n "${HUBCAST_NGINX:-}" ]; then
            pg__say "HUBCAST_NGINX=$HUBCAST_NGINX does not run"
            return 1
        fi
    done
    return 1
}

nginx_install() {
    local yes=false way
    if [ "${1:-}" = --yes ] || [ "${CI:-}" = true ]; then yes=true; fi
    for way in $(pg__ways); do
        case $way in
        apt) set -- pg__as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light ;;
        dnf) set -- pg__as_root dnf install -y -q nginx ;;
        apk) set -- pg__as_root apk add --quiet nginx ;;
        brew) set -- brew install --quiet nginx ;;
        *) continue ;;
        esac
        if [ "$yes" = false ]; then
            pg__agreed nginx "$way install nginx" || continue
        fi
        pg__say "installing nginx with $way"
        if [ "$way" = apt ]; then
            pg__as_root apt-get update -qq >&2 || pg__say 'apt-get update failed; trying with the list that is here'
        fi
        if "$@" >&2 && nginx_find >/dev/null; then return 0; fi
        pg__say 'that gave no working nginx'
    done
    pg__say 'No nginx. Install it, or set HUBCAST_NGINX to its path.'
    return 1
}
