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

const typescript = `let line: number = 0;
const timer = setInterval(() => {
  line += 1;
  console.log(\`\\x1b[3\${(line % 6) + 1}mline \${line}\\x1b[0m\`);
  if (line === 25) clearInterval(timer);
}, 200);
`;

const ruby = `1.upto(25) do |number|
  puts "\\e[3#{number % 6 + 1}mline #{number}\\e[0m"
  sleep 0.2
end
`;

const php = `<?php
for ($number = 1; $number <= 25; $number++) {
    printf("\\x1b[3%dmline %d\\x1b[0m\\n", $number % 6 + 1, $number);
    usleep(200000);
}
`;

const perl = `for my $number (1 .. 25) {
    printf "\\e[3%dmline %d\\e[0m\\n", $number % 6 + 1, $number;
    select undef, undef, undef, 0.2;
}
`;

const lua = `for number = 1, 25 do
    print(string.format("\\27[3%dmline %d\\27[0m", number % 6 + 1, number))
    os.execute("sleep 0.2")
end
`;

const r = `for (number in 1:25) {
  cat(sprintf("\\033[3%dmline %d\\033[0m\\n", number %% 6 + 1, number))
  Sys.sleep(0.2)
}
`;

const sql = `create table lines (number integer, colour text);

with recursive counted(number) as (
  select 1 union all select number + 1 from counted where number < 25
)
insert into lines select number, 'colour ' || (number % 6 + 1) from counted;

select 'line ' || number, colour from lines;
`;

const rust = `use std::{thread::sleep, time::Duration};

fn main() {
    for number in 1..=25 {
        println!("\\x1b[3{}mline {}\\x1b[0m", number % 6 + 1, number);
        sleep(Duration::from_millis(200));
    }
}
`;

const go = `package main

import (
	"fmt"
	"time"
)

func main() {
	for number := 1; number <= 25; number++ {
		fmt.Printf("\\x1b[3%dmline %d\\x1b[0m\\n", number%6+1, number)
		time.Sleep(200 * time.Millisecond)
	}
}
`;

const java = `class Main {
    public static void main(String[] words) throws InterruptedException {
        for (int number = 1; number <= 25; number++) {
            System.out.printf("\\033[3%dmline %d\\033[0m%n", number % 6 + 1, number);
            Thread.sleep(200);
        }
    }
}
`;

const kotlin = `fun main() {
    for (number in 1..25) {
        println("\\u001b[3\${number % 6 + 1}mline $number\\u001b[0m")
        Thread.sleep(200)
    }
}
`;

const csharp = `using System;
using System.Threading;

class Program {
    static void Main() {
        for (int number = 1; number <= 25; number++) {
            Console.WriteLine("\\x1b[3" + (number % 6 + 1) + "mline " + number + "\\x1b[0m");
            Thread.Sleep(200);
        }
    }
}
`;

const haskell = `import Control.Concurrent (threadDelay)
import Control.Monad (forM_)

main :: IO ()
main = forM_ [1 .. 25 :: Int] $ \\number -> do
  putStrLn ("\\ESC[3" ++ show (number \`mod\` 6 + 1) ++ "mline " ++ show number ++ "\\ESC[0m")
  threadDelay 200000
`;

const pascal = `uses sysutils;

var
  number: integer;
begin
  for number := 1 to 25 do
  begin
    writeln(#27'[3', number mod 6 + 1, 'mline ', number, #27'[0m');
    sleep(200)
  end
end.
`;

const ocaml = `let () =
  for number = 1 to 25 do
    Printf.printf "\\027[3%dmline %d\\027[0m\\n" (number mod 6 + 1) number;
    Unix.sleepf 0.2
  done
`;

export const SAMPLES = new Map(
  Object.entries({
    ...{ python, javascript, typescript, bash, ruby, php, perl, lua, r, sql },
    ...{ c, cpp, rust, go, java, kotlin, csharp, haskell, pascal, ocaml },
  }),
);
