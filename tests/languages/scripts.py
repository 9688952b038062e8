"""Rows of languages that need no compiler."""

from __future__ import annotations

from tests.languages.table import LETTERS, Row

__all__ = ["SCRIPTS"]

SCRIPTS = (
    Row(
        "python",
        hello="print('hello')",
        error="raise RuntimeError('boom')",
        broken="print('hello'\n",
        complains="SyntaxError",
        adds="import sys; print(sum(map(int, sys.stdin)))",
        arguments="import sys; print(*sys.argv[1:], sep='\\n')",
        letters=f"print('{LETTERS}'); print(input())",
        threads="""
            from threading import Thread
            found = []
            threads = [Thread(target=found.append, args=(n,)) for n in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            print(sum(found))
            """,
        endless="while True: pass",
        waits="import time; print('now'); time.sleep(60)",
    ),
    Row(
        "javascript",
        hello="console.log('hello')",
        error="throw new Error('boom')",
        broken="console.log('hello'",
        complains="SyntaxError",
        adds="""
            const lines = require('fs').readFileSync(0, 'utf8').trim().split('\\n');
            console.log(lines.map(Number).reduce((a, b) => a + b));
            """,
        arguments="for (const word of process.argv.slice(2)) console.log(word)",
        letters=f"""
            console.log('{LETTERS}');
            process.stdout.write(require('fs').readFileSync(0, 'utf8'));
            """,
        threads="""
            const { Worker } = require('worker_threads');
            let sum = 0, ended = 0;
            for (let n = 0; n < 8; n++) {
              const source = 'const t = require("worker_threads"); t.parentPort.postMessage(t.workerData)';
              const worker = new Worker(source, { eval: true, workerData: n });
              worker.on('message', got => { sum += got; if (++ended === 8) console.log(sum); });
            }
            """,
        endless="for (;;);",
        waits="console.log('now'); setTimeout(() => {}, 60000)",
    ),
    Row(
        "bash",
        hello="echo hello",
        error='echo boom >&2; exit "$(printf 1)"',
        broken="if true; then echo hello",
        complains="syntax error",
        exit_code=1,
        adds="sum=0; while read -r n; do sum=$((sum + n)); done; echo $sum",
        arguments='printf "%s\\n" "$@"',
        letters=f"echo '{LETTERS}'; read -r line; echo \"$line\"",
        threads="for n in {0..7}; do echo $n & done | { sum=0; while read -r n; do ((sum += n)); done; echo $sum; }",
        endless="while :; do :; done",
        waits="echo now; sleep 60",
    ),
    Row(
        "ruby",
        hello="puts 'hello'",
        error="raise 'boom'",
        broken="puts 'hello",
        complains="main.rb:1",
        adds="puts $stdin.each_line.sum(&:to_i)",
        arguments="puts ARGV",
        letters=f"puts '{LETTERS}', gets",
        threads="puts 8.times.map { |n| Thread.new { n } }.sum(&:value)",
        endless="loop {}",
        waits="print 'no', \"w\\n\"; sleep 60",
    ),
    Row(
        "php",
        hello="<?php echo 'hello', PHP_EOL;",
        error="<?php throw new Exception('boom');",
        broken="<?php echo 'hello'; }",
        complains="main.php",
        exit_code=255,
        adds="<?php echo array_sum(explode(PHP_EOL, trim(stream_get_contents(STDIN)))), PHP_EOL;",
        arguments="<?php echo implode(PHP_EOL, array_slice($argv, 1)), PHP_EOL;",
        letters=f"<?php echo '{LETTERS}', PHP_EOL, fgets(STDIN);",
        # It has none; processes are what its programs use.
        threads="""
            <?php
            for ($n = 0; $n < 8; $n++) if (pcntl_fork() === 0) exit($n);
            for ($sum = 0; pcntl_wait($status) > 0;) $sum += pcntl_wexitstatus($status);
            echo $sum, PHP_EOL;
            """,
        endless="<?php for (;;);",
        waits="<?php echo 'now', PHP_EOL; sleep(60);",
    ),
    Row(
        "perl",
        hello='print "hello\\n";',
        error='die "boom";',
        broken='print "hello\\n',
        complains="main.pl line 1",
        exit_code=255,
        adds='my $sum = 0; $sum += $_ while <STDIN>; print "$sum\\n";',
        arguments='print "$_\\n" for @ARGV;',
        letters=f"print '{LETTERS}', \"\\n\", scalar <STDIN>;",
        threads="""
            use threads;
            my $sum = 0;
            $sum += $_->join for map { my $n = $_; threads->create(sub { $n }) } 0 .. 7;
            print "$sum\\n";
            """,
        endless="1 while 1;",
        waits='print "now\\n"; sleep 60;',
    ),
    Row(
        "lua",
        hello="print('hello')",
        error="error('boom')",
        broken="print('hello'",
        complains="main.lua:1",
        adds="local sum = 0; for n in io.lines() do sum = sum + tonumber(n) end; print(sum)",
        arguments="for _, word in ipairs(arg) do print(word) end",
        letters=f"print('{LETTERS}'); print(io.read())",
        threads="",
        endless="while true do end",
        waits="io.write('no', 'w\\n'); os.execute('sleep 60')",
    ),
    Row(
        "r",
        hello="cat('hello\\n')",
        error="stop('boom')",
        broken="cat('hello'",
        complains="unexpected end of input",
        adds="cat(sum(as.integer(readLines(file('stdin')))), '\\n', sep = '')",
        arguments="writeLines(commandArgs(TRUE))",
        letters=f"cat('{LETTERS}', readLines(file('stdin'), 1), sep = '\\n'); cat('\\n')",
        threads="cat(sum(unlist(parallel::mclapply(0:7, identity, mc.cores = 8))), '\\n', sep = '')",
        endless="repeat {}",
        waits="cat('no'); cat('w\\n'); Sys.sleep(60)",
    ),
    Row(
        "sql",
        hello="select 'hello';",
        error="select * from boom;",
        broken="selec 'hello';",
        complains="syntax error",
        numbers="select 3 + 4;",
        adds="",
        arguments="",
        given=("select 'a b';", "select '--x';", f"select '{LETTERS}';"),
        letters=f"select '{LETTERS}';",
        line=f"select '{LETTERS}';",
        threads="",
        endless="with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c;",
        waits="""
            select 'now';
            with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c;
            """,
    ),
)
