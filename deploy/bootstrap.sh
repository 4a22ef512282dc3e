# Sourced by deploy/demo and deploy/test, in bash, at the top of the checkout: from a bare system to a working .visa/venv.
# needs demo|test: the system packages (named first; installed when root; else one sentence), then Python's.

say() { printf '%s\n' "$*" >&2; }

present() { # a path (it may hold a *) or the name of a program
  case $1 in
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] ;;
  esac
}

needs() {
  local purpose=$1 package sign for missing=()
  while read -r package sign for; do
    [[ -z $package || $package == \#* ]] && continue
    [[ $for == demo || $purpose == test ]] || continue
    present "$sign" || missing+=("$package")
  done <deploy/packages
  if ((${#missing[@]})); then
    if ! command -v apt-get >/dev/null; then
      say "This system has no apt-get; install what Debian calls ${missing[*]}, and run this again."
      exit 1
    elif ((EUID)); then
      say "These system packages are missing; run 'sudo apt-get install --no-install-recommends ${missing[*]}' and then this again."
      exit 1
    fi
    say "Installing system packages: ${missing[*]}"
    mkdir -p .visa/log
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
      >.visa/log/apt.log 2>&1 </dev/null; then
      say "apt-get could not install them: is there a network, and space? It said: $(grep -m1 '^E:' .visa/log/apt.log || tail -n1 .visa/log/apt.log)"
      exit 1
    fi
    printf '  %-44s %6.1f s\n' "System packages" "$SECONDS" >&2
  fi
  # Programs in a virtual environment name its place: after a move it is made anew.
  if ! .visa/venv/bin/python -c 'import pip' 2>/dev/null || ! grep -qF "$PWD/.visa/venv" .visa/venv/bin/activate; then
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      say "Python 3.11 or newer is needed; this system's python3 is $(python3 -V 2>&1)."
      exit 1
    fi
    if ! { mkdir -p .visa && python3 -m venv --clear .visa/venv; } 2>/dev/null; then
      say "No virtual environment could be made in $PWD/.visa: may you write there, and is there space?"
      exit 1
    fi
  fi
}
