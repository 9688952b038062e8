// Programs to begin with: a first one for each language, and some that show what else there is.

import { SAMPLES } from "../samples.js";

const asks = `name = input("What is your name? ")
print(f"Hello, {name}!")

total = 0
while line := input("A number, or nothing to end: "):
    total += float(line)
    print("so far", total)
`;

const main = `from shapes import Circle, Square

for shape in (Circle(1), Square(2)):
    print(f"{shape}: {shape.area():.2f}")
`;

const shapes = `import math
from dataclasses import dataclass


@dataclass
class Circle:
    radius: float

    def area(self) -> float:
        return math.pi * self.radius**2


@dataclass
class Square:
    side: float

    def area(self) -> float:
        return self.side**2
`;

const words = `# Counts the words of its standard input, which is under "Arguments, input, limits".
tr -cs '[:alpha:]' '\\n' | sort | uniq -c | sort -rn | head -n "$1"
`;

const text = `the quick brown fox jumps over the lazy dog
the dog sleeps and the fox runs away
`;

const MORE = [
  { title: "asks for input", request: { language: "python", code: asks } },
  {
    title: "several files",
    request: {
      language: "python",
      files: [
        { name: "main.py", content: main },
        { name: "shapes.py", content: shapes },
      ],
    },
  },
  { title: "input and arguments", request: { language: "bash", code: words, stdin: text, args: ["3"] } },
];

/** The first program of a language, as a request. */
export const firstOf = (language) => ({ language, code: SAMPLES.get(language) ?? "" });

/** All examples for languages ({name, title} each) as {title, request}, by the names of the languages. */
export function examplesFor(runtimes) {
  return runtimes.flatMap(({ name, title }) => {
    const first = SAMPLES.has(name) ? [{ title: "live output", request: firstOf(name) }] : [];
    const more = MORE.filter(({ request }) => request.language === name);
    return [...first, ...more].map((each) => ({ ...each, title: `${title}: ${each.title}` }));
  });
}
