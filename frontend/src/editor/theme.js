// How the editor looks: all colours are the page's own properties, so that it follows its theme.

import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { EditorView } from "@codemirror/view";
import { tags } from "@lezer/highlight";

const look = EditorView.theme({
  "&": { height: "100%", color: "var(--screen-text)", backgroundColor: "var(--screen)" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { font: "0.875rem/1.45 var(--mono)" },
  ".cm-content": { padding: "0.5rem 0", caretColor: "var(--screen-text)" },
  ".cm-cursor": { borderLeftColor: "var(--screen-text)" },
  ".cm-gutters": {
    border: "0",
    backgroundColor: "var(--screen)",
    color: "var(--muted)",
  },
  ".cm-lineNumbers .cm-gutterElement": { minWidth: "2.25rem", padding: "0 0.5rem 0 0.25rem" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "transparent" },
  "&.cm-focused .cm-activeLine, &.cm-focused .cm-activeLineGutter": {
    backgroundColor: "var(--line)",
  },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground":
    { background: "var(--selection)" },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "var(--selection)" },
  "&.cm-focused .cm-nonmatchingBracket": { color: "var(--bad)" },
  ".cm-selectionMatch": { backgroundColor: "var(--line)" },
  ".cm-searchMatch": { backgroundColor: "var(--found)" },
  ".cm-searchMatch-selected": { backgroundColor: "var(--selection)" },
  ".cm-panels": { backgroundColor: "var(--panel)", color: "var(--text)" },
  ".cm-panels-bottom": { borderTop: "1px solid var(--edge)" },
  ".cm-textfield, .cm-button": {
    border: "1px solid var(--edge)",
    borderRadius: "0.25rem",
    backgroundColor: "var(--screen)",
    backgroundImage: "none",
    color: "var(--text)",
  },
  ".cm-tooltip": {
    border: "1px solid var(--edge)",
    backgroundColor: "var(--panel)",
    color: "var(--text)",
  },
  ".cm-tooltip-autocomplete > ul > li[aria-selected]": {
    backgroundColor: "var(--accent)",
    color: "var(--on-accent)",
  },
});

const colours = HighlightStyle.define([
  { tag: [tags.comment, tags.meta], color: "var(--muted)", fontStyle: "italic" },
  { tag: [tags.keyword, tags.modifier, tags.operatorKeyword], color: "var(--code-keyword)" },
  { tag: [tags.string, tags.special(tags.string), tags.regexp], color: "var(--code-string)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom, tags.escape], color: "var(--code-number)" },
  {
    tag: [tags.function(tags.variableName), tags.function(tags.propertyName), tags.macroName],
    color: "var(--code-function)",
  },
  { tag: [tags.typeName, tags.className, tags.namespace, tags.tagName], color: "var(--code-type)" },
  { tag: [tags.standard(tags.variableName), tags.attributeName], color: "var(--code-function)" },
  { tag: tags.heading, fontWeight: "600" },
  { tag: tags.invalid, color: "var(--bad)" },
]);

export const theme = [look, syntaxHighlighting(colours)];
