"""What makes programs write each line at once, where a setting of their language cannot.

A library that finds a pipe where it expects a terminal collects 4 KiB and more before it writes.
"""

from __future__ import annotations

from typing import Final

__all__ = ["IN_C", "IN_HASKELL", "IN_OCAML", "IN_PASCAL", "IN_RUBY"]

IN_C: Final = """\
#include <stdio.h>
__attribute__((constructor)) static void streamer_line_buffered(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    setvbuf(stdin, 0, _IOLBF, 0);
}
"""
"""For every C and C++ program: their library buffers 4 KiB before it writes to a pipe. glibc
also writes an unfinished line when line-buffered input is read (_IO_new_file_underflow), so that a
prompt appears before its answer, as on a terminal. A preloaded library could not do that; static
programs do not load one and AddressSanitizer refuses it."""

IN_RUBY: Final = "$stdout.sync = true\n"

IN_HASKELL: Final = """\
#include <termios.h>
int isatty(int fd)
{
    struct termios settings;
    return fd == 1 || tcgetattr(fd, &settings) == 0;
}
"""
"""The runtime of GHC asks this when it opens stdout, and buffers a terminal's by lines."""

IN_PASCAL: Final = """\
unit streamer_lines;
interface
implementation
initialization
  TextRec(Output).FlushFunc := TextRec(Output).InOutFunc;
end.
"""
"""It is called at the end of each write; Free Pascal sets it only for a terminal."""

IN_OCAML: Final = r"""
#include <string.h>
#include <caml/memory.h>
#include <caml/mlvalues.h>

value caml_ml_flush(value channel);
value caml_channel_descriptor(value channel);
value __real_caml_ml_output(value channel, value text, value start, value length);
value __real_caml_ml_output_bytes(value channel, value text, value start, value length);
value __real_caml_ml_output_char(value channel, value letter);

static value line_ended(value channel)
{
    return Int_val(caml_channel_descriptor(channel)) <= 2 ? caml_ml_flush(channel) : Val_unit;
}

static int has_line(value text, value start, value length)
{
    return memchr(String_val(text) + Long_val(start), '\n', Long_val(length)) != NULL;
}

value __wrap_caml_ml_output(value channel, value text, value start, value length)
{
    CAMLparam2(channel, text);
    __real_caml_ml_output(channel, text, start, length);
    CAMLreturn(has_line(text, start, length) ? line_ended(channel) : Val_unit);
}

value __wrap_caml_ml_output_bytes(value channel, value text, value start, value length)
{
    CAMLparam2(channel, text);
    __real_caml_ml_output_bytes(channel, text, start, length);
    CAMLreturn(has_line(text, start, length) ? line_ended(channel) : Val_unit);
}

value __wrap_caml_ml_output_char(value channel, value letter)
{
    CAMLparam1(channel);
    __real_caml_ml_output_char(channel, letter);
    CAMLreturn(letter == Val_int('\n') ? line_ended(channel) : Val_unit);
}
"""
"""OCaml has no setting for it. The linker puts these in the place of what its library calls
(--wrap)."""
