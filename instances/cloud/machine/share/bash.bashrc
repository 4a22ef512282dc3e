# Every interactive shell of the machine, and through BASH_ENV every other: `module` is there at once.
for tree in /cvmfs/*/modulefiles /software/*/modulefiles; do
    [ -d "$tree" ] || continue
    case ":${MODULEPATH:-}:" in
        *":$tree:"*) ;;
        *) MODULEPATH=${MODULEPATH:+$MODULEPATH:}$tree ;;
    esac
done
unset tree
export MODULEPATH
for init in /usr/share/modules/init/bash /usr/share/lmod/lmod/init/bash; do
    [ -r "$init" ] && { . "$init"; break; }
done
unset init
if [ -n "${PS1-}" ]; then
    PS1='\[\e[38;5;79m\]\h\[\e[0m\]:\[\e[38;5;117m\]\w\[\e[0m\]\$ '
    alias ls='ls --color=auto'
    HISTSIZE=5000
    shopt -s histappend checkwinsize
    if [ -z "${VISA_GREETED-}" ] && [ -r /etc/motd ]; then
        export VISA_GREETED=1
        cat /etc/motd
    fi
fi
