// Turns what a program wrote into text, styles and four movements of the cursor.
//
// The grammar is ECMA-48's, as terminals read it. Only colours and weights (SGR), line ends,
// carriage return, backspace, "erase in line", "erase in display" and "cursor home" mean something
// here. Every other sequence - the clipboard (OSC 52), titles, links, other cursor addresses, device
// control - is dropped whole, also when it arrives in pieces.

const CONTROL = /[\x00-\x08\x0a-\x1f\x7f-\x9f]/g; // C0 without tab, DEL, C1
const LONGEST_PARAMETERS = 256;
// A string without an end would hide everything after it, so past this length it is given up.
const LONGEST_STRING = 65536;

// The one-character (C1) forms of ESC and a letter, as UTF-8 text carries them.
const C1_INTRODUCERS = {
  "\x90": "string",
  "\x98": "string",
  "\x9b": "csi",
  "\x9d": "osc",
  "\x9e": "string",
  "\x9f": "string",
};
const ESC_INTRODUCERS = {
  P: "string",
  X: "string",
  "[": "csi",
  "]": "osc",
  "^": "string",
  _: "string",
};

/** What text looks like: a colour is a palette number (0-255), "#rrggbb", or null. */
export const PLAIN = Object.freeze({
  fg: null,
  bg: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  strike: false,
  inverse: false,
});

/** Reads one stream; keep one for each, so that no stream can garble another. */
export class AnsiParser {
  #state = "text";
  #parameters = "";
  #swallowed = 0;
  #style = PLAIN;

  /**
   * Read the next piece and tell `sink` what it means, by its methods
   * print(text, style), newline(), carriageReturn(), backspace(), eraseInLine(mode),
   * eraseInDisplay(mode) and home().
   */
  feed(text, sink) {
    let at = 0;
    while (at < text.length) {
      if (this.#state === "text") {
        at = this.#text(text, at, sink);
      } else if (this.#state === "csi") {
        at = this.#csi(text, at, sink);
      } else if (this.#state === "escape") {
        at = this.#escape(text, at, sink);
      } else {
        at = this.#string(text, at);
      }
    }
  }

  #text(text, at, sink) {
    CONTROL.lastIndex = at;
    const found = CONTROL.exec(text);
    const end = found === null ? text.length : found.index;
    if (end > at) {
      sink.print(text.slice(at, end), this.#style);
    }
    if (found === null) {
      return end;
    }
    this.#control(found[0], sink);
    return end + 1;
  }

