// A first program for each language: it shows at once that output arrives while it is written.

const python = `import sys
import time

for number in range(1, 26):
    colour = 31 + number % 6
    print(f"\\x1b[{colour}mline {number}\\x1b[0m")
    if number % 5 == 0:
        print("on standard error", file=sys.stderr)
    time.sleep(0.2)
`;

const javascript = `let number = 0;
const timer = setInterval(() => {
  number += 1;
  console.log(\`\\x1b[3\${(number % 6) + 1}mline \${number}\\x1b[0m\`);
  if (number % 5 === 0) {
    console.error("on standard error");
  }
  if (number === 25) {
    clearInterval(timer);
  }
}, 200);
`;

const bash = `for number in {1..25}; do
  printf '\\033[3%dmline %d\\033[0m\\n' $((number % 6 + 1)) "$number"
  if ((number % 5 == 0)); then
    echo "on standard error" >&2
  fi
  sleep 0.2
done
`;

const c = `#include <stdio.h>
#include <time.h>

int main(void) {
    struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};
    for (int number = 1; number <= 25; number++) {
        printf("\\033[3%dmline %d\\033[0m\\n", number % 6 + 1, number);
        fflush(stdout);
        if (number % 5 == 0) {
            fprintf(stderr, "on standard error\\n");
        }
        nanosleep(&pause, NULL);
    }
    return 0;
}
`;

const cpp = `#include <chrono>
#include <iostream>
#include <thread>

int main() {
    for (int number = 1; number <= 25; number++) {
        std::cout << "\\033[3" << number % 6 + 1 << "mline " << number << "\\033[0m" << std::endl;
        if (number % 5 == 0) {
            std::cerr << "on standard error" << std::endl;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
}
`;

export const SAMPLES = new Map(Object.entries({ python, javascript, bash, c, cpp }));
