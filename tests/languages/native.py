"""Rows of languages that are compiled to programs of the machine."""

from __future__ import annotations

from tests.languages.table import LETTERS, Row

__all__ = ["NATIVE"]

NATIVE = (
    Row(
        "c",
        hello='#include <stdio.h>\nint main(void) { puts("hello"); }',
        error="""
            #include <stdio.h>
            int main(void) { fputs("boom", stderr); return 1; }
            """,
        broken='int main(void) { puts("hello" }',
        adds="""
            #include <stdio.h>
            int main(void) { int n, sum = 0; while (scanf("%d", &n) == 1) sum += n; printf("%d\\n", sum); }
            """,
        arguments="""
            #include <stdio.h>
            int main(int count, char **words) { for (int n = 1; n < count; n++) puts(words[n]); }
            """,
        letters=f"""
            #include <stdio.h>
            int main(void) {{ char line[99]; puts("{LETTERS}"); fputs(fgets(line, 99, stdin), stdout); }}
            """,
        threads="""
            #include <pthread.h>
            #include <stdio.h>
            static void *same(void *n) { return n; }
            int main(void) {
                pthread_t threads[8];
                long sum = 0;
                for (long n = 0; n < 8; n++) pthread_create(&threads[n], 0, same, (void *)n);
                for (int n = 0; n < 8; n++) { void *got; pthread_join(threads[n], &got); sum += (long)got; }
                printf("%ld\\n", sum);
            }
            """,
        endless="int main(void) { for (volatile int n = 0;; n++); }",
        waits="""
            #include <stdio.h>
            #include <unistd.h>
            int main(void) { printf("no"); printf("w\\n"); sleep(60); }
            """,
    ),
    Row(
        "cpp",
        hello='#include <iostream>\nint main() { std::cout << "hello\\n"; }',
        error="""
            #include <stdexcept>
            int main() { throw std::runtime_error("boom"); }
            """,
        exit_code=-6,
        broken='int main() { std::cout << "hello" }',
        adds="""
            #include <iostream>
            int main() { int n, sum = 0; while (std::cin >> n) sum += n; std::cout << sum << "\\n"; }
            """,
        arguments="""
            #include <iostream>
            int main(int count, char **words) { for (int n = 1; n < count; n++) std::cout << words[n] << "\\n"; }
            """,
        letters=f"""
            #include <iostream>
            #include <string>
            int main() {{ std::string line; std::cout << "{LETTERS}\\n"; std::getline(std::cin, line); std::cout << line << "\\n"; }}
            """,
        threads="""
            #include <atomic>
            #include <iostream>
            #include <thread>
            #include <vector>
            int main() {
                std::atomic<int> sum{0};
                std::vector<std::jthread> threads;
                for (int n = 0; n < 8; n++) threads.emplace_back([&sum, n] { sum += n; });
                threads.clear();
                std::cout << sum << "\\n";
            }
            """,
        endless="int main() { for (volatile int n = 0;; n = n + 1); }",
        waits="""
            #include <iostream>
            #include <unistd.h>
            int main() { std::cout << "no" << "w\\n"; sleep(60); }
            """,
    ),
    Row(
        "rust",
        hello='fn main() { println!("hello"); }',
        error='fn main() { panic!("boom"); }',
        exit_code=101,
        broken='fn main() { println!("hello") ',
        adds="""
            use std::io::{stdin, BufRead};
            fn main() {
                let sum: i32 = stdin().lock().lines().map(|line| line.unwrap().parse::<i32>().unwrap()).sum();
                println!("{}", sum);
            }
            """,
        arguments='fn main() { for word in std::env::args().skip(1) { println!("{}", word); } }',
        letters=f"""
            fn main() {{
                let mut line = String::new();
                println!("{LETTERS}");
                std::io::stdin().read_line(&mut line).unwrap();
                println!("{{}}", line.trim());
            }}
            """,
        threads="""
            fn main() {
                let threads: Vec<_> = (0..8).map(|n| std::thread::spawn(move || n)).collect();
                let sum: i32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
                println!("{}", sum);
            }
            """,
        endless="fn main() { loop { std::hint::spin_loop(); } }",
        waits="""
            fn main() { print!("no"); println!("w"); std::thread::sleep(std::time::Duration::from_secs(60)); }
            """,
    ),
    Row(
        "go",
        hello='package main\nimport "fmt"\nfunc main() { fmt.Println("hello") }',
        error='package main\nfunc main() { panic("boom") }',
        exit_code=2,
        broken='package main\nfunc main() { fmt.Println("hello") }',
        adds="""
            package main
            import "fmt"
            func main() {
                n, sum := 0, 0
                for { if _, err := fmt.Scan(&n); err != nil { break }; sum += n }
                fmt.Println(sum)
            }
            """,
        arguments='package main\nimport ("fmt"; "os")\nfunc main() { for _, word := range os.Args[1:] { fmt.Println(word) } }',
        letters=f"""
            package main
            import ("bufio"; "fmt"; "os")
            func main() {{
                fmt.Println("{LETTERS}")
                line, _ := bufio.NewReader(os.Stdin).ReadString('\\n')
                fmt.Println(line)
            }}
            """,
        threads="""
            package main
            import ("fmt"; "runtime")
            func main() {
                found, sum := make(chan int), 0
                for n := 0; n < 8; n++ { go func(n int) { runtime.LockOSThread(); found <- n }(n) }
                for n := 0; n < 8; n++ { sum += <-found }
                fmt.Println(sum)
            }
            """,
        endless="package main\nfunc main() { for {} }",
        waits='package main\nimport ("fmt"; "time")\nfunc main() { fmt.Println("now"); time.Sleep(time.Minute) }',
    ),
    Row(
        "haskell",
        hello='main = putStrLn "hello"',
        error='main = error "boom"',
        broken='main = putStrLn "hello" )',
        adds='main = interact $ (++ "\\n") . show . sum . map (read :: String -> Int) . lines',
        arguments="import System.Environment\nmain = getArgs >>= mapM_ putStrLn",
        letters=f'main = putStrLn "{LETTERS}" >> getLine >>= putStrLn',
        threads="""
            import Control.Concurrent
            main = do
              found <- newEmptyMVar
              mapM_ (\\n -> forkOS (putMVar found n)) [0 .. 7]
              mapM (const (takeMVar found)) [0 .. 7] >>= print . sum
            """,
        endless="main = spin 0 where { spin :: Integer -> IO (); spin n = if n < 0 then pure () else spin (n + 1) }",
        waits='import Control.Concurrent\nmain = putStr "no" >> putStr "w\\n" >> threadDelay 60000000',
    ),
    Row(
        "pascal",
        hello="begin writeln('hello') end.",
        error="{$mode objfpc}\nuses sysutils; begin raise exception.create('boom') end.",
        exit_code=217,
        broken="begin writeln('hello' end.",
        adds="var n, sum: integer; begin sum := 0; while not eof do begin readln(n); sum := sum + n end; writeln(sum) end.",
        arguments="var n: integer; begin for n := 1 to paramcount do writeln(paramstr(n)) end.",
        letters=f"var line: string; begin writeln('{LETTERS}'); readln(line); writeln(line) end.",
        threads="""
            {$mode objfpc}
            uses cthreads, classes;
            var sum: longint = 0;
            type adder = class(TThread) n: longint; procedure execute; override; end;
            procedure adder.execute; begin interlockedexchangeadd(sum, n) end;
            var threads: array[0..7] of adder; n: longint;
            begin
              for n := 0 to 7 do begin threads[n] := adder.create(true); threads[n].n := n; threads[n].start end;
              for n := 0 to 7 do threads[n].waitfor;
              writeln(sum)
            end.
            """,
        endless="begin while true do end.",
        waits="uses sysutils; begin write('no'); writeln('w'); sleep(60000) end.",
    ),
    Row(
        "ocaml",
        hello='let () = print_string "hello\\n"',
        error='let () = failwith "boom"',
        exit_code=2,
        broken='let () = print_string "hello" )',
        adds="""
            let rec add sum = match read_int_opt () with Some n -> add (sum + n) | None -> sum
              | exception End_of_file -> sum
            let () = Printf.printf "%d\\n" (add 0)
            """,
        arguments="let () = Array.iteri (fun n word -> if n > 0 then print_endline word) Sys.argv",
        letters=f'let () = print_string "{LETTERS}\\n"; print_endline (read_line ())',
        threads="""
            let sum = ref 0
            let () =
              let threads = List.init 8 (Thread.create (fun n -> sum := !sum + n)) in
              List.iter Thread.join threads; Printf.printf "%d\\n" !sum
            """,
        endless="let rec spin n = spin (n + 1)\nlet () = spin 0",
        waits="let () = print_string \"no\"; print_char 'w'; print_char '\\n'; Unix.sleep 60",
    ),
)
