"""Shell scripts that prepare for a compiler, whose name comes after them, and then execute it."""

from __future__ import annotations

from typing import Final

__all__ = ["IN_FOLDER", "OF_OCAML"]

IN_FOLDER: Final = 'cd "$1" && shift && exec "$0" "$@"'
"""Run a command in the folder of its first argument."""

OF_OCAML: Final = """\
cd "$1" && main=${2##*/} || exit
shift 2
case $main in -*) main=./$main ;; esac
live=$OLDPWD/.streamer/live-lines.c files= seen= new= interface=${main%.ml}.mli
[ -f "$interface" ] || interface=
uses() { ocamldep -modules "$@" 2>/dev/null | sed 's/.*://'; }
[ "$(echo *.ml*)" = "$main" ] || new=$(uses ${interface:+"$interface"} "$main")
while [ "$new" ]; do
    modules=$new new=
    for module in $modules; do
        case " $seen " in *" $module "*) continue ;; esac
        seen="$seen $module"
        for name in "$(printf %.1s "$module" | tr A-Z a-z)${module#?}" "$module"; do
            [ "$name.ml" != "$main" ] || continue
            found=
            for file in "$name.mli" "$name.ml"; do
                [ ! -f "$file" ] || found="$found $file"
            done
            [ "$found" ] || continue
            files="$files $found"
            new="$new $(uses $found)"
            break
        done
    done
done
sorted=$(ocamldep -sort $files 2>/dev/null) && files=$sorted
exec "$0" "$@" "$live" $files ${interface:+"$interface"} "$main"
"""
"""Compile a file with the modules that it uses and that are beside it, each after those it uses."""
