"""Programs for bash and Node.js."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.warmed.case import Case

__all__ = ["BASH", "JAVASCRIPT"]

BASH: Final[Mapping[str, Case]] = {
    "nothing": Case(""),
    "output": Case("echo one; echo two >&2; printf three"),
    "options": Case("echo $- $SHELLOPTS $BASHOPTS"),
    "arguments": Case('echo $# "$0" "$@"', args=("a", "b c", "")),
    "variables": Case("env; set | grep -v '^BASHPID\\|^RANDOM\\|^SRANDOM\\|^EPOCH\\|^SECONDS'"),
    "own variables": Case("echo $A; export -p", env={"A": "1", "PS1": "x"}),
    "processes": Case("echo $$ $PPID $BASHPID; ps 2>/dev/null | wc -l"),
    "counters": Case("echo $SHLVL $LINENO ${#FUNCNAME[@]} ${BASH_SOURCE[0]} $BASH_SUBSHELL"),
    "limits": Case("ulimit -a; ulimit -Ha; umask"),
    "traps": Case("trap; trap 'echo bye' EXIT; trap -p"),
    # Not SigQ: whether the end of grep's predecessor still waits to be noticed is chance.
    "signals": Case("ulimit -i; grep '^Sig[^Q]' /proc/self/status; grep Tracer /proc/$$/status"),
    "descriptors": Case('for fd in /proc/$$/fd/*; do echo "${fd##*/}"; done'),
    "files": Case("pwd; ls -la | awk '{print $1, $3, $4}'; stat -c %a main.sh"),
    "exit": Case("exit 3"),
    "exit of the last": Case("false"),
    "failure": Case("set -e; false; echo never"),
    "unset": Case("set -u; echo $undefined"),
    "syntax": Case("if then"),
    "no such command": Case("no-such-command; echo $?"),
    "no such file": Case("cat nothing; exit $?"),
    "not to be executed": Case("./main.sh; echo $?"),
    "kill": Case("kill -9 $$"),
    "terminate": Case("kill $$"),
    "terminate with a trap": Case("trap 'echo heard; exit 4' TERM; kill $$"),
    "pipe": Case("seq 1000 | tail -1 | tr 0 x"),
    "substitution": Case("echo $(echo inner) `echo old`; diff <(echo a) <(echo b)"),
    "here": Case("cat <<X\nhere $PWD\nX\ncat <<<word"),
    "functions": Case("f() { local x=$1; echo $x; return 5; }; f a; echo $?"),
    "arrays": Case(
        'a=(1 2 3); a[5]=6; echo "${a[@]}" ${!a[@]}; declare -A m=([x]=1); echo ${m[x]}'
    ),
    "arithmetic": Case("echo $((2 ** 40)) $((7 / 2)) $((1 << 3)); ((0)); echo $?"),
    "sourced": Case(". ./lib.sh; f", files={"lib.sh": b"f() { echo sourced $BASH_SOURCE; }"}),
    "profile": Case("echo main", files={".bashrc": b"echo never", ".profile": b"echo never"}),
    "environment file": Case(
        "echo main", files={"env.sh": b"echo first"}, env={"BASH_ENV": "env.sh"}
    ),
    "input": Case("read a b; echo $b $a; cat", stdin=b"1 2 3\nrest\n"),
    "no input": Case("read x; echo $? $x; cat"),
    "input that nobody reads": Case("echo done", stdin=b"x" * 100_000),
    "input of a child": Case("head -c 3; wc -c", stdin=b"x" * 10_000),
    "background": Case("sleep 0.05 & wait $!; echo $?; jobs"),
    "left behind": Case("(sleep 0.05; echo late) & echo first"),
    "time out": Case("timeout 0.1 sleep 9; echo $?"),
    "substituted output": Case("exec >&2; echo moved; exec 3>f; echo x >&3; cat f"),
    "closed output": Case("exec >&-; echo x; echo $? >&2"),
    "temporary": Case("mktemp -d | sed 's/tmp\\..*/tmp/'; ls /tmp | wc -l"),
    "much output": Case("seq 100000"),
    "much output in one": Case("head -c 300000 /dev/zero | tr '\\0' x"),
    "bytes": Case("printf '\\0\\377\\033[1m'"),
    "unicode": Case("x=žluť; echo ${#x} ${x:1:2} $'\\u4e2d'"),
    "few processes": Case(
        "for i in $(seq 20); do sleep 9 & done; kill $(jobs -p)", limits={"processes": 8}
    ),
    "much time": Case("while :; do :; done", limits={"cpu_time_s": 0.5}),
    "long wait": Case("echo waits; sleep 60", limits={"wall_time_s": 2.0}),
    "another interpreter": Case("exec python3 -c 'import sys; print(sys.argv, sys.path)' x"),
    "entry": Case("echo $0", entry="sub/run me.sh"),
}

JAVASCRIPT: Final[Mapping[str, Case]] = {
    "nothing": Case(""),
    "output": Case("console.log('one'); console.error('two'); process.stdout.write('three')"),
    "arguments": Case("console.log(process.argv, process.execArgv, process.argv0)", args=("a", "")),
    "variables": Case("console.log(process.env)", env={"A": "1"}),
    "options": Case(
        "console.log(process.env)", env={"NODE_OPTIONS": "--max-http-header-size=9000"}
    ),
    "process": Case(
        "console.log(process.pid, process.ppid, process.cwd(), process.title, process.umask())"
    ),
    "users": Case("console.log(process.getuid(), process.getgid(), process.getgroups())"),
    "versions": Case(
        "console.log(process.versions, process.release.name, process.config.variables.napi_build_version)"
    ),
    "main": Case(
        "console.log(require.main === module, module.id, module.paths, __filename, __dirname)"
    ),
    "globals": Case("console.log(Object.getOwnPropertyNames(globalThis).sort())"),
    "loaded": Case("console.log(process.moduleLoadList.length > 0, Object.keys(require.cache))"),
    "heap": Case("console.log(require('v8').getHeapStatistics().heap_size_limit)"),
    "stack": Case(
        "function f(n) { try { return f(n + 1) } catch { return n > 5000 } } console.log(f(0))"
    ),
    "system": Case(
        "const os = require('os'); console.log(os.hostname(), os.cpus().length, os.tmpdir(), os.homedir(), os.userInfo())"
    ),
    "status": Case(
        "console.log(require('fs').readFileSync('/proc/self/status', 'utf8').split('\\n').filter(l => /^(Sig|Tracer|Threads|Umask|Uid|Shd|NoNew|Seccomp)/.test(l)))"
    ),
    "threads": Case(
        "const fs = require('fs'); console.log(fs.readdirSync('/proc/self/task').map(t => fs.readFileSync(`/proc/self/task/${t}/status`, 'utf8').match(/TracerPid.*/)[0]))"
    ),
    "streams": Case(
        "console.log([0, 1, 2].map(n => require('tty').isatty(n)), process.stdin.constructor.name, process.stdout.constructor.name)"
    ),
    "handles": Case("console.log(process.getActiveResourcesInfo())"),
    "descriptors": Case(
        "const fs = require('fs'); console.log(fs.readdirSync('/proc/self/fd').map(n => { try { return n + fs.readlinkSync('/proc/self/fd/' + n).split(':')[0] } catch { return '' } }))"
    ),
    "exit": Case("process.exitCode = 3"),
    "exit at once": Case("process.exit(4)"),
    "exception": Case("throw new Error('wrong')"),
    "rejection": Case("Promise.reject(new Error('wrong'))"),
    "syntax": Case("let = ;"),
    "abort": Case("process.kill(process.pid, 'SIGKILL')"),
    "signal": Case(
        "process.on('SIGTERM', () => { console.log('heard'); process.exit(5) }); process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 1000)"
    ),
    "last": Case(
        "process.on('exit', c => console.log('exit', c)); process.on('beforeExit', () => console.log('before'))"
    ),
    "order": Case(
        "setTimeout(() => console.log(4)); setImmediate(() => console.log(5)); process.nextTick(() => console.log(2)); Promise.resolve().then(() => console.log(3)); console.log(1)"
    ),
    "sibling": Case(
        "console.log(require('./m').x, require('./d.json'))",
        files={"m.js": b"exports.x = 1", "d.json": b'{"a": 2}'},
    ),
    "packages": Case(
        "console.log(require('p'))", files={"node_modules/p/index.js": b"module.exports = 'p'"}
    ),
    "shadowed": Case(
        "console.log(typeof require('fs').readFileSync)",
        files={"fs.js": b"throw 1", "node_modules/fs/index.js": b"throw 2"},
    ),
    "modules": Case(
        "import fs from 'fs'; console.log(import.meta.url, typeof fs)",
        files={"package.json": b'{"type": "module"}'},
    ),
    "wrong package": Case("console.log(1)", files={"package.json": b"{"}),
    "input": Case(
        "process.stdin.on('data', d => console.log(d.length)).on('end', () => console.log('end'))",
        stdin=b"x" * 1000,
    ),
    "no input": Case(
        "process.stdin.on('data', d => console.log(d)).on('end', () => console.log('end'))"
    ),
    "input at once": Case("console.log(require('fs').readFileSync(0, 'utf8'))", stdin=b"given"),
    "child": Case(
        "console.log(require('child_process').execSync('echo hi; cat main.js | wc -c').toString())"
    ),
    "worker": Case(
        "const { Worker, isMainThread } = require('worker_threads'); if (isMainThread) new Worker(__filename).on('exit', c => console.log('gone', c)); else console.log('worker')"
    ),
    "work in the pool": Case(
        "require('crypto').pbkdf2('a', 'b', 1000, 16, 'sha256', (e, k) => console.log(k.toString('hex')))"
    ),
    "files": Case(
        "const fs = require('fs/promises'); (async () => { await fs.mkdir('d'); await fs.writeFile('d/f', 'x'); console.log(await fs.readdir('.', { recursive: true })) })()"
    ),
    "server": Case(
        "const n = require('net'); const s = n.createServer(c => c.end('x')).listen(0, '127.0.0.1', () => n.connect(s.address().port).on('data', d => { console.log(String(d)); s.close() }))"
    ),
    "evaluation": Case(
        "console.log(eval('1 + 1'), new Function('return 3')(), require('vm').runInNewContext('4'))"
    ),
    "locale": Case(
        "console.log(Intl.DateTimeFormat().resolvedOptions().locale, new Date(0).toString(), (1234.5).toLocaleString())"
    ),
    "web assembly": Case(
        "console.log(WebAssembly.validate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])))"
    ),
    "a child with messages": Case(
        "if (process.send) process.on('message', m => { process.send(m + 1); process.disconnect() }); else { const c = require('child_process').fork(__filename); c.send(4); c.on('message', m => console.log(m)).on('exit', (...e) => console.log(e)) }"
    ),
    "files that come later": Case(
        "const fs = require('fs'); const all = []; for (const n of ['./m', 'p']) try { require(n) } catch (e) { all.push(e.code) } fs.mkdirSync('node_modules/p', { recursive: true }); fs.writeFileSync('m.js', 'module.exports = 1'); fs.writeFileSync('node_modules/p/package.json', '{\"main\": \"../../m\"}'); console.log(all, require('./m'), require('p'))"
    ),
    "time from its first line on": Case(
        "const t = Date.now(); console.log(Math.abs(performance.timeOrigin + performance.now() - t) < 1000); setTimeout(() => console.log(Date.now() - t >= 49), 50)"
    ),
    "much output": Case("for (let n = 0; n < 20000; n++) console.log(n)"),
    "much memory": Case(
        "const x = []; for (;;) x.push(Buffer.alloc(1e7, 1))", limits={"memory_bytes": 256 * 2**20}
    ),
    "much time": Case("for (;;);", limits={"cpu_time_s": 1.0}),
    "long wait": Case(
        "console.log('waits'); setTimeout(() => {}, 60000)", limits={"wall_time_s": 3.0}
    ),
}
