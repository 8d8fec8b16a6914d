# shellcheck shell=bash
# Finds or gets a program that tests run. To be sourced, after postgres.sh.
#
#   program_find NAME VARIABLE ASK                        prints its path, or fails
#   program_install [--yes] NAME VARIABLE ASK WAY=PACKAGES...  gets it, after asking unless --yes is given or CI=true
#   program_want NAME VARIABLE ASK WAY=PACKAGES...        both, and exports its path as VARIABLE
#   program_may NAME VARIABLE ASK                         exports its path as VARIABLE if it is here
#
# ASK is an argument with which the program says its version and ends; VARIABLE in the environment decides alone if it
# is set; WAY is apt, dnf, apk or brew. Only the program matters, as with Postgres: the tests start their own.

program_find() {
    local name=$1 variable=$2 ask=$3 program
    for program in "${!variable:-$(command -v "$name")}" "/usr/sbin/$name" "/usr/local/sbin/$name"; do
        if [ -n "$program" ] && "$program" "$ask" >/dev/null 2>&1; then
            printf '%s\n' "$program"
            return 0
        fi
        if [ -n "${!variable:-}" ]; then
            pg__say "$variable=${!variable} does not run"
            return 1
        fi
    done
    return 1
}

program_install() {
    local yes=false name variable ask way packages choice
    if [ "${CI:-}" = true ]; then yes=true; fi
    if [ "${1:-}" = --yes ]; then
        yes=true
        shift
    fi
    name=$1 variable=$2 ask=$3
    shift 3
    for way in $(pg__ways); do
        packages=
        for choice in "$@"; do
            if [ "${choice%%=*}" = "$way" ]; then packages=${choice#*=}; fi
        done
        if [ -z "$packages" ]; then continue; fi
        if [ "$yes" = false ]; then
            pg__agreed "$name" "$way install $packages" || continue
        fi
        pg__say "installing $name with $way"
        if [ "$way" = apt ]; then
            pg__as_root apt-get update -qq >&2 || pg__say 'apt-get update failed; trying with the list that is here'
        fi
        # Several packages may be named, so they are split here.
        # shellcheck disable=SC2086
        if program__with "$way" $packages >&2 && program_find "$name" "$variable" "$ask" >/dev/null; then return 0; fi
        pg__say "that gave no working $name"
    done
    pg__say "No $name. Install it, or set $variable to its path."
    return 1
}

program__with() {
    local way=$1
    shift
    case $way in
    apt) pg__as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" ;;
    dnf) pg__as_root dnf install -y -q "$@" ;;
    apk) pg__as_root apk add --quiet "$@" ;;
    brew) brew install --quiet "$@" ;;
    *) return 1 ;;
    esac
}

# Only if it is here: it checks files that no other test needs, and not every system has a package of it.
program_may() {
    local name=$1 variable=$2 ask=$3 found
    if found=$(program_find "$name" "$variable" "$ask"); then
        export "$variable=$found"
        printf '%s\n' "$found"
    else
        unset "$variable"
        printf 'without %s: what it would check is left out.\n' "$name" >&2
    fi
}

# Without the program its tests test nothing, which is said; where nobody looks (CI=true), nothing is left out.
program_want() {
    local name=$1 variable=$2 ask=$3 found
    if ! program_find "$name" "$variable" "$ask" >/dev/null; then
        if [ "${yes:-false}" = true ]; then
            program_install --yes "$@" || [ "${CI:-}" != true ] || return 1
        else
            program_install "$@" || true
        fi
    fi
    if found=$(program_find "$name" "$variable" "$ask"); then
        export "$variable=$found"
        "$found" "$ask" 2>&1 | head -1
    else
        unset "$variable"
        printf 'WITHOUT %s: its tests test nothing.\n' "$name" >&2
    fi
}
