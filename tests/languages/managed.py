"""Rows of languages that are compiled for a machine of their own."""

from __future__ import annotations

from tests.languages.table import LETTERS, Row

__all__ = ["MANAGED"]


def of_main(body: str, *imports: str) -> str:
    """Return a program in Java."""
    lines = "".join(f"import {name};\n" for name in imports)
    return f"{lines}class Main {{ public static void main(String[] words) throws Exception {{ {body} }} }}"


def in_csharp(body: str) -> str:
    return f"using System; using System.Threading; class Program {{ static void Main(string[] words) {{ {body} }} }}"


MANAGED = (
    Row(
        "java",
        hello=of_main('System.out.println("hello");'),
        error=of_main('throw new Exception("boom");'),
        broken=of_main('System.out.println("hello")'),
        adds=of_main(
            "int sum = 0; var input = new Scanner(System.in); while (input.hasNextInt()) sum += input.nextInt(); System.out.println(sum);",
            "java.util.Scanner",
        ),
        arguments=of_main("for (var word : words) System.out.println(word);"),
        letters=of_main(
            f'System.out.println("{LETTERS}"); System.out.println(new Scanner(System.in).nextLine());',
            "java.util.Scanner",
        ),
        threads=of_main(
            "var sum = new AtomicInteger(); var threads = new Thread[8];"
            "for (int i = 0; i < 8; i++) { int n = i; threads[n] = new Thread(() -> sum.addAndGet(n)); threads[n].start(); }"
            "for (var thread : threads) thread.join(); System.out.println(sum);",
            "java.util.concurrent.atomic.AtomicInteger",
        ),
        endless=of_main("for (;;);"),
        waits=of_main('System.out.print("no"); System.out.println("w"); Thread.sleep(60000);'),
    ),
    Row(
        "kotlin",
        hello='fun main() { println("hello") }',
        error='fun main() { error("boom") }',
        broken='fun main() { println("hello" }',
        adds="fun main() { println(generateSequence(::readLine).sumBy { it.toInt() }) }",
        arguments="fun main(words: Array<String>) { words.forEach(::println) }",
        letters=f'fun main() {{ println("{LETTERS}"); println(readLine()) }}',
        threads="""
            import kotlin.concurrent.thread
            fun main() {
                val sum = java.util.concurrent.atomic.AtomicInteger()
                (0..7).map { n -> thread { sum.addAndGet(n) } }.forEach { it.join() }
                println(sum)
            }
            """,
        endless="fun main() { while (true) {} }",
        waits='fun main() { print("no"); println("w"); Thread.sleep(60000) }',
    ),
    Row(
        "typescript",
        hello="const name: string = 'hello'; console.log(name)",
        error="throw new Error('boom')",
        broken="const n: number = 'hello'",
        complains="main.ts(1,7)",
        adds="""
            import { readFileSync } from 'fs';
            const lines: string[] = readFileSync(0, 'utf8').trim().split('\\n');
            console.log(lines.map(Number).reduce((a, b) => a + b));
            """,
        arguments="for (const word of process.argv.slice(2)) console.log(word)",
        letters=f"""
            import * as fs from 'node:fs';
            console.log('{LETTERS}');
            process.stdout.write(fs.readFileSync(0, 'utf8'));
            """,
        threads="""
            import { Worker } from 'worker_threads';
            let sum = 0, ended = 0;
            for (let n = 0; n < 8; n++) {
              const source = 'const t = require("worker_threads"); t.parentPort.postMessage(t.workerData)';
              const worker = new Worker(source, { eval: true, workerData: n });
              worker.on('message', (got: number) => { sum += got; if (++ended === 8) console.log(sum); });
            }
            """,
        endless="for (;;);",
        waits="console.log('now'); setTimeout(() => {}, 60000)",
    ),
    Row(
        "csharp",
        hello=in_csharp('Console.WriteLine("hello");'),
        error=in_csharp('throw new Exception("boom");'),
        broken=in_csharp('Console.WriteLine("hello")'),
        adds=in_csharp(
            "int sum = 0; string line; while ((line = Console.ReadLine()) != null) sum += int.Parse(line); Console.WriteLine(sum);"
        ),
        arguments=in_csharp("foreach (var word in words) Console.WriteLine(word);"),
        letters=in_csharp(
            f'Console.WriteLine("{LETTERS}"); Console.WriteLine(Console.ReadLine());'
        ),
        threads=in_csharp(
            "int sum = 0; var threads = new Thread[8];"
            "for (int i = 0; i < 8; i++) { int n = i; threads[n] = new Thread(() => Interlocked.Add(ref sum, n)); threads[n].Start(); }"
            "foreach (var thread in threads) thread.Join(); Console.WriteLine(sum);"
        ),
        endless=in_csharp("for (;;);"),
        waits=in_csharp('Console.Write("no"); Console.WriteLine("w"); Thread.Sleep(60000);'),
    ),
)
