// The editor of the playground: CodeMirror, with what a short program needs and no more.
//
// It lives in a shadow root, where CodeMirror uses constructed style sheets. In the document itself it
// would add style elements, which the policy of the page forbids.

import { closeBrackets, closeBracketsKeymap } from "@codemirror/autocomplete";
import {
  defaultKeymap,
  history,
  historyKeymap,
  indentWithTab,
  simplifySelection,
} from "@codemirror/commands";
import { bracketMatching, indentOnInput, indentUnit } from "@codemirror/language";
import { highlightSelectionMatches, searchKeymap } from "@codemirror/search";
import { Compartment, EditorState } from "@codemirror/state";
import {
  drawSelection,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  highlightSpecialChars,
  keymap,
  lineNumbers,
} from "@codemirror/view";

import { languageOf } from "./editor/languages.js";
import { theme } from "./editor/theme.js";

/** How many columns a step of indentation has where it is not four. */
const TWO_COLUMNS = new Set(
  ["css", "hs", "html", "js", "json", "jsx", "ml", "mjs", "mts", "r", "rb", "sh", "sql", "ts", "tsx"],
);

// Ctrl+Enter runs the program, which is the page's affair.
const OTHER_KEYS = new Set(["Mod-Enter", "Escape"]);

/** Escape makes several cursors one, and lets the next Tab leave, both at once. */
const escape = {
  key: "Escape",
  run(view) {
    simplifySelection(view);
    return false;
  },
};

/** An editor of several documents, of which it shows one. Each has an undo history of its own. */
class CodeEditor {
  #view;
  #states = new Map(); // of the documents that are not shown
  #shown = null;
  #name = "";
  #language = new Compartment();
  #label = new Compartment();
  #onChange;

  constructor(host, { label, onChange }) {
    this.#onChange = onChange;
    const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
    this.#view = new EditorView({ root, parent: root, state: this.#state("", "") });
    this.describe(label);
  }

  /** Show a document: `id` tells it from others, `name` is that of its file. */
  show({ id, name, text }) {
    if (this.#shown !== null) {
      this.#states.set(this.#shown, this.#view.state);
    }
    let state = this.#states.get(id);
    if (state === undefined || state.doc.toString() !== text) {
      state = this.#state(text, name);
    }
    this.#shown = id;
    const label = this.#label.get(this.#view.state);
    this.#view.setState(state);
    this.#view.dispatch({ effects: this.#label.reconfigure(label) });
    this.#highlight(name);
  }

  /** Let go of a document; what is shown of it stays until another one is shown. */
  forget(id) {
    this.#states.delete(id);
    if (this.#shown === id) {
      this.#shown = null;
    }
  }

  text() {
    return this.#view.state.doc.toString();
  }

  hasSelection() {
    return this.#view.state.selection.ranges.some((range) => !range.empty);
  }

  /** Select a line, counted from 1, in the middle of what is to be seen. */
  goToLine(number) {
    const { doc } = this.#view.state;
    const line = doc.line(Math.min(Math.max(1, number), doc.lines));
    this.#view.dispatch({
      selection: { anchor: line.from, head: line.to },
      effects: EditorView.scrollIntoView(line.from, { y: "center" }),
    });
    this.focus();
  }

  focus() {
    this.#view.focus();
  }

  /** Name the text for a screen reader. */
  describe(label) {
    const attributes = {
      "aria-label": label,
      "aria-description": "Tab indents. Press Escape and then Tab to leave.",
      autocapitalize: "off",
      autocorrect: "off",
      spellcheck: "false",
    };
    const content = EditorView.contentAttributes.of(attributes);
    this.#view.dispatch({ effects: this.#label.reconfigure(content) });
  }

  #state(text, name) {
    const extension = name.slice(name.lastIndexOf(".") + 1).toLowerCase();
    const unit = extension === "go" ? "\t" : " ".repeat(TWO_COLUMNS.has(extension) ? 2 : 4);
    return EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(),
        highlightSpecialChars(),
        history(),
        drawSelection(),
        EditorState.allowMultipleSelections.of(true),
        EditorState.tabSize.of(4),
        indentUnit.of(unit),
        indentOnInput(),
        bracketMatching(),
        closeBrackets(),
        highlightActiveLine(),
        highlightActiveLineGutter(),
        highlightSelectionMatches(),
        keymap.of([
          escape,
          ...closeBracketsKeymap,
          ...defaultKeymap.filter(({ key }) => !OTHER_KEYS.has(key)),
          ...searchKeymap,
          ...historyKeymap,
          indentWithTab,
        ]),
        this.#language.of([]),
        this.#label.of([]),
        theme,
        EditorView.updateListener.of((update) => {
          if (update.docChanged) {
            this.#onChange();
          }
        }),
      ],
    });
  }

  async #highlight(name) {
    this.#name = name;
    const language = await languageOf(name);
    if (this.#name === name) {
      this.#view.dispatch({ effects: this.#language.reconfigure(language) });
    }
  }
}

/**
 * Put an editor into an element. `label` names it for a screen reader, and `onChange` is called
 * after each change of the text that is shown.
 */
export const createEditor = (host, options) => new CodeEditor(host, options);