  #control(char, sink) {
    if (char === "\n" || char === "\v" || char === "\f") {
      sink.newline();
    } else if (char === "\r") {
      sink.carriageReturn();
    } else if (char === "\b") {
      sink.backspace();
    } else if (char === "\x1b") {
      this.#enter("escape");
    } else if (Object.hasOwn(C1_INTRODUCERS, char)) {
      this.#enter(C1_INTRODUCERS[char]);
    }
  }

  #enter(state) {
    this.#state = state;
    this.#parameters = "";
    this.#swallowed = 0;
  }

  #escape(text, at, sink) {
    const char = text[at];
    if (Object.hasOwn(ESC_INTRODUCERS, char) && this.#parameters === "") {
      this.#enter(ESC_INTRODUCERS[char]);
      return at + 1;
    }
    if (char >= " " && char <= "/") {
      this.#parameters = "intermediate"; // as in ESC ( B: more is to come
      return at + 1;
    }
    if (char >= "0" && char <= "~") {
      this.#state = "text";
      return at + 1;
    }
    return this.#stray(char, at, sink);
  }

  #csi(text, at, sink) {
    const char = text[at];
    if (char >= " " && char <= "?") {
      if (this.#parameters.length < LONGEST_PARAMETERS) {
        this.#parameters += char;
      }
      return at + 1;
    }
    if (char >= "@" && char <= "~") {
      this.#state = "text";
      this.#dispatch(char, sink);
      return at + 1;
    }
    return this.#stray(char, at, sink);
  }

  /** Handle a character that is invalid inside a sequence, as terminals do. */
  #stray(char, at, sink) {
    if (char === "\x18" || char === "\x1a") {
      this.#state = "text"; // CAN and SUB abort a sequence
      return at + 1;
    }
    if (char < " " || char === "\x7f") {
      this.#control(char, sink); // a newline inside a sequence still ends the line
      return at + 1;
    }
    this.#state = "text";
    return at;
  }

  #string(text, at) {
    for (let i = at; i < text.length; i += 1) {
      const char = text[i];
      if (char === "\x1b") {
        this.#enter("escape"); // ESC \ ends the string, any other ESC aborts it
        return i + 1;
      }
      const bell = char === "\x07" && this.#state === "osc";
      if (bell || char === "\x9c" || char === "\x18" || char === "\x1a") {
        this.#state = "text";
        return i + 1;
      }
      this.#swallowed += 1;
      if (this.#swallowed > LONGEST_STRING) {
        this.#state = "text";
        return i + 1;
      }
    }
    return text.length;
  }

  #dispatch(final, sink) {
    if (this.#parameters.length >= LONGEST_PARAMETERS || !/^[\d;:]*$/.test(this.#parameters)) {
      return;
    }
    if (final === "m") {
      const style = selectGraphicRendition(this.#style, this.#parameters);
      const plain = Object.keys(PLAIN).every((name) => style[name] === PLAIN[name]);
      this.#style = plain ? PLAIN : style;
    } else if (final === "K") {
      sink.eraseInLine(Number(this.#parameters) || 0);
    } else if (final === "J") {
      sink.eraseInDisplay(Number(this.#parameters) || 0);
    } else if (final === "H" && /^[01]?(;[01]?)?$/.test(this.#parameters)) {
      sink.home();
    }
  }
}

function selectGraphicRendition(style, parameters) {
  const next = { ...style };
  const codes = parameters.split(";");
  for (let i = 0; i < codes.length; i += 1) {
    const [first, ...rest] = codes[i].split(":");
    const code = Number(first);
    if (code === 38 || code === 48 || code === 58) {
      // 38:5:n and 38:2::r:g:b keep to themselves, 38;5;n and 38;2;r;g;b use up what follows.
      const semicolons = rest.length === 0;
      const words = semicolons ? codes.slice(i + 1) : rest;
      const [colour, used] = extendedColour(words, semicolons);
      if (colour !== null && code !== 58) {
        next[code === 38 ? "fg" : "bg"] = colour;
      }
      i += semicolons ? used : 0;
    } else if (code === 4 && rest.length > 0) {
      next.underline = rest[0] !== "0"; // 4:3 is a curly one
    } else {
      applyCode(next, code);
    }
  }
  return Object.freeze(next);
}

/** Return the colour, or null if it is invalid, and how many words it took. */
function extendedColour(words, semicolons) {
  const bytes = (from, to) => {
    const found = words.slice(from, to).map(Number);
    const valid = found.length === to - from && found.every((n) => Number.isInteger(n) && n < 256);
    return valid ? found : null;
  };
  if (words[0] === "5") {
    const index = bytes(1, 2);
    return [index === null ? null : index[0], 2];
  }
  if (words[0] === "2") {
    const from = !semicolons && words.length > 4 ? 2 : 1; // the colour space, named only with ":"
    const rgb = bytes(from, from + 3);
    return [rgb === null ? null : hex(rgb), 4];
  }
  return [null, 1];
}

function applyCode(style, code) {
  if (code === 0) {
    Object.assign(style, PLAIN);
  } else if (code === 1) {
    style.bold = true;
  } else if (code === 2) {
    style.dim = true;
  } else if (code === 3) {
    style.italic = true;
  } else if (code === 4 || code === 21) {
    style.underline = true;
  } else if (code === 7) {
    style.inverse = true;
  } else if (code === 9) {
    style.strike = true;
  } else if (code === 22) {
    style.bold = false;
    style.dim = false;
  } else if (code === 23) {
    style.italic = false;
  } else if (code === 24) {
    style.underline = false;
  } else if (code === 27) {
    style.inverse = false;
  } else if (code === 29) {
    style.strike = false;
  } else if (code >= 30 && code <= 37) {
    style.fg = code - 30;
  } else if (code === 39) {
    style.fg = null;
  } else if (code >= 40 && code <= 47) {
    style.bg = code - 40;
  } else if (code === 49) {
    style.bg = null;
  } else if (code >= 90 && code <= 97) {
    style.fg = code - 90 + 8;
  } else if (code >= 100 && code <= 107) {
    style.bg = code - 100 + 8;
  }
}

/** The colour of a palette number from 16 on: xterm's 6x6x6 cube, then 24 greys. */
export function paletteColour(index) {
  if (index >= 232) {
    const grey = 8 + (index - 232) * 10;
    return hex([grey, grey, grey]);
  }
  const level = (n) => (n === 0 ? 0 : 55 + n * 40);
  const cube = index - 16;
  return hex([level(Math.floor(cube / 36)), level(Math.floor(cube / 6) % 6), level(cube % 6)]);
}

function hex(rgb) {
  return `#${rgb.map((n) => n.toString(16).padStart(2, "0")).join("")}`;
}
